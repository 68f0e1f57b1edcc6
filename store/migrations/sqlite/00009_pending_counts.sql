-- +goose Up
-- How many approvals are pending, kept beside each move to and from there, so that
-- opening one costs the same beside ten and beside ten thousand.
CREATE TABLE pending_counts (
    tenant_id TEXT    NOT NULL,
    scope     TEXT    NOT NULL CHECK (scope IN ('tenant', 'agent')),
    name      TEXT    NOT NULL,                      -- of the agent; '' for the tenant
    pending   INTEGER NOT NULL CHECK (pending >= 0), -- a miscount stops the move
    PRIMARY KEY (tenant_id, scope, name)
) STRICT, WITHOUT ROWID;
INSERT INTO pending_counts (tenant_id, scope, name, pending)
    SELECT tenant_id, 'tenant', '', count(*) FROM approvals WHERE state = 'pending' GROUP BY tenant_id;
INSERT INTO pending_counts (tenant_id, scope, name, pending)
    SELECT tenant_id, 'agent', agent_id, count(*) FROM approvals WHERE state = 'pending' GROUP BY tenant_id, agent_id;
PRAGMA user_version = 9;

-- +goose Down
DROP TABLE pending_counts;
PRAGMA user_version = 8;
