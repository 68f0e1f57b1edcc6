-- +goose Up
-- Stricter modes that were set while running, for a part of a tenant's traffic.
CREATE TABLE mode_overrides (
  id         TEXT PRIMARY KEY,
  tenant_id  TEXT NOT NULL,
  tool       TEXT NOT NULL,                 -- glob, '' for every tool
  agent_id   TEXT NOT NULL,                 -- glob, '' for every agent
  mode       TEXT NOT NULL CHECK (mode IN ('warn', 'enforce', 'strict')),
  reason     TEXT NOT NULL,
  key_id     TEXT NOT NULL,
  key_name   TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  cleared_at INTEGER NOT NULL DEFAULT 0,
  cleared_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX mode_overrides_live ON mode_overrides (created_at, id) WHERE cleared_at = 0;

PRAGMA user_version = 8;

-- +goose Down
DROP TABLE mode_overrides;
PRAGMA user_version = 7;
