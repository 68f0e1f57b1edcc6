// What guard() adds to the call that it wraps, on loopback, against the real binary:
//   node bench/guard.mjs [N]
// The wrapped call does nothing, so that all the time is ours. One line of JSON,
// in milliseconds; beside guard, what its parts take: the question, and the smallest
// answer that the API gives. `best` is the least median of 20 calls in a row: on a
// machine that others use, the figure that is least theirs.
import { ActPass } from '../dist/esm/index.js'
import { start } from '../test/sidecar.mjs'

const median = (list) => list.sort((a, b) => a - b)[list.length >> 1]
const n = Number(process.argv[2] ?? 500)
const sidecar = await start('limits: { api_rate: 0 }\n') // the bound on a key's calls would be what is measured
try {
  const apiKey = sidecar.key('--name', 'bench', '--role', 'gateway', '--agent', 'support_agent')
  const actpass = new ActPass({ apiKey, agentId: 'support_agent', baseUrl: sidecar.baseUrl })
  const action = { tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount: 1, currency: 'usd' }, goal: 'resolve_refund_request', userId: 'user_456', mode: 'enforce' }
  const kinds = {
    guard: async () => { const r = await actpass.guard({ ...action, execute: () => 1 }); if (!r.executed) throw r.error },
    preflight: () => actpass.preflight(action),
    healthz: async () => (await fetch(sidecar.baseUrl + '/healthz')).text(),
  }
  const out = { client: 'node ' + process.version, n }
  for (const [kind, go] of Object.entries(kinds)) {
    for (let i = 0; i < Math.min(n, 100); i++) await go()
    const took = []
    for (let i = 0; i < n; i++) { const t = performance.now(); await go(); took.push(performance.now() - t) }
    const best = Math.min(...Array.from({ length: Math.ceil(n / 20) }, (_, i) => median(took.slice(20 * i, 20 * i + 20))))
    took.sort((a, b) => a - b)
    out[kind] = { best: +best.toFixed(3), p50: +took[n >> 1].toFixed(3), p99: +took[Math.floor(n * 0.99)].toFixed(3) }
  }
  console.log(JSON.stringify(out))
} finally { await sidecar.stop() }
