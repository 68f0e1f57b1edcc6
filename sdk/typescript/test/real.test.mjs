// The real binary, built here: every mode, the record, and races. The README's snippet
// takes a real refund: e2e runs it against stripe-mock.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { inspect } from 'node:util'
import { ActPass, HeldError, MisusedError, RefusedError, verifyEvidence } from '../dist/esm/index.js'
import { start } from './sidecar.mjs'

let dir, config, bin, sidecar, baseUrl, admin, agent, agentKey
const refund = (amount, more) => ({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount, currency: 'usd' }, goal: 'resolve_refund_request', userId: 'user_456', ...more })

before(async () => {
  sidecar = await start('mapping: { packs: [stripe], files: [./shop.yaml] }\n', {
    'shop.yaml': `
rules:
  - match: { host: shop.example.com, methods: [POST], path: /payout }
    tool: shop.payout
    risk: high
    args: json
    require: [{ name: amount, type: integer }, { name: iban, secret: true }]
    optional: [{ name: pin, type: integer, secret: true }]
    resource: "shop:payout"
`,
    'policies/shop.yaml': `
policies:
  - name: payouts
    version: 1
    tools: ["shop.*"]
    rules:
      - name: known
        when: args.iban == "DE00" && args.amount < 5 && args.pin > 0
        decision: allow
        reason_code: payout.known
      - name: big
        when: args.amount > 100
        decision: require_approval
        reason_code: payout.big
        approval: { approvers: [support-leads], required: 1, expires: 1h }
      - { name: others, decision: deny, reason_code: payout.unknown }
`,
  })
  ;({ dir, bin, config, baseUrl } = sidecar)
  const key = sidecar.key
  admin = key('--name', 'admin', '--role', 'admin')
  agentKey = key('--name', 'a', '--role', 'gateway', '--agent', 'support_agent')
  agent = new ActPass({ apiKey: agentKey, tenantId: 'acme', agentId: 'support_agent', baseUrl })
})
after(() => sidecar?.stop())

const event = async (id) => (await fetch(`${baseUrl}/api/v1/evidence/events/${id}`, { headers: { authorization: 'Bearer ' + admin } })).json()

test('allow runs, and the outcome is in the event', async () => {
  const r = await agent.guard({ ...refund(4900), mode: 'enforce', execute: async () => ({ id: 're_1' }) })
  assert.deepEqual([r.decision.decision, r.decision.reason_code, r.result, r.error, r.reported], ['allow', 'refund.small_in_scope', { id: 're_1' }, undefined, true])
  assert.equal((await event(r.decision.evidence_event_id)).outcome.state, 'forwarded')
})

test('a deny names the rule, and runs nothing', async () => {
  for (const mode of ['enforce', 'strict']) {
    const r = await agent.guard({ ...refund(75000), mode, execute: () => assert.fail('run') })
    assert.ok(r.error instanceof RefusedError)
    if (mode === 'enforce') assert.match(r.error.message, /large_refund.*refund\.over_limit/)
  }
})

test('monitor and warn run what policy denies', async () => {
  const m = await agent.guard({ ...refund(75000), mode: 'monitor', execute: () => 1 })
  assert.deepEqual([m.result, m.decision.decision, m.decision.would.enforce], [1, 'deny', 'block'])
  const w = await agent.guard({ ...refund(75000), mode: 'warn', execute: () => 1 })
  assert.deepEqual([w.result, w.decision.decision], [1, 'warn'])
  assert.ok(w.warning)
})

test('a hold is returned, and attaches to the same approval', async () => {
  const go = () => agent.guard({ ...refund(20000), mode: 'enforce', execute: () => assert.fail('run') })
  const [a, b] = [await go(), await go()]
  assert.ok(a.error instanceof HeldError)
  assert.equal(a.error.approvalId, b.error.approvalId)
  assert.equal((await agent.waitForApproval(a.error.approvalId, { timeoutMs: 50 })).state, 'pending')
})

