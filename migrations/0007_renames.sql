-- A rename is known before anything has the new name, and until nothing has the old one: what a crash leaves is cleared
-- away by the next orchestrator.
ALTER TABLE sandboxes ADD COLUMN renaming_to TEXT;  -- CONFIG/NAME: its files may have this name too
ALTER TABLE sandboxes ADD COLUMN renamed_from TEXT; -- CONFIG/NAME: its files may still have this name too

-- Each start looks whether its name is another one's of these; hardly ever is there one.
CREATE INDEX sandboxes_renaming_to ON sandboxes (renaming_to) WHERE renaming_to IS NOT NULL;
CREATE INDEX sandboxes_renamed_from ON sandboxes (renamed_from) WHERE renamed_from IS NOT NULL;

-- Under both names, so that whoever follows one of them hears of it; what is asked of the latest start goes along.
CREATE TRIGGER events_of_renames AFTER UPDATE OF name, config_file ON sandboxes
WHEN NEW.name <> OLD.name OR NEW.config_file <> OLD.config_file
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    VALUES (NEW.updated_at, OLD.config_file, OLD.name, 'renamed',
            json_object('from', OLD.config_file || '/' || OLD.name, 'to', NEW.config_file || '/' || NEW.name)),
           (NEW.updated_at, NEW.config_file, NEW.name, 'renamed',
            json_object('from', OLD.config_file || '/' || OLD.name, 'to', NEW.config_file || '/' || NEW.name));
    INSERT INTO events (at, config_file, name, kind, detail)
    SELECT at, NEW.config_file, NEW.name, kind, detail FROM events
    WHERE config_file = OLD.config_file AND name = OLD.name AND kind = 'out_of_memory'
          AND json_extract(detail, '$.generation') = NEW.generation
          AND seq > coalesce((SELECT max(seq) FROM events
                              WHERE config_file = OLD.config_file AND name = OLD.name AND kind = 'removed'), 0)
    ORDER BY seq DESC LIMIT 1;
END;
