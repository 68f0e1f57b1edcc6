-- Times are microseconds since 1970 UTC; 0 means never. Lists and documents that
-- nothing searches are JSON. Text sorts by its bytes (COLLATE "C"), whatever the
-- database's own order is, as pages and ranges of keys need it.

-- +goose Up
-- The oldest program (by the schema version that it knows) which may still work on
-- this schema. A migration that an older program could not live with raises it.
CREATE TABLE schema_floor (oldest INTEGER NOT NULL);
INSERT INTO schema_floor VALUES (1);

CREATE TABLE keys (
  id           TEXT COLLATE "C" PRIMARY KEY,
  hash         BYTEA NOT NULL UNIQUE,          -- SHA-256 of the secret
  tenant_id    TEXT COLLATE "C" NOT NULL,
  name         TEXT NOT NULL,
  role         TEXT NOT NULL,
  agent_id     TEXT NOT NULL,
  groups       TEXT NOT NULL,                  -- JSON
  mode         TEXT NOT NULL,
  prefix       TEXT NOT NULL,
  created_at   BIGINT NOT NULL,
  expires_at   BIGINT NOT NULL,
  last_used_at BIGINT NOT NULL,
  revoked_at   BIGINT NOT NULL,
  ceiling      TEXT NOT NULL DEFAULT ''        -- JSON, '' for none
);
CREATE INDEX keys_by_time ON keys (tenant_id, created_at, id);

CREATE TABLE approvals (
  id          TEXT COLLATE "C" PRIMARY KEY,
  tenant_id   TEXT COLLATE "C" NOT NULL,
  fingerprint TEXT COLLATE "C" NOT NULL,
  agent_id    TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'cancelled', 'consumed')),
  created_at  BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  due_at      BIGINT NOT NULL,                 -- of the state it is in; 0 when closed
  decided_at  BIGINT NOT NULL,
  use_before  BIGINT NOT NULL,
  approvers   TEXT NOT NULL,                   -- JSON
  votes       TEXT NOT NULL,                   -- JSON
  consumed_by TEXT NOT NULL,
  question    TEXT NOT NULL                    -- JSON: what never changes after opening
);
-- The rule that one question is put to people once, kept by the database itself.
CREATE UNIQUE INDEX approvals_open ON approvals (tenant_id, fingerprint) WHERE state IN ('pending', 'approved');
CREATE INDEX approvals_due ON approvals (due_at) WHERE state IN ('pending', 'approved');
CREATE INDEX approvals_pending ON approvals (tenant_id) WHERE state = 'pending';
CREATE INDEX approvals_by_fingerprint ON approvals (tenant_id, fingerprint, created_at, id);
CREATE INDEX approvals_by_time ON approvals (tenant_id, created_at, id);

-- How many approvals are pending, kept beside each move to and from there, so that
-- opening one costs the same beside ten and beside ten thousand.
CREATE TABLE pending_counts (
  tenant_id TEXT COLLATE "C" NOT NULL,
  scope     TEXT NOT NULL CHECK (scope IN ('tenant', 'agent')),
  name      TEXT NOT NULL,                     -- of the agent; '' for the tenant
  pending   BIGINT NOT NULL CHECK (pending >= 0), -- a miscount stops the move
  PRIMARY KEY (tenant_id, scope, name)
);

-- The outbox: moves whose evidence may not be in a ledger yet. Who reads a row to
-- record it has it for a while, so that one move is recorded by one sidecar.
CREATE TABLE transitions (
  id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  approval_id TEXT COLLATE "C" NOT NULL REFERENCES approvals (id),
  tenant_id   TEXT COLLATE "C" NOT NULL,
  from_state  TEXT NOT NULL,
  to_state    TEXT NOT NULL,
  actor       TEXT NOT NULL,
  reason      TEXT NOT NULL,
  at          BIGINT NOT NULL,
  recorded    INTEGER NOT NULL DEFAULT 0,
  taken_by    TEXT NOT NULL DEFAULT '',
  taken_until BIGINT NOT NULL DEFAULT 0        -- by the database's clock
);
CREATE INDEX transitions_unrecorded ON transitions (id) WHERE recorded = 0;

