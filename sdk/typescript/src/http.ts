import { MisusedError, UnreachableError } from './errors.js'

export interface Transport {
  baseUrl: string
  apiKey: string
  timeoutMs: number
  retries: number
}

export interface Answer { status: number; body: any }

const sleep = (ms: number, signal?: AbortSignal) => new Promise<void>((done, fail) => {
  if (signal?.aborted) return fail(signal.reason)
  const stop = () => { clearTimeout(timer); fail(signal!.reason) }
  const timer = setTimeout(() => { signal?.removeEventListener('abort', stop); done() }, ms)
  signal?.addEventListener('abort', stop, { once: true })
})

/**
 * One question to the API, repeated while it is the server's or the network's
 * fault: no connection, a time-out, 429, 5xx. Every attempt carries the same
 * Idempotency-Key, so a repetition is not a second question. An abort of the
 * caller's is thrown as it is.
 */
export async function call(t: Transport, method: string, path: string, body: unknown, signal?: AbortSignal, timeoutMs = t.timeoutMs): Promise<Answer> {
  const headers: Record<string, string> = { authorization: 'Bearer ' + t.apiKey }
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (method === 'POST') headers['idempotency-key'] = crypto.randomUUID()
  const text = body === undefined ? undefined : JSON.stringify(body)
  for (let attempt = 0; ; attempt++) {
    let wait = Math.min(2000, 100 * 2 ** attempt) * (0.5 + Math.random() / 2)
    let problem: string, cause: unknown
    try {
      const limit = AbortSignal.timeout(timeoutMs)
      const r = await fetch(t.baseUrl + path, { method, headers, body: text, redirect: 'manual', signal: signal ? AbortSignal.any([signal, limit]) : limit })
      const raw = await r.text()
      if (r.status !== 429 && r.status < 500) {
        try { return { status: r.status, body: raw ? JSON.parse(raw) : undefined } } catch { /* not the API */ }
        problem = `what answers there is not ActPass (HTTP ${r.status}, no JSON)`
        throw new UnreachableError(`ActPass could not be asked: ${problem}. Check baseUrl.`)
      }
      const after = Number(r.headers.get('retry-after'))
      if (after > 0) wait = Math.min(after * 1000, 5000)
      problem = `it answered ${r.status}`
    } catch (e) {
      if (signal?.aborted) throw signal.reason
      if (e instanceof UnreachableError) throw e
      cause = e
      problem = (e as Error)?.name === 'TimeoutError' ? `no answer within ${timeoutMs} ms` : 'no connection'
    }
    if (attempt >= t.retries) throw new UnreachableError(`ActPass could not be asked: ${problem}. Check that the sidecar runs and that baseUrl names its API.`, cause)
    await sleep(wait, signal)
  }
}

/** The body of a success; anything else is a MisusedError with what the API says. */
export function good(a: Answer): any {
  if (a.status >= 200 && a.status < 300) return a.body
  const e = a.body?.error ?? {}
  throw new MisusedError(`ActPass did not take the call: ${e.field ? e.field + ': ' : ''}${e.message ?? 'HTTP ' + a.status}.`, a.status, e.code ?? 'http_' + a.status, e.field)
}
