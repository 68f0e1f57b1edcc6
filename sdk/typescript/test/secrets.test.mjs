// Nothing secret in an error, in what inspects one, or in a log; and an `execute`
// that is not run twice, or without an allow, whatever is thrown at the client.
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { format, inspect } from 'node:util'
import { ActPass, ActPassError, MisusedError } from '../dist/esm/index.js'
import { decisions, standIn, text } from './stand-in.mjs'

const apiKey = 'sk_live_topsecret1', passport = 'eyJ.topsecret2.sig', card = 'topsecret3'
const echo = apiKey + ' ' + passport

/** What anybody could print of an error or a client, and of what it came of. */
const shown = (e) => {
  const out = [inspect(e, { depth: Infinity, showHidden: true, getters: true }), format('%s %o %j', e, e, e), JSON.stringify(e), String(e?.stack)]
  for (let at = e; at; at = at.cause) out.push(String(at), JSON.stringify(Object.getOwnPropertyDescriptors(at)))
  return out.join('\n')
}
const hidden = (v, what) => assert.ok(!shown(v).includes('topsecret'), `${what}: ${shown(v)}`)

for (const [what, answer] of Object.entries({
  'no connection': { unreachable: true },
  'no answer': { timeout: true },
  'cut off': { cut: true, status: 200, body: { $d: 'allow' } },
  'another question': { status: 200, headers: { 'x-request-id': 'x' }, body: { $d: 'allow' } },
  'misuse that repeats the key': { status: 401, body: { error: { code: echo, message: 'no key ' + echo, field: echo } } },
  'a page that repeats the key': { status: 200, body: '<html>' + echo },
  'a refusal that repeats them': { status: 403, body: { $d: 'deny', explain: { summary: echo, matched_rules: [echo], next_steps: [echo] } } },
  'a hold that repeats them': { status: 200, body: { $d: 'hold', reason_code: echo } },
  'a 500 that repeats them': { status: 500, body: echo },
  'no decision': { status: 200, body: { decision: echo } },
})) {
  test('no secret is in an error: ' + what, async (t) => {
    const { baseUrl } = await standIn(t, { preflight: [answer] })
    const logged = []
    for (const name of ['log', 'error', 'warn', 'info', 'debug', 'trace']) t.mock.method(console, name, (...a) => logged.push(format(...a)))
    const a = new ActPass({ apiKey, agentId: 'a', baseUrl, timeoutMs: 200, retries: 1 })
    const asked = { tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { card }, passport, mode: 'enforce' }
    const r = await a.guard({ ...asked, execute: () => assert.fail('run') }).catch((error) => ({ error }))
    const e = await a.preflight(asked).then(() => undefined, (e) => e)
    const v = await a.verifyPassport(passport).then(() => undefined, (e) => e)
    assert.ok(r.error instanceof ActPassError)
    for (const x of [r, r.error, e, v, a]) hidden(x, what)
    assert.deepEqual(logged, [])
  })
}

test('what the constructor and the encoder refuse is not shown', async () => {
  for (const o of [{ apiKey: apiKey + '\n' }, { apiKey: apiKey + 'é' }, { apiKey: 'topsecret1' }, { apiKey, baseUrl: 'http://u:topsecret1@h' }, { apiKey, baseUrl: 'http://h/?k=topsecret1' }, { apiKey, baseUrl: 'topsecret1' }, { apiKey, timeoutMs: NaN }, { apiKey, retries: -1 }, { apiKey, agentId: '' }]) {
    assert.throws(() => new ActPass({ agentId: 'a', ...o }), (e) => { hidden(e, JSON.stringify(o)); return e instanceof MisusedError })
  }
  const a = new ActPass({ apiKey, agentId: 'a', baseUrl: 'http://127.0.0.1:9', retries: 0 })
  const round = { card }
  round.round = round
  for (const more of [{ args: { card, n: NaN } }, { args: { card, n: [Infinity] } }, { args: { card, n: 1n } }, { args: round }, { args: { toJSON() { throw new Error(card) } } }, { mode: 'loose' }, { tool: '' }, { onApproval: 'ask' }, { execute: 1 }]) {
    await assert.rejects(a.guard({ tool: 't', passport, execute: () => assert.fail('run'), ...more }), (e) => { hidden(e, inspect(more)); return e instanceof MisusedError })
  }
})

