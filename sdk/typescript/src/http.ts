import type { IncomingMessage, RequestOptions } from 'node:http'
import { MisusedError, UnreachableError } from './errors.js'
import { object, utf8 } from './object.js'

export interface Transport {
  baseUrl: string
  apiKey: string
  timeoutMs: number
  retries: number
  /** Made with the first question. */
  net?: Promise<Net>
}

/** The module, where to ask, and the connections that are kept. */
interface Net { http: Pick<typeof import('node:http'), 'request'>; to: RequestOptions; prefix: string }

export interface Answer { status: number; body: any }

// What an answer may weigh, in bytes.
const maxAnswer = 8 << 20
// What setTimeout takes; beyond it would be no time at all.
const maxWait = 2 ** 31 - 1

class NoAnswer extends Error {
  /** `reused`: on a connection that was kept, before a byte of the answer came. */
  constructor(message: string, cause?: unknown, readonly reused = false) { super(message, { cause }) }
}

interface Raw { status: number; after: number; json: boolean; raw: Buffer }

async function connect(baseUrl: string): Promise<Net> {
  const http = baseUrl.startsWith('https:') ? await import('node:https') : await import('node:http')
  const { protocol, hostname, port, pathname } = new URL(baseUrl)
  return { http, to: { protocol, hostname: hostname.replace(/^\[|\]$/g, ''), port, agent: new http.Agent({ keepAlive: true, maxFreeSockets: 4 }) }, prefix: pathname.replace(/\/$/, '') }
}

/** One attempt. Every way it ends is within `ms`, also where the answer drips. */
function attempt({ http, to, prefix }: Net, method: string, path: string, headers: Record<string, string>, body: string | undefined, ms: number, signal?: AbortSignal): Promise<Raw> {
  return new Promise((done, fail) => {
    if (signal?.aborted) return fail(signal.reason)
    // Its id comes back in the answer: one that was meant for another question, on a
    // connection that somebody mixed up, is none.
    const id = crypto.randomUUID()
    const req = http.request({ ...to, path: prefix + path, method, headers: { ...headers, 'x-request-id': id } })
    let begun = false
    const end = (error: unknown, answer?: Raw) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
      if (answer) return done(answer)
      fail(error)
      req.destroy()
    }
    const abort = () => end(signal!.reason)
    const timer = setTimeout(() => end(new NoAnswer(`no answer within ${ms} ms`)), Math.min(ms, maxWait))
    signal?.addEventListener('abort', abort, { once: true })
    req.on('error', (e) => end(new NoAnswer('no connection', e, req.reusedSocket && !begun)))
    req.on('response', (res: IncomingMessage) => {
      begun = true
      const of = res.headers['x-request-id']
      if (of !== undefined && of !== id) return end(new NoAnswer('its answer was to another question'))
      const parts: Buffer[] = []
      let size = 0
      res.on('data', (b: Buffer) => { parts.push(b); if ((size += b.length) > maxAnswer) end(new NoAnswer('its answer is larger than 8 MiB')) })
      res.on('error', (e) => end(new NoAnswer('no connection', e)))
      res.on('end', () => {
        const after = Number(res.headers['retry-after'])
        end(undefined, { status: res.statusCode!, after: after > 0 ? after : 0, json: /^application\/json *(;|$)/i.test(res.headers['content-type'] ?? ''), raw: Buffer.concat(parts) })
      })
    })
    req.end(body)
  })
}

const sleep = (ms: number, signal?: AbortSignal) => new Promise<void>((done, fail) => {
  if (signal?.aborted) return fail(signal.reason)
  const stop = () => { clearTimeout(timer); fail(signal!.reason) }
  const timer = setTimeout(() => { signal?.removeEventListener('abort', stop); done() }, ms)
  signal?.addEventListener('abort', stop, { once: true })
})
export { sleep }

/**
 * One question to the API, repeated while it is the server's or the network's
 * fault: no connection, a time-out, 429, 5xx. Every attempt carries the same
 * Idempotency-Key, so a repetition is not a second question. An abort of the
 * caller's is thrown as it is. What is secret in the question is in no answer.
 */
export async function call(t: Transport, method: string, path: string, body?: string, signal?: AbortSignal, timeoutMs = t.timeoutMs, secret = ''): Promise<Answer> {
  const headers: Record<string, string> = { authorization: 'Bearer ' + t.apiKey, accept: 'application/json' }
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (method === 'POST') headers['idempotency-key'] = crypto.randomUUID()
  // Its own connections, made directly: proxy variables often name the sidecar itself.
  const net = await (t.net ??= connect(t.baseUrl))
  for (let n = 0; ;) {
    let wait = Math.min(2000, 100 * 2 ** n) * (0.5 + Math.random() / 2)
    let problem: string, cause: unknown
    try {
      const r = await attempt(net, method, path, headers, body, timeoutMs, signal)
      if (r.status !== 429 && r.status < 500) {
        try {
          let text = utf8(r.raw)
          for (const s of [t.apiKey, secret]) if (s) text = text.replaceAll(s, '***')
          const body = r.json && object(text)
          if (body) return { status: r.status, body }
        } catch { /* not the API */ }
        throw new UnreachableError(`ActPass could not be asked: what answers there is not ActPass (HTTP ${r.status}, no JSON). Check baseUrl.`)
      }
      if (r.after) wait = Math.min(r.after * 1000, 5000)
      problem = `it answered ${r.status}`
    } catch (e) {
      if (signal?.aborted) throw signal.reason
      if (!(e instanceof NoAnswer)) throw e
      // A kept connection may have been closed while it was idle; that says nothing of
      // the server, and the Idempotency-Key makes it safe.
      if (e.reused) continue
      problem = e.message
      cause = e.cause
    }
    if (n++ >= t.retries) throw new UnreachableError(`ActPass could not be asked: ${problem}. Check that the sidecar runs and that baseUrl names its API.`, cause)
    await sleep(wait, signal)
  }
}

/** The body of a success; anything else is a MisusedError with what the API says. */
export function good(a: Answer): any {
  if (a.status >= 200 && a.status < 300) return a.body
  const e = a.body?.error ?? {}
  const field = typeof e.field === 'string' ? e.field : undefined
  throw new MisusedError(`ActPass did not take the call: ${field ? field + ': ' : ''}${e.message ?? `it answered HTTP ${a.status}. Check baseUrl`}.`, a.status, String(e.code ?? 'http_' + a.status), field)
}