CREATE TABLE limit_uses (
  id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id TEXT COLLATE "C" NOT NULL,
  limit_key TEXT COLLATE "C" NOT NULL,         -- name of the limit and values of its key
  event_id  TEXT COLLATE "C" NOT NULL,
  amount    BIGINT NOT NULL CHECK (amount >= 0),
  at        BIGINT NOT NULL,
  owner     TEXT COLLATE "C" NOT NULL          -- the sidecar that took it
);
CREATE INDEX limit_uses_by_key ON limit_uses (tenant_id, limit_key, at, amount);
CREATE INDEX limit_uses_by_event ON limit_uses (tenant_id, event_id);
CREATE INDEX limit_uses_by_owner ON limit_uses (owner, id);

-- total is the sum of the uses with at > since, so that a reservation costs the
-- uses that left the window since the last one, and not the whole window.
CREATE TABLE limit_sums (
  tenant_id TEXT COLLATE "C" NOT NULL,
  limit_key TEXT COLLATE "C" NOT NULL,
  span      BIGINT NOT NULL,                   -- of the window, microseconds
  since     BIGINT NOT NULL,
  seen      BIGINT NOT NULL,                   -- time of the key's last reservation
  total     BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, limit_key)
);

-- The single use of each passport, and what was revoked. A row goes when the
-- passport itself has expired.
CREATE TABLE passports (
  tenant_id  TEXT COLLATE "C" NOT NULL,
  jti        TEXT COLLATE "C" NOT NULL,
  used_by    TEXT NOT NULL DEFAULT '',         -- event id
  revoked_at BIGINT NOT NULL DEFAULT 0,
  reason     TEXT NOT NULL DEFAULT '',
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, jti)
);
CREATE INDEX passports_by_expiry ON passports (expires_at);

-- The sealed upstream answer of a consumed approval, for retries of the same
-- call. The key that opens it is not in the database.
CREATE TABLE answers (
  tenant_id   TEXT COLLATE "C" NOT NULL,
  approval_id TEXT COLLATE "C" NOT NULL,
  sealed      BYTEA NOT NULL,
  expires_at  BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, approval_id)
);
CREATE INDEX answers_by_expiry ON answers (expires_at);

-- What humans approved ahead: a shape of calls, so many, until a moment.
CREATE TABLE grants (
  id         TEXT COLLATE "C" PRIMARY KEY,
  tenant_id  TEXT COLLATE "C" NOT NULL,
  agent_id   TEXT NOT NULL,                    -- or '*'
  tool       TEXT NOT NULL,
  rule_hash  TEXT NOT NULL,
  max_uses   BIGINT NOT NULL CHECK (max_uses > 0),
  used       BIGINT NOT NULL DEFAULT 0,
  sum_max    BIGINT NOT NULL,
  summed     BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  revoked_at BIGINT NOT NULL DEFAULT 0,
  revoked_by TEXT NOT NULL DEFAULT '',
  shape      TEXT NOT NULL,                    -- JSON: what never changes
  -- The ceilings, kept by the database itself.
  CHECK (used BETWEEN 0 AND max_uses),
  CHECK (summed BETWEEN 0 AND sum_max)
);
CREATE INDEX grants_by_time ON grants (tenant_id, created_at, id);
CREATE INDEX grants_live ON grants (tenant_id, tool, rule_hash, expires_at) WHERE revoked_at = 0 AND used < max_uses;

-- One row a use, so that a use is given back once and by its own event only.
CREATE TABLE grant_uses (
  grant_id TEXT COLLATE "C" NOT NULL REFERENCES grants (id),
  event_id TEXT COLLATE "C" NOT NULL,
  amount   BIGINT NOT NULL CHECK (amount >= 0),
  at       BIGINT NOT NULL,
  PRIMARY KEY (grant_id, event_id)
);

-- Stricter modes that were set while running, for a part of a tenant's traffic.
CREATE TABLE mode_overrides (
  id         TEXT COLLATE "C" PRIMARY KEY,
  tenant_id  TEXT COLLATE "C" NOT NULL,
  tool       TEXT NOT NULL,                    -- glob, '' for every tool
  agent_id   TEXT NOT NULL,                    -- glob, '' for every agent
  mode       TEXT NOT NULL CHECK (mode IN ('warn', 'enforce', 'strict')),
  reason     TEXT NOT NULL,
  key_id     TEXT NOT NULL,
  key_name   TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  cleared_at BIGINT NOT NULL DEFAULT 0,
  cleared_by TEXT NOT NULL DEFAULT ''
);
CREATE INDEX mode_overrides_live ON mode_overrides (created_at, id) WHERE cleared_at = 0;

-- +goose Down
DROP TABLE mode_overrides, grant_uses, grants, answers, passports, limit_sums, limit_uses, transitions, pending_counts, approvals, keys, schema_floor;
