-- What is kept of the past has bounds, whatever a guest does: of each sandbox the latest starts and events, and the
-- orchestrator's own events apart. STARTS_KEPT, EVENTS_KEPT, EVENTS_KEPT_OF_SANDBOX and OWN_EVENTS_KEPT in the code
-- are the same numbers.

-- Whole starts go, oldest first, when another one begins: at most four, so that a history of before costs no start
-- much. The database actor drops the rest of such a one beside its work.
CREATE TRIGGER transitions_are_bounded AFTER UPDATE OF generation ON sandboxes WHEN NEW.generation > OLD.generation
BEGIN
    DELETE FROM transitions
    WHERE sandbox_id = NEW.id
      AND seq < (SELECT seq FROM transitions
                 WHERE sandbox_id = NEW.id
                   AND (generation > NEW.generation - 100
                        OR generation >= 4 + (SELECT generation FROM transitions WHERE sandbox_id = NEW.id ORDER BY seq LIMIT 1))
                 ORDER BY seq LIMIT 1);
END;

DROP TRIGGER transitions_no_delete;
CREATE TRIGGER transitions_no_delete BEFORE DELETE ON transitions
WHEN OLD.generation > (SELECT generation FROM sandboxes WHERE id = OLD.sandbox_id) - 100
BEGIN
    SELECT RAISE(ABORT, 'the history is append-only');
END;

DROP TRIGGER events_are_bounded;
DROP TRIGGER events_no_delete;

CREATE INDEX events_of_own ON events (seq) WHERE name IS NULL;

CREATE TABLE event_counts (
    scope TEXT    PRIMARY KEY,        -- CONFIG/NAME; 'own': of no sandbox; 'sandboxes': of all sandboxes together
    kept  INTEGER NOT NULL,
    gone  INTEGER NOT NULL DEFAULT 0  -- number of the latest one that went; for 'sandboxes', since there were too many of all
) STRICT, WITHOUT ROWID;

INSERT INTO event_counts (scope, kept, gone)
SELECT coalesce(config_file || '/' || name, 'own'),
       min(count(*), iif(name IS NULL, 10000, 1000)),
       coalesce(max(seq) FILTER (WHERE nth > iif(name IS NULL, 10000, 1000)), 0)
FROM (SELECT seq, config_file, name, row_number() OVER (PARTITION BY config_file, name ORDER BY seq DESC) AS nth FROM events)
GROUP BY config_file, name;

INSERT INTO event_counts (scope, kept, gone)
SELECT 'sandboxes', coalesce(sum(kept), 0), coalesce((SELECT min(seq) FROM events) - 1, 0)
FROM event_counts WHERE scope <> 'own';

DELETE FROM events WHERE seq IN (
    SELECT seq
    FROM (SELECT seq, name, row_number() OVER (PARTITION BY config_file, name ORDER BY seq DESC) AS nth FROM events)
    WHERE nth > iif(name IS NULL, 10000, 1000));

CREATE TRIGGER events_are_bounded AFTER INSERT ON events WHEN NEW.name IS NOT NULL
BEGIN
    INSERT INTO event_counts (scope, kept) VALUES (NEW.config_file || '/' || NEW.name, 1)
        ON CONFLICT (scope) DO UPDATE SET kept = kept + 1;
    UPDATE event_counts SET kept = kept + 1 WHERE scope = 'sandboxes';
    DELETE FROM events
    WHERE (SELECT kept FROM event_counts WHERE scope = NEW.config_file || '/' || NEW.name) > 1000
      AND seq = (SELECT min(seq) FROM events WHERE config_file = NEW.config_file AND name = NEW.name);
    UPDATE event_counts
    SET gone = (SELECT seq FROM events WHERE name IS NOT NULL AND seq > event_counts.gone ORDER BY seq LIMIT 1)
    WHERE scope = 'sandboxes' AND kept > 100000;
    DELETE FROM events WHERE seq = (SELECT gone FROM event_counts WHERE scope = 'sandboxes' AND kept > 100000);
END;

CREATE TRIGGER own_events_are_bounded AFTER INSERT ON events WHEN NEW.name IS NULL
BEGIN
    INSERT INTO event_counts (scope, kept) VALUES ('own', 1) ON CONFLICT (scope) DO UPDATE SET kept = kept + 1;
    DELETE FROM events
    WHERE (SELECT kept FROM event_counts WHERE scope = 'own') > 10000
      AND seq = (SELECT min(seq) FROM events WHERE name IS NULL);
END;

-- Only within the statement that adds one too many.
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
WHEN (SELECT kept FROM event_counts WHERE scope = coalesce(OLD.config_file || '/' || OLD.name, 'own'))
         <= iif(OLD.name IS NULL, 10000, 1000)
     AND (OLD.name IS NULL OR (SELECT kept FROM event_counts WHERE scope = 'sandboxes') <= 100000)
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

CREATE TRIGGER events_are_counted AFTER DELETE ON events
BEGIN
    UPDATE event_counts SET kept = kept - 1, gone = OLD.seq
    WHERE scope = coalesce(OLD.config_file || '/' || OLD.name, 'own');
    UPDATE event_counts SET kept = kept - 1 WHERE scope = 'sandboxes' AND OLD.name IS NOT NULL;
    DELETE FROM event_counts WHERE scope = OLD.config_file || '/' || OLD.name AND kept = 0;
END;

-- Another word of a health check is an event, another count or output with the same word is none.
DROP TRIGGER events_of_health;
CREATE TRIGGER events_of_health AFTER UPDATE OF health ON sandboxes
WHEN NEW.health IS NOT NULL AND NEW.health ->> 'status' IS NOT OLD.health ->> 'status'
BEGIN
    INSERT INTO events (at, config_file, name, kind, detail)
    VALUES (strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z', NEW.config_file, NEW.name, 'health_changed', NEW.health);
END;
