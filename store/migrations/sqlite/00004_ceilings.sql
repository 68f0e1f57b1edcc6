-- +goose Up
-- What a key that is not admin's may issue passports for.
ALTER TABLE keys ADD COLUMN ceiling TEXT NOT NULL DEFAULT ''; -- JSON, '' for none
PRAGMA user_version = 4;
