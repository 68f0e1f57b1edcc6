-- +goose Up

-- seen is the time of the key's last reservation, as its caller told it. since +
-- span was that too, as long as every window slid.
ALTER TABLE limit_sums ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
UPDATE limit_sums SET seen = since + span;

PRAGMA user_version = 5;

-- +goose Down
ALTER TABLE limit_sums DROP COLUMN seen;
PRAGMA user_version = 4;
