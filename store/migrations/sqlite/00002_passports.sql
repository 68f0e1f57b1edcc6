-- +goose Up
-- The single use of each passport, and what was revoked. A row goes when the
-- passport itself has expired.
CREATE TABLE passports (
    tenant_id  TEXT    NOT NULL,
    jti        TEXT    NOT NULL,
    used_by    TEXT    NOT NULL DEFAULT '', -- event id
    revoked_at INTEGER NOT NULL DEFAULT 0,  -- microseconds; 0: not revoked
    reason     TEXT    NOT NULL DEFAULT '',
    expires_at INTEGER NOT NULL,            -- microseconds
    PRIMARY KEY (tenant_id, jti)
) WITHOUT ROWID;
CREATE INDEX passports_by_expiry ON passports (expires_at);
PRAGMA user_version = 2;
