-- +goose Up
-- What humans approved ahead: a shape of calls, so many, until a moment.
CREATE TABLE grants (
  id         TEXT PRIMARY KEY,
  tenant_id  TEXT NOT NULL,
  agent_id   TEXT NOT NULL,                 -- or '*'
  tool       TEXT NOT NULL,
  rule_hash  TEXT NOT NULL,
  max_uses   INTEGER NOT NULL CHECK (max_uses > 0),
  used       INTEGER NOT NULL DEFAULT 0,
  sum_max    INTEGER NOT NULL,
  summed     INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  revoked_at INTEGER NOT NULL DEFAULT 0,
  revoked_by TEXT NOT NULL DEFAULT '',
  shape      TEXT NOT NULL,                 -- JSON: what never changes
  -- The ceilings, kept by the database itself.
  CHECK (used BETWEEN 0 AND max_uses),
  CHECK (summed BETWEEN 0 AND sum_max)
) STRICT;
CREATE INDEX grants_by_time ON grants (tenant_id, created_at, id);
CREATE INDEX grants_live ON grants (tenant_id, tool, rule_hash, expires_at) WHERE revoked_at = 0 AND used < max_uses;

-- One row a use, so that a use is given back once and by its own event only.
CREATE TABLE grant_uses (
  grant_id TEXT NOT NULL REFERENCES grants (id),
  event_id TEXT NOT NULL,
  amount   INTEGER NOT NULL CHECK (amount >= 0),
  at       INTEGER NOT NULL,
  PRIMARY KEY (grant_id, event_id)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 7;

-- +goose Down
DROP TABLE grant_uses;
DROP TABLE grants;
PRAGMA user_version = 6;
