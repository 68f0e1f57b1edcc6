-- +goose Up
-- Who is told of what happens to approvals: written from the configuration at
-- start and reload. Empty, the triggers below write nothing.
CREATE TABLE channels (
    tenant_id TEXT NOT NULL,
    name      TEXT NOT NULL,
    events    TEXT NOT NULL, -- each between spaces: ' opened decided '
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;

-- The outbox of the channels. The triggers write it in the transaction of the
-- move itself, so that no crash can leave a move untold.
CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,             -- the same in every attempt
    channel     TEXT    NOT NULL,
    tenant_id   TEXT    NOT NULL,
    approval_id TEXT    NOT NULL,
    event       TEXT    NOT NULL,
    from_state  TEXT    NOT NULL,
    to_state    TEXT    NOT NULL,
    actor       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    at          INTEGER NOT NULL,                    -- of the move
    state       TEXT    NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'dead')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER NOT NULL DEFAULT 0,
    settled_at  INTEGER NOT NULL DEFAULT 0,          -- when it was delivered or given up
    last_status INTEGER NOT NULL DEFAULT 0,
    last_error  TEXT    NOT NULL DEFAULT '',
    body        BLOB                                 -- as first sent, once an attempt failed
);
CREATE INDEX deliveries_due ON deliveries (channel, next_at, seq) WHERE state = 'queued';
CREATE INDEX deliveries_by_state ON deliveries (tenant_id, state, seq);
CREATE INDEX deliveries_settled ON deliveries (state, settled_at);

-- What a channel keeps of an approval: the message that it updates.
CREATE TABLE receipts (
    channel     TEXT    NOT NULL,
    approval_id TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (channel, approval_id)
) WITHOUT ROWID;
CREATE INDEX receipts_by_time ON receipts (at);

-- Callbacks that were taken, until their signatures are too old to be shown again.
CREATE TABLE callbacks (
    channel    TEXT    NOT NULL,
    token      TEXT    NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (channel, token)
) WITHOUT ROWID;
CREATE INDEX callbacks_by_expiry ON callbacks (expires_at);

-- +goose StatementBegin
CREATE TRIGGER approvals_opened_outbox AFTER INSERT ON approvals BEGIN
    INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at)
    SELECT 'dlv_' || lower(hex(randomblob(16))), c.name, NEW.tenant_id, NEW.id, 'opened', '', NEW.state, '', '', NEW.created_at
    FROM channels c WHERE c.tenant_id = NEW.tenant_id AND instr(c.events, ' opened ') > 0;
END;
-- +goose StatementEnd

-- A move from pending to pending is a vote that did not decide: an escalation, or
-- one of several approvals. The row of the approval is written before its
-- transition.
-- +goose StatementBegin
CREATE TRIGGER transitions_outbox AFTER INSERT ON transitions BEGIN
    INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at)
    SELECT 'dlv_' || lower(hex(randomblob(16))), c.name, NEW.tenant_id, NEW.approval_id, e.event, NEW.from_state, NEW.to_state, NEW.actor, NEW.reason, NEW.at
    FROM channels c, (SELECT CASE
        WHEN NEW.to_state IN ('approved', 'denied') THEN 'decided'
        WHEN NEW.to_state <> 'pending' THEN NEW.to_state
        WHEN (SELECT json_extract(votes, '$[#-1].decision') FROM approvals WHERE id = NEW.approval_id) = 'escalate' THEN 'escalated'
        ELSE 'voted' END AS event) e
    WHERE c.tenant_id = NEW.tenant_id AND instr(c.events, ' ' || e.event || ' ') > 0;
END;
-- +goose StatementEnd

PRAGMA user_version = 6;
