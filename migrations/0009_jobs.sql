-- Jobs: sessions that the orchestrator takes the output of. Their row outlives them, their microVM and the orchestrator.
CREATE TABLE jobs (
    sandbox_id INTEGER NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    id         TEXT    NOT NULL,           -- 16 hexadecimal digits: the session's number in the guest
    label      TEXT    NOT NULL,
    terminal   INTEGER NOT NULL,
    stdin      INTEGER NOT NULL,
    asked_at   TEXT    NOT NULL,           -- all times: RFC 3339, UTC, microseconds
    is_begun   INTEGER NOT NULL DEFAULT 0, -- whether a guest has said that it has it
    ended_at   TEXT,
    how        TEXT,                       -- JSON, the end; NULL while it runs
    PRIMARY KEY (sandbox_id, id),
    CHECK ((ended_at IS NULL) = (how IS NULL))
) STRICT, WITHOUT ROWID;

-- No job outlives its microVM. What an orchestrator heard of their ends is on record before that of the sandbox; of the others
-- nobody will ever know.
CREATE TRIGGER jobs_end_with_sandbox AFTER UPDATE OF status ON sandboxes
WHEN NEW.status IN ('STOPPED', 'FAILED', 'BACKOFF', 'STARTING')
BEGIN
    UPDATE jobs SET ended_at = NEW.updated_at, how = '"gone"' WHERE sandbox_id = NEW.id AND ended_at IS NULL;
END;
