-- +goose Up
-- Who is told of what happens to approvals: written from the configuration at
-- start and reload. Empty, the triggers below write nothing.
CREATE TABLE channels (
  tenant_id TEXT COLLATE "C" NOT NULL,
  name      TEXT COLLATE "C" NOT NULL,
  events    TEXT NOT NULL,                     -- each between spaces: ' opened decided '
  PRIMARY KEY (tenant_id, name)
);

-- The outbox of the channels. The triggers write it in the transaction of the
-- move itself, so that no crash can leave a move untold.
CREATE TABLE deliveries (
  seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id          TEXT COLLATE "C" NOT NULL UNIQUE, -- the same in every attempt
  channel     TEXT COLLATE "C" NOT NULL,
  tenant_id   TEXT COLLATE "C" NOT NULL,
  approval_id TEXT COLLATE "C" NOT NULL,
  event       TEXT NOT NULL,
  from_state  TEXT NOT NULL,
  to_state    TEXT NOT NULL,
  actor       TEXT NOT NULL,
  reason      TEXT NOT NULL,
  at          BIGINT NOT NULL,                 -- of the move
  state       TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'dead')),
  attempts    BIGINT NOT NULL DEFAULT 0,
  next_at     BIGINT NOT NULL DEFAULT 0,
  settled_at  BIGINT NOT NULL DEFAULT 0,       -- when it was delivered or given up
  last_status BIGINT NOT NULL DEFAULT 0,
  last_error  TEXT NOT NULL DEFAULT '',
  body        BYTEA,                           -- as first sent, once an attempt failed
  taken_until BIGINT NOT NULL DEFAULT 0        -- by the database's clock: a sidecar is sending it
);
CREATE INDEX deliveries_due ON deliveries (channel, next_at, seq) WHERE state = 'queued';
CREATE INDEX deliveries_by_state ON deliveries (tenant_id, state, seq);
CREATE INDEX deliveries_settled ON deliveries (state, settled_at);

-- What a channel keeps of an approval: the message that it updates.
CREATE TABLE receipts (
  channel     TEXT COLLATE "C" NOT NULL,
  approval_id TEXT COLLATE "C" NOT NULL,
  value       TEXT NOT NULL,
  at          BIGINT NOT NULL,
  PRIMARY KEY (channel, approval_id)
);
CREATE INDEX receipts_by_time ON receipts (at);

-- Callbacks that were taken, until their signatures are too old to be shown again.
CREATE TABLE callbacks (
  channel    TEXT COLLATE "C" NOT NULL,
  token      TEXT COLLATE "C" NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (channel, token)
);
CREATE INDEX callbacks_by_expiry ON callbacks (expires_at);

-- +goose StatementBegin
CREATE FUNCTION actpass_opened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at)
  SELECT 'dlv_' || replace(gen_random_uuid()::text, '-', ''), c.name, NEW.tenant_id, NEW.id, 'opened', '', NEW.state, '', '', NEW.created_at
  FROM channels c WHERE c.tenant_id = NEW.tenant_id AND strpos(c.events, ' opened ') > 0 ORDER BY c.name;
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER approvals_opened_outbox AFTER INSERT ON approvals FOR EACH ROW EXECUTE FUNCTION actpass_opened();

-- A move from pending to pending is a vote that did not decide: an escalation, or
-- one of several approvals. The row of the approval is written before its
-- transition. Whoever waits for the approval, on whatever machine, is woken when
-- the move is committed.
-- +goose StatementBegin
CREATE FUNCTION actpass_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  what TEXT;
BEGIN
  what := CASE
    WHEN NEW.to_state IN ('approved', 'denied') THEN 'decided'
    WHEN NEW.to_state <> 'pending' THEN NEW.to_state
    WHEN (SELECT votes::json -> -1 ->> 'decision' FROM approvals WHERE id = NEW.approval_id) = 'escalate' THEN 'escalated'
    ELSE 'voted' END;
  INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at)
  SELECT 'dlv_' || replace(gen_random_uuid()::text, '-', ''), c.name, NEW.tenant_id, NEW.approval_id, what, NEW.from_state, NEW.to_state, NEW.actor, NEW.reason, NEW.at
  FROM channels c WHERE c.tenant_id = NEW.tenant_id AND strpos(c.events, ' ' || what || ' ') > 0 ORDER BY c.name;
  PERFORM pg_notify('actpass_moved', '');
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER transitions_outbox AFTER INSERT ON transitions FOR EACH ROW EXECUTE FUNCTION actpass_moved();

-- +goose Down
DROP TRIGGER transitions_outbox ON transitions;
DROP TRIGGER approvals_opened_outbox ON approvals;
DROP FUNCTION actpass_moved, actpass_opened;
DROP TABLE callbacks, receipts, deliveries, channels;
