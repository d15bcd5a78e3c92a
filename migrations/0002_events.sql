-- Everything that happened, in one order: each transition of each sandbox, and what is told of the
-- orchestrator itself. Written by triggers in the statement that makes the thing true, so that none
-- can be missing; a rolled back number is used again, so that there is no gap. Kept after the sandbox
-- is removed: nothing here refers to its row.

CREATE TABLE events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT, -- 1, 2, 3 … for the whole state directory
    at          TEXT NOT NULL,                     -- RFC 3339, UTC, microseconds
    config_file TEXT,                              -- both NULL: not of one sandbox
    name        TEXT,
    kind        TEXT NOT NULL,
    detail      TEXT NOT NULL                      -- JSON object
) STRICT;

CREATE INDEX events_of_sandbox ON events (config_file, name, seq) WHERE name IS NOT NULL;

CREATE TRIGGER events_of_transitions AFTER INSERT ON transitions
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    SELECT NEW.at, config_file, name, 'transition',
           json_object('transition', NEW.seq, 'generation', NEW.generation, 'event', NEW.event,
                       'state', json(NEW.state), 'reason', NEW.failure_reason, 'microvm_pid', NEW.microvm_pid,
                       'driver', NEW.driver, 'restarts', NEW.restarts)
    FROM sandboxes WHERE id = NEW.sandbox_id;
END;

CREATE TRIGGER events_of_removals AFTER DELETE ON sandboxes
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    VALUES (strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z', OLD.config_file, OLD.name, 'removed',
            json_object('generation', OLD.generation));
END;

-- The oldest go: EVENTS_KEPT in the code is the same number.
CREATE TRIGGER events_are_bounded AFTER INSERT ON events
BEGIN
    DELETE FROM events WHERE seq <= NEW.seq - 100000;
END;

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

CREATE TRIGGER events_no_delete BEFORE DELETE ON events
WHEN OLD.seq > (SELECT max(seq) FROM events) - 100000
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

-- What happened before there was this table.
INSERT INTO events (at, config_file, name, kind, detail)
SELECT at, config_file, name, 'transition',
       json_object('transition', transitions.seq, 'generation', transitions.generation, 'event', event,
                   'state', json(transitions.state), 'reason', transitions.failure_reason,
                   'microvm_pid', transitions.microvm_pid, 'driver', transitions.driver,
                   'restarts', transitions.restarts)
FROM transitions JOIN sandboxes ON sandboxes.id = sandbox_id
ORDER BY at, sandbox_id, transitions.seq;
