-- +goose Up
-- The logs of the sidecars that ship theirs here. origin is the name that a log's key
-- bears, next the position up to which its records are in evidence_batches.
CREATE TABLE evidence_logs (
  origin     TEXT COLLATE "C" PRIMARY KEY,
  public_key TEXT COLLATE "C" NOT NULL,        -- verifier key of its checkpoints, note format
  source     TEXT NOT NULL,                    -- what the sidecar's machine is called
  next       BIGINT NOT NULL DEFAULT 0,
  checkpoint TEXT NOT NULL DEFAULT '',         -- signed, of a size not above next
  shipped_at BIGINT NOT NULL DEFAULT 0
);

-- Records that follow each other in one log. seq numbers the records of all logs, in
-- the order in which batches were committed; batch by batch it has no gap.
CREATE TABLE evidence_batches (
  seq     BIGINT PRIMARY KEY,                  -- of the first record
  records BIGINT NOT NULL CHECK (records > 0),
  origin  TEXT COLLATE "C" NOT NULL REFERENCES evidence_logs (origin),
  first   BIGINT NOT NULL,                     -- position of the first record in its log
  content BYTEA NOT NULL,                      -- DEFLATE of each record after its length (uvarint)
  UNIQUE (origin, first)
);

-- The next seq. Whoever moves it holds its row until the commit: batches become
-- visible in the order of their numbers.
CREATE TABLE evidence_head (
  id   BIGINT PRIMARY KEY CHECK (id = 1),
  seq  BIGINT NOT NULL,
  name TEXT NOT NULL                           -- tells two databases apart
);
INSERT INTO evidence_head VALUES (1, 0, gen_random_uuid()::text);

-- +goose Down
DROP TABLE evidence_head, evidence_batches, evidence_logs;
