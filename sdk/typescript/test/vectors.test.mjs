// Runs sdk/vectors/guard.json, each case against a server that answers as it says.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { ActPass, ActPassError } from '../dist/esm/index.js'
import { cases, standIn } from './stand-in.mjs'

// What each kind of error says to do; for a misuse the API's own sentence, where it has one.
const todo = { refused: /Do not retry it unchanged\.$/, held: /wait for it with waitForApproval, then call guard again unchanged\.$/, expired: /Call guard again/, unreachable: /Check .*baseUrl/, misused: / m\.$|Check baseUrl/ }

describe('guard.json', { concurrency: 8 }, () => {
  for (const c of cases) {
    test(c.name, async (t) => {
      const { baseUrl, keys, bodies, outcomes } = await standIn(t, c)
      const actpass = new ActPass({ apiKey: 'sk_live_test_secret', agentId: 'support_agent', baseUrl, timeoutMs: 1000, retries: 2 })
      const own = Object.assign(new Error('card 4242 declined'), c.execute === 'throws 402' ? { statusCode: 402 } : {}), enough = new Error('enough')
      const ended = new AbortController()
      if (c.abortAfterMs) setTimeout(() => ended.abort(enough), c.abortAfterMs)
      let executed = 0
      let r
      try {
        r = await actpass.guard({
          tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount: 4900 }, mode: c.mode, onApproval: c.onApproval, approvalTimeoutMs: c.approvalTimeoutMs, signal: ended.signal,
          execute: () => { executed++; if (c.execute?.startsWith('throws')) throw own; return 'done' },
        })
      } catch (e) { r = { decision: null, error: e, executed: false } }
      const e = c.expect
      assert.equal(executed, e.executed, 'executed')
      assert.equal(r.executed, e.executed === 1)
      assert.equal(r.decision?.decision ?? null, e.decision, 'decision')
      assert.equal(r.error === own ? 'own' : r.error === enough ? 'aborted' : r.error?.kind ?? null, e.error, String(r.error?.stack))
      assert.equal(!!r.warning, !!e.warning, 'warning')
      if (e.error === null) assert.equal(r.result, 'done')
      if (r.error instanceof ActPassError) {
        assert.ok(r.error.message.length > 20 && !r.error.message.includes('sk_live'), r.error.message)
        assert.match(r.error.message, todo[r.error.kind])
        assert.deepEqual(r.error.decision ?? null, r.decision)
      }
      for (const b of bodies) assert.deepEqual([b.intent, b.mode], ['execute', c.mode])
      assert.ok(!JSON.stringify(outcomes).includes('4242'), 'the report holds no text of the error')
      assert.deepEqual(outcomes.map(({ error, ...o }) => o), e.outcome ? Array(e.reports ?? Math.max(outcomes.length, 1)).fill(e.outcome) : [], 'outcome')
      if (!c.report) assert.ok(outcomes.length < 2, 'one report')
      if (e.outcome) assert.equal(r.reported, e.reported ?? true, 'reported')
      if (e.preflights) assert.equal(keys.length, e.preflights, 'preflights')
      if (e.oneKey) assert.ok(keys[0] && new Set(keys).size === 1, 'one key: ' + keys)
    })
  }
})
