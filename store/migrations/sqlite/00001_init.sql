-- Times are microseconds since 1970 UTC; 0 means never. Lists and documents
-- that nothing searches are JSON.

-- +goose Up
CREATE TABLE keys (
  id           TEXT PRIMARY KEY,
  hash         BLOB NOT NULL UNIQUE,           -- SHA-256 of the secret
  tenant_id    TEXT NOT NULL,
  name         TEXT NOT NULL,
  role         TEXT NOT NULL,
  agent_id     TEXT NOT NULL,
  groups       TEXT NOT NULL,                  -- JSON
  mode         TEXT NOT NULL,
  prefix       TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL,
  revoked_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_time ON keys (tenant_id, created_at, id);

CREATE TABLE approvals (
  id          TEXT PRIMARY KEY,
  tenant_id   TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  agent_id    TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'cancelled', 'consumed')),
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  due_at      INTEGER NOT NULL,                -- of the state it is in; 0 when closed
  decided_at  INTEGER NOT NULL,
  use_before  INTEGER NOT NULL,
  approvers   TEXT NOT NULL,                   -- JSON
  votes       TEXT NOT NULL,                   -- JSON
  consumed_by TEXT NOT NULL,
  question    TEXT NOT NULL                    -- JSON: what never changes after opening
) STRICT;
-- The rule that one question is put to people once, kept by the database itself.
CREATE UNIQUE INDEX approvals_open ON approvals (tenant_id, fingerprint) WHERE state IN ('pending', 'approved');
CREATE INDEX approvals_due ON approvals (due_at) WHERE state IN ('pending', 'approved');
CREATE INDEX approvals_pending ON approvals (tenant_id) WHERE state = 'pending';
CREATE INDEX approvals_by_fingerprint ON approvals (tenant_id, fingerprint, created_at, id);
CREATE INDEX approvals_by_time ON approvals (tenant_id, created_at, id);

-- The outbox: moves whose evidence may not be in the ledger yet.
CREATE TABLE transitions (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  approval_id TEXT NOT NULL REFERENCES approvals (id),
  tenant_id   TEXT NOT NULL,
  from_state  TEXT NOT NULL,
  to_state    TEXT NOT NULL,
  actor       TEXT NOT NULL,
  reason      TEXT NOT NULL,
  at          INTEGER NOT NULL,
  recorded    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX transitions_unrecorded ON transitions (id) WHERE recorded = 0;

CREATE TABLE limit_uses (
  id        INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  limit_key TEXT NOT NULL,                     -- name of the limit and values of its key
  event_id  TEXT NOT NULL,
  amount    INTEGER NOT NULL CHECK (amount >= 0),
  at        INTEGER NOT NULL
) STRICT;
CREATE INDEX limit_uses_by_key ON limit_uses (tenant_id, limit_key, at, amount);
CREATE INDEX limit_uses_by_event ON limit_uses (tenant_id, event_id);

-- total is the sum of the uses with at > since, so that a reservation costs the
-- uses that left the window since the last one, and not the whole window.
CREATE TABLE limit_sums (
  tenant_id TEXT NOT NULL,
  limit_key TEXT NOT NULL,
  span      INTEGER NOT NULL,                  -- of the window, microseconds
  since     INTEGER NOT NULL,
  total     INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, limit_key)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