test('an error of execute\'s may be anything, and is reported by its name alone', async (t) => {
  const trap = new Proxy({}, { get() { throw new Error('topsecret3') } })
  for (const [thrown, want] of [
    [trap, { state: 'unknown', error: 'error' }], [{ name: { toString() { throw 1 } }, status: { valueOf() { throw 1 } } }, { state: 'unknown', error: 'error' }],
    [null, { state: 'unknown', error: 'error' }], [Object.assign(new Error(card), { status: 402.5 }), { state: 'unknown', error: 'Error' }], [Object.assign(new TypeError(card), { statusCode: 404 }), { state: 'failed', status: 404, error: 'TypeError' }],
    [Symbol('s'), { state: 'unknown', error: 'error' }], [new ActPassError('unreachable', 'of an inner guard'), { state: 'unknown', error: 'ActPassError' }],
  ]) {
    const { baseUrl, outcomes } = await standIn(t, { preflight: [{ status: 200, body: { $d: 'allow', mode: 'monitor' } }] })
    let ran = 0
    const r = await new ActPass({ apiKey, agentId: 'a', baseUrl }).guard({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', mode: 'monitor', execute: () => { ran++; throw thrown } })
    assert.deepEqual([ran, r.executed, r.reported, outcomes], [1, true, true, [want]])
    assert.ok(r.error === thrown)
  }
})

test('an abort that comes with the answer runs nothing, and is reported', async (t) => {
  const { baseUrl, outcomes } = await standIn(t, { preflight: [{ status: 200, body: { $d: 'allow' } }] })
  const ended = new AbortController(), parse = JSON.parse
  const at = t.mock.method(JSON, 'parse', (...a) => { if (String(a[0]).includes('matched_rules')) ended.abort(new Error('enough')); return parse(...a) })
  await assert.rejects(new ActPass({ apiKey, agentId: 'a', baseUrl }).guard({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', signal: ended.signal, execute: () => assert.fail('run') }), /enough/)
  at.mock.restore()
  assert.deepEqual(outcomes, [{ state: 'failed', status: 499, error: 'aborted before it was run' }])
})

test('what is changed while it is asked is not run or asked about', async (t) => {
  const { baseUrl, bodies } = await standIn(t, { preflight: [{ status: 200, body: { $d: 'hold' } }, { status: 200, body: { $d: 'allow' } }], approval: [{ status: 200, body: { id: 'apr_1', state: 'approved' } }] })
  const o = { tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount: 1 }, mode: 'enforce', onApproval: 'wait', execute: () => 'asked about' }
  const going = new ActPass({ apiKey, agentId: 'a', baseUrl }).guard(o)
  o.args.amount = 1000
  Object.assign(o, { mode: 'monitor', tool: 'other', execute: () => 'another' })
  assert.equal((await going).result, 'asked about')
  assert.deepEqual(bodies.map((b) => [b.tool, b.mode, b.args.amount]), [['stripe.refund.create', 'enforce', 1], ['stripe.refund.create', 'enforce', 1]])
})

// A server that speaks for itself: what it writes is what comes.
async function raw(t, write) {
  const sockets = new Set()
  const server = createServer((s) => {
    sockets.add(s)
    let head = ''
    s.on('error', () => {}).on('data', (b) => {
      head += b
      while (/\r\n\r\n/.test(head)) {
        const one = head
        const length = Number(/content-length: (\d+)/i.exec(one)?.[1] ?? 0), end = one.indexOf('\r\n\r\n') + 4 + length
        if (one.length < end) return
        head = one.slice(end)
        write(s, /x-request-id: (\S+)/i.exec(one)[1])
      }
    })
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  t.after(() => { for (const s of sockets) s.destroy(); server.close() })
  return `http://127.0.0.1:${server.address().port}`
}
const answer = (name, id, more) => {
  const body = text({ $d: name, ...more })
  return `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n${id ? `X-Request-Id: ${id}\r\n` : ''}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}

test('an answer too many is not taken for the next one\'s', async (t) => {
  for (const silent of [false, true]) {
    const baseUrl = await raw(t, (s, id) => {
      if (silent) return s.write(answer('deny') + answer('allow'))
      s.write(answer('deny', id))
      setTimeout(() => s.write(answer('allow', id)), 2)
    })
    const a = new ActPass({ apiKey, agentId: 'a', baseUrl, retries: 0, timeoutMs: 1000 })
    for (let i = 0; i < 30; i++) assert.equal((await a.guard({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', execute: () => assert.fail('run') })).executed, false)
  }
})

test('an answer that drips, or never ends, ends in time', async (t) => {
  for (const drop of ['HTTP/1.1 200 OK\r\nContent-Length: 9\r\n', 'x', ' ', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n']) {
    const baseUrl = await raw(t, (s) => { const timer = setInterval(() => s.writable ? s.write(drop[0] === 'H' ? 'x: y\r\n' : drop) : clearInterval(timer), 20); s.write(drop); s.on('close', () => clearInterval(timer)) })
    const began = Date.now()
    const r = await new ActPass({ apiKey, agentId: 'a', baseUrl, retries: 0, timeoutMs: 300 }).guard({ tool: 't', mode: 'enforce', execute: () => assert.fail('run') })
    assert.equal(r.error.kind, 'unreachable')
    assert.ok(Date.now() - began < 2000)
  }
})

test('an answer of 9 MiB is none', async (t) => {
  const baseUrl = await raw(t, (s, id) => s.write(answer('allow', id, { explain: { ...decisions.allow.explain, summary: 'x'.repeat(9 << 20) } })))
  const r = await new ActPass({ apiKey, agentId: 'a', baseUrl, retries: 0 }).guard({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', execute: () => assert.fail('run') })
  assert.match(r.error.message, /larger than 8 MiB/)
})

test('a kept connection that was closed is no failure', async (t) => {
  let n = 0
  const baseUrl = await raw(t, (s, id) => { n++; s.write(answer('allow', id)); setTimeout(() => s.destroy(), 1) })
  const a = new ActPass({ apiKey, agentId: 'a', baseUrl, retries: 0 })
  for (let i = 1; i <= 10; i++) {
    assert.equal((await a.preflight({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123' })).decision, 'allow')
    await new Promise((done) => setTimeout(done, i % 3))
  }
  assert.equal(n, 10)
})

test('a server that answers every look at once is not asked in a rush', async (t) => {
  let looks = 0
  const { baseUrl } = await standIn(t, { preflight: [{ status: 200, body: { $d: 'hold' } }], approval: [{ status: 200, get body() { looks++; return { id: 'apr_1', state: 'pending' } } }] })
  const r = await new ActPass({ apiKey, agentId: 'a', baseUrl }).guard({ tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', onApproval: 'wait', approvalTimeoutMs: 900, execute: () => assert.fail('run') })
  assert.equal(r.error.kind, 'expired')
  assert.ok(looks >= 2 && looks < 9, String(looks))
})
