-- +goose Up
-- The sealed upstream answer of a consumed approval, for retries of the same
-- call. The key that opens it is not in the database.
CREATE TABLE answers (
    tenant_id   TEXT    NOT NULL,
    approval_id TEXT    NOT NULL,
    sealed      BLOB    NOT NULL,
    expires_at  INTEGER NOT NULL, -- microseconds
    PRIMARY KEY (tenant_id, approval_id)
) WITHOUT ROWID;
CREATE INDEX answers_by_expiry ON answers (expires_at);
PRAGMA user_version = 3;
