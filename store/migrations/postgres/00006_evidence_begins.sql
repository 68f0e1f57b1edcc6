-- +goose Up
-- Where the copy of a log begins, once the oldest of it was removed, and the right
-- edge of the tree over what was: with it the rest is proved as before.
ALTER TABLE evidence_logs ADD COLUMN begins BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evidence_logs ADD COLUMN edge BYTEA NOT NULL DEFAULT '';

-- When a batch came, by the database's clock; for those of before, when this ran.
-- Programs of the version before leave it to the default.
ALTER TABLE evidence_batches ADD COLUMN shipped_at BIGINT NOT NULL DEFAULT (extract(epoch FROM now()) * 1000000)::bigint;

-- +goose Down
ALTER TABLE evidence_batches DROP COLUMN shipped_at;
ALTER TABLE evidence_logs DROP COLUMN edge, DROP COLUMN begins;
