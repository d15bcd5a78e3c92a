-- What the restart policy needs to decide, or to decide again after our own death: everything is in
-- the row, so that a decision that was not carried out is made again by the next orchestrator.

ALTER TABLE sandboxes ADD COLUMN stopped_by TEXT CHECK (stopped_by IN ('request', 'shutdown')); -- of this start
ALTER TABLE sandboxes ADD COLUMN restarts_in_a_row INTEGER NOT NULL DEFAULT 0; -- since the last healthy run
ALTER TABLE sandboxes ADD COLUMN boot_id TEXT; -- of the host, at the latest transition

ALTER TABLE transitions ADD COLUMN stopped_by TEXT;
ALTER TABLE transitions ADD COLUMN restarts_in_a_row INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transitions ADD COLUMN boot_id TEXT;

-- Decided under the older schema, where nothing said why: these stay as they are.
UPDATE sandboxes SET stopped_by = 'request' WHERE status IN ('STOPPED', 'FAILED');

DROP TRIGGER transitions_project;
CREATE TRIGGER transitions_project AFTER INSERT ON transitions
BEGIN
    UPDATE sandboxes SET
        status            = NEW.status,
        state             = NEW.state,
        seq               = NEW.seq,
        generation        = NEW.generation,
        exit_code         = NEW.exit_code,
        exit_signal       = NEW.exit_signal,
        failure_reason    = NEW.failure_reason,
        microvm_pid       = NEW.microvm_pid,
        supervisor_pid    = NEW.supervisor_pid,
        driver            = NEW.driver,
        restarts          = NEW.restarts,
        stopped_by        = NEW.stopped_by,
        restarts_in_a_row = NEW.restarts_in_a_row,
        boot_id           = NEW.boot_id,
        started_at = CASE NEW.status WHEN 'STARTING' THEN NULL WHEN 'RUNNING' THEN NEW.at ELSE started_at END,
        -- A stop that is asked for after the end changes nothing but who asked for it.
        ended_at   = CASE WHEN NEW.status = 'STARTING' THEN NULL
                          WHEN NEW.status IN ('STOPPED', 'FAILED') AND NEW.status <> status THEN NEW.at
                          ELSE ended_at END,
        updated_at = NEW.at
    WHERE id = NEW.sandbox_id AND seq < NEW.seq;
END;
