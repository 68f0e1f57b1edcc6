-- +goose Up
-- When an approval came to its end, and until when it answers for its call after
-- that: before both, it is not removed. 0 on rows of before, and on those that an
-- older program closes: Prune fills them in, page by page.
ALTER TABLE approvals ADD COLUMN closed_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN rest_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX approvals_closed ON approvals (closed_at, rest_at) WHERE state NOT IN ('pending', 'approved');
CREATE INDEX transitions_by_approval ON transitions (approval_id);
CREATE INDEX deliveries_unfinished ON deliveries (approval_id) WHERE state IN ('queued', 'dead');
CREATE INDEX grants_by_end ON grants (expires_at);
PRAGMA user_version = 10;

-- +goose Down
DROP INDEX grants_by_end;
DROP INDEX deliveries_unfinished;
DROP INDEX transitions_by_approval;
DROP INDEX approvals_closed;
ALTER TABLE approvals DROP COLUMN rest_at;
ALTER TABLE approvals DROP COLUMN closed_at;
PRAGMA user_version = 9;
