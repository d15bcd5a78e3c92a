-- A start by request begins with an empty disk, unless it is the same sandbox's that goes on: a microVM that is made
-- for it later, by another orchestrator perhaps, has to know.
ALTER TABLE sandboxes ADD COLUMN keeps_disk INTEGER NOT NULL DEFAULT 0 CHECK (keeps_disk IN (0, 1));
