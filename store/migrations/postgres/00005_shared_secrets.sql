-- +goose Up
-- Secrets that all sidecars need, sealed by them with a key that is not here.
CREATE TABLE shared_secrets (
  name    TEXT COLLATE "C" PRIMARY KEY,
  sealed  BYTEA NOT NULL,
  version BIGINT NOT NULL                      -- grows with each change, from 1
);

-- +goose Down
DROP TABLE shared_secrets;
