// Runs sdk/vectors/guard.json, each case against a server that answers as it says.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { ActPass, ActPassError } from '../dist/esm/index.js'

const { decisions, cases } = JSON.parse(readFileSync(new URL('../../vectors/guard.json', import.meta.url), 'utf8'))
assert.ok(cases.length > 20)

for (const c of cases) {
  test(c.name, async (t) => {
    const keys = [], outcomes = []
    let looks = 0
    const server = createServer((req, res) => {
      let text = ''
      req.on('data', (b) => (text += b)).on('end', () => {
        let a
        if (req.url === '/api/v1/actions/preflight') {
          a = c.preflight[Math.min(keys.length, c.preflight.length - 1)]
          keys.push(req.headers['idempotency-key'])
          assert.equal(JSON.parse(text).intent, 'execute')
          assert.equal(JSON.parse(text).mode, c.mode)
        } else if (req.url.startsWith('/api/v1/approvals/apr_1?wait=')) a = c.approval[Math.min(looks++, c.approval.length - 1)]
        else { outcomes.push(JSON.parse(text)); a = { status: 200, body: { evidence_event_id: 'ev_1', state: 'succeeded' } } }
        if (a.unreachable) return req.socket.destroy()
        if (a.timeout) return
        const body = a.body.$d ? { ...decisions[a.body.$d], ...a.body, $d: undefined } : a.body
        res.writeHead(a.status, { 'content-type': 'application/json', 'x-request-id': req.headers['x-request-id'] }).end(typeof body === 'string' ? body : JSON.stringify(body))
      })
    })
    await new Promise((done) => server.listen(0, '127.0.0.1', done))
    t.after(() => { server.closeAllConnections(); server.close() })

    const actpass = new ActPass({ apiKey: 'sk_live_test_secret', agentId: 'support_agent', baseUrl: `http://127.0.0.1:${server.address().port}`, timeoutMs: 300, retries: 2 })
    const own = Object.assign(new Error('card 4242 declined'), c.execute === 'throws 402' ? { statusCode: 402 } : {})
    let executed = 0
    let r
    try {
      r = await actpass.guard({
        tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount: 4900 }, mode: c.mode, onApproval: c.onApproval,
        execute: () => { executed++; if (c.execute?.startsWith('throws')) throw own; return 'done' },
      })
    } catch (e) { r = { decision: null, error: e, executed: false } }
    const e = c.expect
    assert.equal(executed, e.executed, 'executed')
    assert.equal(r.executed, e.executed === 1)
    assert.equal(r.decision?.decision ?? null, e.decision, 'decision')
    assert.equal(r.error === own ? 'own' : r.error?.kind ?? null, e.error, String(r.error))
    assert.equal(r.warning !== undefined, !!e.warning, 'warning')
    if (e.error === null) assert.equal(r.result, 'done')
    if (r.error instanceof ActPassError) {
      assert.ok(r.error.message.length > 20 && !r.error.message.includes('sk_live'), r.error.message)
      assert.deepEqual(r.error.decision ?? null, r.decision)
    }
    assert.ok(!JSON.stringify(outcomes).includes('4242'), 'the report holds no text of the error')
    assert.deepEqual(outcomes.map(({ error, ...o }) => o), e.outcome ? [e.outcome] : [], 'outcome')
    if (e.preflights) assert.equal(keys.length, e.preflights, 'preflights')
    if (e.oneKey) assert.ok(keys[0] && new Set(keys).size === 1, 'one key: ' + keys)
  })
}
