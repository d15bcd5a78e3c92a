-- A rename is durable before the files have their new names: what a crash leaves is finished by the next orchestrator.
ALTER TABLE sandboxes ADD COLUMN renamed_from TEXT; -- CONFIG/NAME, until the files have moved

CREATE TRIGGER events_of_renames AFTER UPDATE OF name, config_file ON sandboxes
WHEN NEW.name <> OLD.name OR NEW.config_file <> OLD.config_file
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    VALUES (NEW.updated_at, OLD.config_file, OLD.name, 'renamed',
            json_object('to', NEW.config_file || '/' || NEW.name));
END;
