-- Sandboxes and their history. A sandbox's row is a projection of its transitions: one insert into
-- `transitions` updates it by trigger, so that both are always durable together.

CREATE TABLE sandboxes (
    id                   INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again after a removal
    config_file          TEXT    NOT NULL,
    name                 TEXT    NOT NULL,
    config_last_modified TEXT,
    status               TEXT    NOT NULL DEFAULT 'CREATED'
        CHECK (status IN ('CREATED', 'STARTING', 'RUNNING', 'STOPPING', 'STOPPED', 'FAILED', 'BACKOFF')),
    supervisor_pid       INTEGER NOT NULL,
    microvm_pid          INTEGER,
    rootfs_paths         TEXT    NOT NULL, -- native:PATH or overlayfs:A:B; \ before : and \ in a path
    driver               TEXT,
    exit_code            INTEGER,
    exit_signal          INTEGER,
    failure_reason       TEXT,
    restarts             INTEGER NOT NULL DEFAULT 0,
    generation           INTEGER NOT NULL DEFAULT 0, -- counts the starts
    seq                  INTEGER NOT NULL DEFAULT 0, -- of the latest transition
    state                TEXT    NOT NULL,           -- JSON, everything `status` leaves out
    spec                 TEXT    NOT NULL,           -- JSON
    created_at           TEXT    NOT NULL,           -- all times: RFC 3339, UTC, microseconds
    started_at           TEXT,
    ended_at             TEXT,
    updated_at           TEXT    NOT NULL,
    UNIQUE (config_file, name)
) STRICT;

CREATE TABLE transitions (
    sandbox_id     INTEGER NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    seq            INTEGER NOT NULL, -- 1, 2, 3 … for each sandbox
    generation     INTEGER NOT NULL,
    event          TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    state          TEXT    NOT NULL, -- JSON
    exit_code      INTEGER,
    exit_signal    INTEGER,
    failure_reason TEXT,
    at             TEXT    NOT NULL,
    microvm_pid    INTEGER,
    supervisor_pid INTEGER NOT NULL,
    driver         TEXT,
    restarts       INTEGER NOT NULL,
    PRIMARY KEY (sandbox_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER transitions_project AFTER INSERT ON transitions
BEGIN
    UPDATE sandboxes SET
        status         = NEW.status,
        state          = NEW.state,
        seq            = NEW.seq,
        generation     = NEW.generation,
        exit_code      = NEW.exit_code,
        exit_signal    = NEW.exit_signal,
        failure_reason = NEW.failure_reason,
        microvm_pid    = NEW.microvm_pid,
        supervisor_pid = NEW.supervisor_pid,
        driver         = NEW.driver,
        restarts       = NEW.restarts,
        started_at     = CASE NEW.status WHEN 'STARTING' THEN NULL WHEN 'RUNNING' THEN NEW.at ELSE started_at END,
        ended_at       = CASE NEW.status WHEN 'STARTING' THEN NULL WHEN 'STOPPED' THEN NEW.at
                                         WHEN 'FAILED' THEN NEW.at ELSE ended_at END,
        updated_at     = NEW.at
    WHERE id = NEW.sandbox_id AND seq < NEW.seq;
END;

CREATE TRIGGER transitions_no_update BEFORE UPDATE ON transitions
BEGIN
    SELECT RAISE(ABORT, 'the history is append-only');
END;

CREATE TRIGGER transitions_no_delete BEFORE DELETE ON transitions
WHEN EXISTS (SELECT 1 FROM sandboxes WHERE id = OLD.sandbox_id)
BEGIN
    SELECT RAISE(ABORT, 'the history is append-only');
END;
