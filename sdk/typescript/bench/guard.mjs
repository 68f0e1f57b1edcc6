// What guard() adds to the call that it wraps, on loopback, against the real binary:
//   node bench/guard.mjs [N] [BIN...]
// The wrapped call does nothing, so that all the time is ours. One line of JSON for each
// binary, in milliseconds; beside guard, what its parts take: the question, and the
// smallest answer that the API gives. `best` is the least median of 20 calls in a row:
// on a machine that others use, the figure that is least theirs. Several binaries are
// asked by turns, call by call, so that what others do meets all alike.
import { ActPass } from '../dist/esm/index.js'
import { start } from '../test/sidecar.mjs'

const median = (list) => list.sort((a, b) => a - b)[list.length >> 1]
const [n = 500, ...bins] = process.argv.slice(2).map((a, i) => (i ? a : Number(a)))
const action = { tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123', args: { amount: 1, currency: 'usd' }, goal: 'resolve_refund_request', userId: 'user_456', mode: 'enforce' }
const arms = []
try {
  for (const bin of bins.length ? bins : [undefined]) {
    if (bin) process.env.ACTPASS_BIN = bin
    const sidecar = await start('limits: { api_rate: 0 }\n') // the bound on a key's calls would be what is measured
    const actpass = new ActPass({ apiKey: sidecar.key('--name', 'bench', '--role', 'gateway', '--agent', 'support_agent'), agentId: 'support_agent', baseUrl: sidecar.baseUrl })
    arms.push({
      sidecar, out: { client: 'node ' + process.version, ...(bin && { bin }), n },
      kinds: {
        guard: async () => { const r = await actpass.guard({ ...action, execute: () => 1 }); if (!r.executed || !r.reported) throw r.error },
        preflight: () => actpass.preflight(action),
        healthz: async () => (await fetch(sidecar.baseUrl + '/healthz')).text(),
      },
    })
  }
  for (const kind of ['guard', 'preflight', 'healthz']) {
    for (let i = -Math.min(n, 100); i < n; i++) {
      for (const arm of arms) {
        const t = performance.now()
        await arm.kinds[kind]()
        if (i >= 0) (arm[kind] ??= []).push(performance.now() - t)
      }
    }
    for (const { out, [kind]: took } of arms) {
      const best = Math.min(...Array.from({ length: Math.ceil(n / 20) }, (_, i) => median(took.slice(20 * i, 20 * i + 20))))
      took.sort((a, b) => a - b)
      const at = (q) => +took[Math.floor(n * q)].toFixed(3)
      out[kind] = { best: +best.toFixed(3), p10: at(0.1), p50: at(0.5), p99: at(0.99) }
    }
  }
  for (const { out } of arms) console.log(JSON.stringify(out))
} finally { for (const { sidecar } of arms) await sidecar.stop() }
