DELETE FROM answers WHERE (tenant_id, approval_id) IN (SELECT tenant_id, approval_id FROM answers WHERE expires_at <= $1 LIMIT $2)
DELETE FROM answers WHERE expires_at < $1
DELETE FROM approvals WHERE id = $1 AND state NOT IN ('pending', 'approved')
DELETE FROM channels WHERE tenant_id = $1
DELETE FROM deliveries WHERE (seq) IN (SELECT seq FROM deliveries WHERE state = 'dead' AND settled_at < $1 LIMIT $2)
DELETE FROM deliveries WHERE (seq) IN (SELECT seq FROM deliveries WHERE state = 'delivered' AND settled_at < $1 LIMIT $2)
DELETE FROM evidence_batches WHERE seq < $1
DELETE FROM grant_uses WHERE grant_id = $1 AND event_id = $2
DELETE FROM grant_uses WHERE grant_id = $1 AND event_id IN (SELECT event_id FROM grant_uses WHERE grant_id = $2 LIMIT $3)
DELETE FROM grants WHERE id = $1
DELETE FROM limit_sums WHERE tenant_id = $1 AND limit_key = $2 AND seen <= $3 - span
DELETE FROM limit_sums WHERE tenant_id = $1 AND limit_key >= $2 AND limit_key <= $3
DELETE FROM limit_uses WHERE tenant_id = $1 AND event_id = $2
DELETE FROM limit_uses WHERE tenant_id = $1 AND limit_key = $2
DELETE FROM limit_uses WHERE tenant_id = $1 AND limit_key = $2 AND at <= $3
DELETE FROM limit_uses WHERE tenant_id = $1 AND limit_key >= $2 AND limit_key <= $3
DELETE FROM passports WHERE expires_at < $1
DELETE FROM pending_counts WHERE tenant_id = $1 AND scope = 'agent' AND name = $2 AND pending = 0
DELETE FROM receipts WHERE (channel, approval_id) IN (SELECT channel, approval_id FROM receipts WHERE at < $1 LIMIT $2)
DELETE FROM transitions WHERE approval_id = $1
INSERT INTO answers (tenant_id, approval_id, sealed, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant_id, approval_id) DO UPDATE SET sealed = excluded.sealed, expires_at = excluded.expires_at
INSERT INTO approvals (id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question, due_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8, '[]', '', $9, $10)
INSERT INTO channels (tenant_id, name, events) VALUES ($1, $2, $3)
INSERT INTO deliveries (id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at, state, settled_at) VALUES ($1, 'hook', 'acme', 'apr_1', 'opened', '', '', '', '', 1, $2, 1)
INSERT INTO evidence_batches (seq, records, origin, first, content) VALUES ($1, $2, $3, $4, $5)
INSERT INTO evidence_logs (origin, public_key, source) VALUES ($1, $2, $3) ON CONFLICT (origin) DO UPDATE SET source = excluded.source WHERE evidence_logs.public_key = excluded.public_key AND evidence_logs.source <> excluded.source
INSERT INTO grant_uses (grant_id, event_id, amount, at) VALUES ($1, $2, $3, $4)
INSERT INTO grant_uses (grant_id, event_id, amount, at) VALUES ('grt_1', $1, 0, 1)
INSERT INTO grants (id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape) VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 0, $8, $9, 0, '', $10)
INSERT INTO keys (id, tenant_id, name, role, agent_id, groups, mode, prefix, created_at, expires_at, last_used_at, revoked_at, ceiling, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
INSERT INTO limit_sums (tenant_id, limit_key, span, since, seen, total) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, limit_key) DO UPDATE SET span = excluded.span, since = excluded.since, seen = excluded.seen, total = excluded.total
INSERT INTO limit_uses (tenant_id, limit_key, event_id, amount, at, owner) VALUES ($1, $2, $3, $4, $5, $6)
INSERT INTO mode_overrides (id, tenant_id, tool, agent_id, mode, reason, key_id, key_name, created_at, cleared_at, cleared_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, '')
INSERT INTO passports (tenant_id, jti, revoked_at, reason, expires_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, jti) DO UPDATE SET revoked_at = CASE WHEN passports.revoked_at = 0 THEN excluded.revoked_at ELSE passports.revoked_at END, reason = CASE WHEN passports.revoked_at = 0 THEN excluded.reason ELSE passports.reason END, expires_at = CASE WHEN passports.expires_at < excluded.expires_at THEN excluded.expires_at ELSE passports.expires_at END
INSERT INTO passports (tenant_id, jti, used_by, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant_id, jti) DO UPDATE SET used_by = excluded.used_by
INSERT INTO pending_counts (tenant_id, scope, name, pending) VALUES ($1, $2, $3, 1) ON CONFLICT (tenant_id, scope, name) DO UPDATE SET pending = pending_counts.pending + 1
INSERT INTO receipts (channel, approval_id, value, at) VALUES ($1, $2, $3, $4) ON CONFLICT (channel, approval_id) DO UPDATE SET value = excluded.value, at = excluded.at
INSERT INTO shared_secrets (name, sealed, version) VALUES ($1, $2, $3 + 1) ON CONFLICT (name) DO NOTHING
INSERT INTO transitions (approval_id, tenant_id, from_state, to_state, actor, reason, at) VALUES ($1, $2, $3, $4, $5, $6, $7)
SELECT DISTINCT limit_key FROM limit_uses WHERE tenant_id = $1 AND event_id = $2
SELECT EXISTS (SELECT 1 FROM answers WHERE expires_at <= $1)
SELECT EXISTS (SELECT 1 FROM approvals WHERE state IN ('pending', 'approved') AND due_at < $1)
SELECT EXISTS (SELECT 1 FROM callbacks WHERE expires_at < $1)
SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 'dead' AND settled_at < $1)
SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 'delivered' AND settled_at < $1)
SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 'queued' AND channel = $1 AND next_at <= $2 AND taken_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
SELECT EXISTS (SELECT 1 FROM limit_uses WHERE tenant_id = $1 AND event_id = $2)
SELECT EXISTS (SELECT 1 FROM receipts WHERE at < $1)
SELECT EXISTS (SELECT 1 FROM transitions WHERE recorded = 0 AND (taken_by = $1 OR taken_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
SELECT amount FROM grant_uses WHERE grant_id = $1 AND event_id = $2
SELECT b.seq, b.records, b.first, b.origin, g.source, b.content FROM evidence_batches b JOIN evidence_logs g USING (origin) WHERE b.seq >= coalesce((SELECT max(seq) FROM evidence_batches WHERE seq <= $1), 0) ORDER BY b.seq LIMIT $2
SELECT coalesce((SELECT pending FROM pending_counts WHERE tenant_id = $1 AND scope = 'tenant' AND name = ''), 0), coalesce((SELECT pending FROM pending_counts WHERE tenant_id = $2 AND scope = 'agent' AND name = $3), 0)
SELECT coalesce(max(at), 0) FROM transitions WHERE approval_id = $1
SELECT coalesce(max(id), 0) FROM transitions
SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = $1 AND limit_key = $2 AND at > $3
SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = $1 AND limit_key = $2 AND at > $3 AND at <= $4
SELECT count(*) > 0, coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = $1 AND event_id = $2 AND (limit_key || '') = $3 AND at > $4
SELECT count(*) FROM deliveries
SELECT count(*) FROM deliveries WHERE state = 'queued'
SELECT count(*) FROM grant_uses WHERE grant_id = $1 AND event_id = $2
SELECT count(*) FROM grants WHERE id = $1
SELECT count(*) FROM grants WHERE tenant_id = $1 AND revoked_at = 0 AND used < max_uses AND expires_at >= $2
SELECT count(*) FROM keys WHERE id = $1 OR hash = $2
SELECT count(*) FROM mode_overrides WHERE id = $1
SELECT count(*) FROM mode_overrides WHERE tenant_id = $1 AND cleared_at = 0
SELECT count(*) FROM receipts
SELECT event_id FROM limit_uses
SELECT g.origin, g.begins, g.edge, b.seq, b.records, b.first, b.shipped_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1, CASE WHEN b.shipped_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1 THEN b.content END FROM evidence_batches b JOIN evidence_logs g USING (origin) ORDER BY b.seq LIMIT $2
SELECT h.seq, h.name, coalesce((SELECT min(seq) FROM evidence_batches), h.seq) FROM evidence_head h WHERE id = 1
SELECT id FROM approvals a WHERE state NOT IN ('pending', 'approved') AND closed_at > 0 AND closed_at < $1 AND rest_at < $2 AND NOT EXISTS (SELECT 1 FROM transitions t WHERE t.approval_id = a.id AND t.recorded = 0) AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.approval_id = a.id AND d.state IN ('queued', 'dead')) AND NOT EXISTS (SELECT 1 FROM answers k WHERE k.tenant_id = a.tenant_id AND k.approval_id >= a.id AND k.approval_id < a.id || '0' AND k.expires_at > $3) ORDER BY closed_at, rest_at LIMIT $4
SELECT id FROM grants WHERE expires_at < $1 ORDER BY expires_at LIMIT $2
SELECT id, approval_id FROM transitions WHERE id > $1 ORDER BY id LIMIT $2
SELECT id, approval_id, tenant_id, from_state, to_state, actor, reason, at FROM transitions WHERE recorded = 0 AND taken_by = $1 AND taken_until >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint ORDER BY id LIMIT $2
SELECT id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape FROM grants WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) AND revoked_at = 0 AND used < max_uses AND expires_at >= $4 ORDER BY created_at DESC, id DESC LIMIT $5
SELECT id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape FROM grants WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4
SELECT id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape FROM grants WHERE tenant_id = $1 AND id = $2
SELECT id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape FROM grants WHERE tenant_id = $1 AND tool = $2 AND rule_hash = $3 AND agent_id IN ($4, '*') AND revoked_at = 0 AND used < max_uses AND expires_at >= $5 ORDER BY expires_at, id
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE id = $1
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE id = $1 AND tenant_id = $2
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE state IN ('pending', 'approved') AND due_at < $1 ORDER BY due_at, id LIMIT $2
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE state NOT IN ('pending', 'approved') AND closed_at = 0 ORDER BY closed_at LIMIT $1
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) AND agent_id = $4 ORDER BY created_at DESC, id DESC LIMIT $5
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) AND state = $4 AND agent_id = $5 ORDER BY created_at DESC, id DESC LIMIT $6
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) AND state = $4 ORDER BY created_at DESC, id DESC LIMIT $5
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND fingerprint = $2 AND state IN ('pending', 'approved')
SELECT id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question FROM approvals WHERE tenant_id = $1 AND fingerprint = $2 ORDER BY created_at DESC, id DESC LIMIT 1
SELECT id, tenant_id, name, role, agent_id, groups, mode, prefix, created_at, expires_at, last_used_at, revoked_at, ceiling FROM keys WHERE hash = $1
SELECT id, tenant_id, name, role, agent_id, groups, mode, prefix, created_at, expires_at, last_used_at, revoked_at, ceiling FROM keys WHERE tenant_id = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4
SELECT id, tenant_id, name, role, agent_id, groups, mode, prefix, created_at, expires_at, last_used_at, revoked_at, ceiling FROM keys WHERE tenant_id = $1 AND id = $2
SELECT id, tenant_id, tool, agent_id, mode, reason, key_id, key_name, created_at, cleared_at, cleared_by FROM mode_overrides WHERE cleared_at = 0 ORDER BY created_at DESC, id DESC
SELECT id, tenant_id, tool, agent_id, mode, reason, key_id, key_name, created_at, cleared_at, cleared_by FROM mode_overrides WHERE tenant_id = $1 AND id = $2
SELECT max(oldest) FROM schema_floor
SELECT origin, public_key, source, begins, edge, next, checkpoint, shipped_at FROM evidence_logs WHERE origin = $1
SELECT origin, public_key, source, begins, edge, next, checkpoint, shipped_at FROM evidence_logs WHERE origin > $1 ORDER BY origin LIMIT $2
SELECT public_key, next FROM evidence_logs WHERE origin = $1
SELECT records, content FROM evidence_batches WHERE origin = $1 AND first = $2
SELECT records, first, content FROM evidence_batches WHERE origin = $1 AND first >= coalesce((SELECT max(first) FROM evidence_batches WHERE origin = $1 AND first <= $2), 0) ORDER BY first LIMIT $3
SELECT s.limit_key, s.total, coalesce((SELECT sum(u.amount) FROM limit_uses u WHERE u.tenant_id = s.tenant_id AND u.limit_key = s.limit_key AND u.at > s.since), 0) FROM limit_sums s
SELECT sealed FROM answers WHERE tenant_id = $1 AND approval_id = $2 AND expires_at > $3
SELECT sealed, version FROM shared_secrets WHERE name = $1
SELECT seq, id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at, state, attempts, next_at, settled_at, last_status, last_error, body FROM deliveries WHERE state = 'queued' AND channel = $1 AND next_at <= $2 AND taken_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint ORDER BY next_at, seq LIMIT $3
SELECT since, seen, total FROM limit_sums WHERE tenant_id = $1 AND limit_key = $2
SELECT tenant_id, limit_key FROM limit_sums WHERE seen <= $1 - span AND (tenant_id, limit_key) > ($2, $3) ORDER BY tenant_id, limit_key LIMIT $4
SELECT tenant_id, limit_key, event_id, amount FROM limit_uses WHERE owner = $1 ORDER BY id DESC LIMIT $2
SELECT u.limit_key, sum(u.amount), CASE WHEN min(u.at - CASE WHEN $6 AND $5 < s.seen THEN s.seen - $5 ELSE 0 END) < $5 THEN min(u.at - CASE WHEN $6 AND $5 < s.seen THEN s.seen - $5 ELSE 0 END) ELSE $5 END, CASE WHEN max(u.at - CASE WHEN $6 AND $5 < s.seen THEN s.seen - $5 ELSE 0 END) < $5 THEN max(u.at - CASE WHEN $6 AND $5 < s.seen THEN s.seen - $5 ELSE 0 END) ELSE $5 END FROM limit_uses u LEFT JOIN limit_sums s ON s.tenant_id = u.tenant_id AND s.limit_key = u.limit_key WHERE u.tenant_id = $1 AND u.limit_key >= $2 AND u.limit_key <= $3 AND u.limit_key <> $8 AND u.at > $4 + CASE WHEN $6 AND $5 < s.seen THEN s.seen - $5 ELSE 0 END GROUP BY u.limit_key HAVING sum(u.amount) > 0 ORDER BY u.limit_key LIMIT $7
SELECT used_by, revoked_at FROM passports WHERE tenant_id = $1 AND jti = $2
UPDATE approvals SET closed_at = $1, rest_at = $2 WHERE id = $3 AND closed_at = 0
UPDATE approvals SET state = $1, due_at = $2, decided_at = $3, use_before = $4, closed_at = $5, rest_at = $6, approvers = $7, votes = $8, consumed_by = $9 WHERE id = $10
UPDATE deliveries SET state = $1, attempts = attempts + 1, next_at = $2, settled_at = $3, last_status = $4, last_error = $5, body = $6 WHERE id = $7 AND state = 'queued'
UPDATE deliveries SET state = 'dead', settled_at = $1, last_error = 'the channel is not configured any more' WHERE state = 'queued' AND NOT EXISTS (SELECT 1 FROM channels c WHERE c.name = channel AND c.tenant_id = deliveries.tenant_id) AND tenant_id = $2
UPDATE deliveries SET taken_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1 WHERE seq = $2
UPDATE evidence_head SET seq = seq + $1 WHERE id = 1 RETURNING seq
UPDATE evidence_logs SET begins = $1, edge = $2 WHERE origin = $3 AND begins = $4
UPDATE evidence_logs SET next = next + $1, checkpoint = CASE WHEN $2 = '' THEN checkpoint ELSE $2 END, shipped_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint WHERE origin = $3 AND public_key = $4 AND next = $5
UPDATE grants SET revoked_at = $1, revoked_by = $2 WHERE tenant_id = $3 AND id = $4 AND revoked_at = 0
UPDATE grants SET used = $1, summed = $2 WHERE id = $3
UPDATE keys SET last_used_at = CASE WHEN last_used_at < $1 THEN $1 ELSE last_used_at END WHERE id = $2
UPDATE keys SET revoked_at = $1 WHERE tenant_id = $2 AND id = $3 AND revoked_at = 0
UPDATE limit_sums SET total = total - ( SELECT coalesce(sum(u.amount), 0) FROM limit_uses u WHERE u.tenant_id = $1 AND (u.limit_key || '') = limit_sums.limit_key AND u.event_id = $2 AND u.at > limit_sums.since) WHERE tenant_id = $1 AND limit_key IN (SELECT limit_key FROM limit_uses WHERE tenant_id = $1 AND event_id = $2)
UPDATE limit_uses SET at = $1 WHERE tenant_id = $2 AND limit_key = $3 AND at > $4
UPDATE limit_uses SET at = at - $1 WHERE tenant_id = $2 AND limit_key = $3
UPDATE mode_overrides SET cleared_at = $1, cleared_by = $2 WHERE id = $3
UPDATE passports SET used_by = '' WHERE tenant_id = $1 AND jti = $2 AND used_by = $3
UPDATE pending_counts SET pending = pending - 1 WHERE tenant_id = $1 AND (scope = 'tenant' AND name = '' OR scope = 'agent' AND name = $2)
UPDATE shared_secrets SET sealed = $2, version = version + 1 WHERE name = $1 AND version = $3
UPDATE transitions SET at = $1 WHERE approval_id = 'apr_7'
UPDATE transitions SET recorded = 1 WHERE id = $1
UPDATE transitions SET taken_by = $1, taken_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $2 WHERE id IN (SELECT id FROM transitions WHERE recorded = 0 AND (taken_by = $1 OR taken_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ORDER BY id LIMIT $3)
