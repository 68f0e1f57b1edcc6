-- +goose Up
-- The passports that were issued, without their tokens, and when each was used. A
-- row goes with its use and its revocation, a week after the passport's end.
CREATE TABLE issued_passports (
  tenant_id   TEXT NOT NULL,
  jti         TEXT NOT NULL,
  agent_id    TEXT NOT NULL,
  approval_id TEXT NOT NULL,                 -- whose single use it shares; '' for none
  issued_at   INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  claims      TEXT NOT NULL,                 -- JSON: what never changes
  PRIMARY KEY (tenant_id, jti)
) STRICT;
CREATE INDEX issued_by_time ON issued_passports (tenant_id, issued_at, jti);
CREATE INDEX issued_by_agent ON issued_passports (tenant_id, agent_id, issued_at, jti);
CREATE INDEX issued_by_expiry ON issued_passports (expires_at);
-- 0 where an older program claimed it.
ALTER TABLE passports ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 11;

-- +goose Down
ALTER TABLE passports DROP COLUMN used_at;
DROP TABLE issued_passports;
PRAGMA user_version = 10;
