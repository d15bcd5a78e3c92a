-- What is in the store of images, as it was looked at last: an index for whoever reads this file. The store itself is
-- what counts, and every orchestrator writes this anew when it starts.
CREATE TABLE images (
    digest    TEXT PRIMARY KEY,   -- sha256:… of the configuration
    names     TEXT NOT NULL,      -- JSON array of complete names
    bytes     INTEGER NOT NULL CHECK (bytes >= 0),
    created   TEXT,               -- RFC 3339, if the image says so
    loaded    TEXT NOT NULL,
    last_used TEXT
) STRICT;
