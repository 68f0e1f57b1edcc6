// A server that answers as a case of sdk/vectors/guard.json says.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

export const { decisions, cases } = JSON.parse(readFileSync(new URL('../../vectors/guard.json', import.meta.url), 'utf8'))

const present = (o) => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== null))
export const text = (body) => (typeof body === 'string' ? body : JSON.stringify(body.$d ? present({ ...decisions[body.$d], ...body, $d: null }) : body))

/** Starts one; `keys`, `bodies` and `outcomes` are what it was asked and told. */
export async function standIn(t, c) {
  const keys = [], bodies = [], outcomes = []
  let looks = 0
  const nth = (list, n) => list[Math.min(n, list.length - 1)]
  const server = createServer((req, res) => {
    let said = ''
    req.on('data', (b) => (said += b)).on('end', () => {
      let a
      if (req.url === '/api/v1/actions/preflight') {
        a = nth(c.preflight, keys.length)
        keys.push(req.headers['idempotency-key'])
        bodies.push(JSON.parse(said))
      } else if (req.url.startsWith('/api/v1/approvals/apr_1?wait=')) a = nth(c.approval, looks++)
      else if (/^\/api\/v1\/actions\/ev_\d\/outcome$/.test(req.url)) {
        a = nth(c.report ?? [{ status: 200, body: { evidence_event_id: 'ev_1', state: 'succeeded' } }], outcomes.length)
        outcomes.push(JSON.parse(said))
      } else { t.diagnostic('asked for ' + req.url); a = { status: 500, body: 'asked for what is not there' } }
      if (a.unreachable) return req.socket.destroy()
      if (a.timeout) return
      const raw = Buffer.from(text(a.body))
      res.writeHead(a.status, present({ 'content-type': 'application/json', 'x-request-id': req.headers['x-request-id'], 'content-length': raw.length, ...a.headers }))
      if (a.cut) return res.write(raw.subarray(0, raw.length >> 1), () => req.socket.destroy())
      res.end(raw)
    })
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  t.after(() => { server.closeAllConnections(); server.close() })
  assert.ok(cases.length > 100)
  return { baseUrl: `http://127.0.0.1:${server.address().port}`, keys, bodies, outcomes }
}
