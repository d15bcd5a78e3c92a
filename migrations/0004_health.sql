-- What the health check of a sandbox last said. It is no transition; its changes are events.

ALTER TABLE sandboxes ADD COLUMN health TEXT; -- JSON; NULL without a check, and before its first answer

CREATE TRIGGER health_begins_anew AFTER INSERT ON transitions WHEN NEW.status = 'STARTING'
BEGIN
    UPDATE sandboxes SET health = NULL WHERE id = NEW.sandbox_id AND health IS NOT NULL;
END;

CREATE TRIGGER events_of_health AFTER UPDATE OF health ON sandboxes WHEN NEW.health IS NOT NULL AND NEW.health IS NOT OLD.health
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    VALUES (strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z', NEW.config_file, NEW.name, 'health_changed', NEW.health);
END;