test('a hold waits for the human, and runs once', async () => {
  const approver = execFileSync(bin, ['keys', 'create', '--config', config, '--name', 'lead', '--role', 'approver', '--group', 'support-leads'], { encoding: 'utf8' }).trim()
  const ask = async (path, body) => (await fetch(baseUrl + '/api/v1' + path, { method: body ? 'POST' : 'GET', headers: { authorization: 'Bearer ' + approver, 'content-type': 'application/json' }, body: body && JSON.stringify(body) })).json()
  let ran = 0
  const waiting = agent.guard({ ...refund(20001), mode: 'enforce', onApproval: 'wait', approvalTimeoutMs: 20_000, execute: () => ++ran })
  for (let open; !open; ) {
    open = (await ask('/approvals?state=pending')).data.find((a) => a.args.amount === 20001)
    assert.equal(ran, 0)
    if (open) assert.equal((await ask(`/approvals/${open.id}/decide`, { decision: 'approve', reason: 'ok' })).state, 'approved')
    else await new Promise((done) => setTimeout(done, 50))
  }
  const r = await waiting
  assert.deepEqual([r.error, r.result, r.reported, ran], [undefined, 1, true, 1])
  const again = await agent.guard({ ...refund(20001), mode: 'enforce', execute: () => assert.fail('run') })
  assert.ok(again.error instanceof HeldError, 'an approval is good for one use')
})

test('a passport is used by one of twenty at once', async () => {
  const boss = new ActPass({ apiKey: admin, agentId: 'support_agent', baseUrl })
  const { token, jti } = await boss.issuePassport({ agent_id: 'support_agent', allowed_tools: ['stripe.refund.*'], allowed_resources: ['*'] })
  assert.equal((await agent.verifyPassport(token)).claims.jti, jti)
  let ran = 0
  await Promise.all(Array.from({ length: 20 }, () => agent.guard({ ...refund(100), passport: token, mode: 'strict', execute: () => { ran++ } })))
  assert.equal(ran, 1)
  const other = await boss.issuePassport({ agent_id: 'support_agent', allowed_tools: ['*'], allowed_resources: ['*'] })
  await boss.revokePassport(other.jti, 'test')
  assert.equal((await agent.verifyPassport(other.token)).reason_code, 'passport.revoked')
})

test('an abort before the answer runs nothing', async () => {
  await assert.rejects(agent.guard({ ...refund(100), signal: AbortSignal.abort(new Error('enough')), execute: () => assert.fail('run') }), /enough/)
})

test('another agent than the key\'s is misuse', async () => {
  const r = new ActPass({ apiKey: 'sk_live_unknown', agentId: 'support_agent', baseUrl }).guard({ ...refund(1), execute: () => assert.fail('run') })
  await assert.rejects(r, (e) => e instanceof MisusedError && e.status === 401 && !e.message.includes('sk_live_unknown'))
})

test('what is secret in args or a passport is in no error, no event and no log', async () => {
  const seen = []
  for (const more of [{ args: { amount: 50, iban: 'topsecret1' } }, { args: { amount: 200, iban: 'topsecret1' } }, { args: { iban: 'topsecret1' } }, { args: { amount: 3, iban: 'DE00', pin: 'topsecret1' } }, { args: { amount: 3, iban: 'DE00', pin: ['topsecret1'] } }, { args: { amount: 3, iban: ['topsecret1'] } },
    { args: { amount: 50, iban: 'DE00' }, passport: 'eyJhbGciOiJFZERTQSJ9.topsecret2.topsecret3' }, { args: { amount: 50, iban: 'topsecret1', mode: 1n } }, { args: { amount: 50, iban: 'topsecret1' }, idempotencyKey: 'k'.repeat(300) }]) {
    const r = await agent.guard({ tool: 'shop.payout', resource: 'shop:payout', mode: 'enforce', ...more, execute: () => assert.fail('run') }).catch((error) => ({ error }))
    assert.ok(r.error, JSON.stringify(r))
    seen.push(inspect(r, { depth: Infinity, showHidden: true }), JSON.stringify(r), String(r.error.stack))
    if (r.decision) seen.push(JSON.stringify(await event(r.decision.evidence_event_id)))
  }
  assert.ok(seen.length > 24)
  for (const text of [...seen, sidecar.log()]) assert.ok(!text.includes('topsecret') && !text.includes(agentKey), text)
})

test('an exported bundle verifies, and no changed byte of it does', () => {
  const file = join(dir, 'bundle')
  writeFileSync(file, execFileSync(bin, ['evidence', 'export', '--config', config]))
  const bundle = readFileSync(file)
  const good = verifyEvidence(bundle)
  assert.ok(good.records.length > 5 && good.treeSize >= good.records.length)
  assert.equal(verifyEvidence(bundle, good.publicKey).records.length, good.records.length)
  assert.throws(() => verifyEvidence(bundle, good.publicKey + 'x'), /another key/)
  for (let i = 0; i < bundle.length; i += bundle.length > 20000 ? 7 : 1) {
    const bad = Buffer.from(bundle)
    bad[i] ^= 1
    assert.throws(() => verifyEvidence(bad), undefined, 'byte ' + i)
  }
  assert.throws(() => verifyEvidence(bundle.subarray(0, -1)), /cut off/)
})
