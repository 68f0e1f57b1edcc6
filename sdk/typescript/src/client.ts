import { decided, encode, json } from './decision.js'
import { ActPassError, ExpiredError, HeldError, MisusedError, RefusedError, UnreachableError } from './errors.js'
import { call, good, sleep, type Transport } from './http.js'
import type { Approval, Decision, IssuedPassport, JWKS, Mode, NewPassport, Outcome, PassportVerdict, Preflight, RevokedPassport } from './wire.js'

export interface ActPassOptions {
  /** `sk_live_...`, of role gateway. Without one, as where the environment lacks it, the constructor throws. */
  apiKey: string | undefined
  /** For the reader. It is not sent: the tenant is the key's. */
  tenantId?: string
  agentId: string
  /** Of the sidecar's API, without /api/v1. Default http://127.0.0.1:8090. */
  baseUrl?: string | undefined
  /** Of one attempt, in milliseconds. Default 5000. */
  timeoutMs?: number
  /** Further attempts of a question that got no answer. Default 2. */
  retries?: number
}

export interface Action {
  tool: string
  resource?: string
  args?: Record<string, unknown>
  goal?: string
  userId?: string
  mode?: Mode
  passport?: string
  /** A part of the action: the same action with another key is another question to a human. */
  idempotencyKey?: string
  signal?: AbortSignal
}

export interface GuardOptions<T> extends Action {
  /** What a held action does. `return` (the default) gives a HeldError, `wait` waits for the human. */
  onApproval?: 'return' | 'wait'
  /** How long `wait` waits at most, in milliseconds. Default: until the approval expires. */
  approvalTimeoutMs?: number
  /** Runs once at most. `decision` is null when ActPass was out of reach under monitor or warn. */
  execute: (context: { decision: Decision | null; signal?: AbortSignal }) => T | Promise<T>
}

/** `error` is set when `execute` did not run, and when it threw (then it is what it threw). */
export interface GuardResult<T> {
  decision: Decision | null
  result?: T
  error?: unknown
  /** Whether `execute` was called. */
  executed: boolean
  /** Under warn, what policy says against it; or that ActPass was out of reach. */
  warning?: string
  /** Whether the sidecar wrote the outcome down; absent when there was none to report. */
  reported?: boolean
}

export class ActPass {
  readonly #t: Transport
  readonly agentId: string

  constructor(o: ActPassOptions) {
    // Anything else in it would be refused by node:http, with the key in the message.
    if (typeof o?.apiKey !== 'string' || !/^sk_[\x21-\x7e]+$/.test(o.apiKey)) throw new MisusedError('apiKey is required: a key that begins with sk_, made with `actpass keys create`.')
    if (typeof o.agentId !== 'string' || !o.agentId) throw new MisusedError('agentId is required: the agent that acts, as in support_agent.')
    const { apiKey, baseUrl = 'http://127.0.0.1:8090', timeoutMs = 5000, retries = 2 } = o
    if (!/^https?:\/\/[^\s/?#@\\]+(\/[^\s?#]*)?$/.test(baseUrl) || !URL.canParse(baseUrl)) throw new MisusedError('baseUrl must be like http://127.0.0.1:8090, without a user, a query and /api/v1.')
    if (!(timeoutMs > 0) || !(retries >= 0)) throw new MisusedError('timeoutMs must be above 0, and retries not below 0.')
    this.agentId = o.agentId
    this.#t = { apiKey, baseUrl: baseUrl.replace(/\/+$/, ''), timeoutMs, retries }
  }

  /** The decision on an action. Nothing is run, and nothing used up. */
  async preflight(a: Action): Promise<Decision> { return this.#ask(this.#body(a), a.signal) }

  #body(a: Action, intent?: 'execute'): Question {
    const body: Preflight = { tool: a?.tool, agent_id: this.agentId }
    if (a.resource !== undefined) body.resource = a.resource
    if (a.args !== undefined) body.args = a.args
    if (a.userId !== undefined) body.user_id = a.userId
    if (a.goal !== undefined) body.goal = a.goal
    if (a.mode !== undefined) body.mode = a.mode
    if (a.passport !== undefined) body.passport = a.passport
    if (a.idempotencyKey !== undefined) body.idempotency_key = a.idempotencyKey
    if (intent) body.intent = intent
    return { body, text: encode(body) }
  }

  async #ask(q: Question, signal?: AbortSignal): Promise<Decision> {
    return decided(await call(this.#t, 'POST', '/api/v1/actions/preflight', q.text, signal, undefined, q.body.passport), q.body)
  }

  /**
   * Runs `execute` when the decision lets it, at most once, and reports what came
   * of it. It throws for nothing but an abort before `execute` and a misuse;
   * every other ending is in the result.
   */
  async guard<T>(o: GuardOptions<T>): Promise<GuardResult<T>> {
    // Read once: whatever becomes of the object while it waits.
    o = { ...o }
    if (typeof o.execute !== 'function') throw new MisusedError('execute is required: the function that takes the action.')
    if (o.onApproval !== undefined && o.onApproval !== 'return' && o.onApproval !== 'wait') throw new MisusedError("onApproval must be 'return' or 'wait'.")
    const q = this.#body(o, 'execute')
    let d: Decision
    try {
      d = await this.#decide(q, o)
    } catch (e) {
      if (!(e instanceof ActPassError) || e.kind === 'misused') throw e
      // Only an explicit monitor or warn may go on unasked: without a mode, the
      // operator's is not known here, and it may be enforce.
      if (e.kind === 'unreachable' && !e.decision && (o.mode === 'monitor' || o.mode === 'warn')) return this.#run(o, null, e.message)
      return { decision: e.decision ?? null, error: e, executed: false }
    }
    if (d.enforcement === 'block') return { decision: d, error: new RefusedError(d), executed: false }
    if (d.enforcement === 'hold') return { decision: d, error: new HeldError(d), executed: false }
    return this.#run(o, d, d.enforcement === 'warn' ? d.explain.summary || `ActPass warns of ${d.tool}: ${d.reason_code}.` : undefined)
  }

  async #decide(q: Question, o: GuardOptions<unknown>): Promise<Decision> {
    const d = await this.#ask(q, o.signal)
    if (d.enforcement !== 'hold' || o.onApproval !== 'wait' || !d.approval_request_id) return d
    try {
      return await this.#waited(q, o, d, d.approval_request_id)
    } catch (e) {
      // It was held: whatever mode was asked for, nothing runs unasked now.
      throw e instanceof UnreachableError ? new UnreachableError(e.message, e.cause, d) : e
    }
  }

  async #waited(q: Question, o: GuardOptions<unknown>, d: Decision, id: string): Promise<Decision> {
    const a = await this.waitForApproval(id, { timeoutMs: o.approvalTimeoutMs, signal: o.signal })
    if (a.state === 'pending') throw new ExpiredError(`Nobody decided approval ${id} in time, and ${d.tool} was not run. Call guard again unchanged to wait for it.`, d)
    if (a.state === 'expired') throw new ExpiredError(`Approval ${id} expired, and ${d.tool} was not run. Call guard again to ask anew.`, d)
    // Judged again: the approval is used here, once, whoever else waits for it.
    return this.#ask(q, o.signal)
  }

  async #run<T>(o: GuardOptions<T>, d: Decision | null, warning?: string): Promise<GuardResult<T>> {
    const out: GuardResult<T> = { decision: d, executed: true }
    if (warning !== undefined) out.warning = warning
    let said: Outcome
    try {
      o.signal?.throwIfAborted()
    } catch (e) {
      if (d) await this.#report(d, { state: 'failed', status: 499, error: 'aborted before it was run' })
      throw e
    }
    try {
      out.result = await o.execute({ decision: d, signal: o.signal })
      said = { state: 'succeeded' }
    } catch (e) {
      out.error = e
      said = outcome(e)
    }
    if (d) out.reported = await this.#report(d, said)
    return out
  }

  async #report(d: Decision, o: Outcome): Promise<boolean> {
    try {
      const r = await call(this.#t, 'POST', `/api/v1/actions/${d.evidence_event_id}/outcome`, JSON.stringify(o))
      return r.status === 200
    } catch { return false }
  }

  /** The approval once it is not pending any more, or as it is when `timeoutMs` is over. */
  async waitForApproval(id: string, o: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<Approval> {
    if (typeof id !== 'string' || !/^[\w-]+$/.test(id)) throw new MisusedError('an approval id is required, as in apr_..., which a HeldError has.')
    const end = Date.now() + (o.timeoutMs ?? Infinity)
    for (;;) {
      const began = Date.now(), wait = Math.max(0, Math.min(30_000, end - began))
      const a = good(await call(this.#t, 'GET', `/api/v1/approvals/${id}?wait=${Math.round(wait)}ms`, undefined, o.signal, wait + this.#t.timeoutMs)) as Approval
      if (a?.id !== id || typeof a.state !== 'string') throw new UnreachableError('ActPass could not be asked: its answer is not the approval. Check baseUrl.')
      if (a.state !== 'pending' || Date.now() >= end) return a
      // It answers when something is decided, or when the wait is over: one that answers at once is asked no faster for it.
      const pause = Math.min(200, began + wait - Date.now())
      if (pause > 0) await sleep(pause, o.signal)
    }
  }

  async issuePassport(p: NewPassport): Promise<IssuedPassport> { return good(await call(this.#t, 'POST', '/api/v1/passports/issue', json(p))) }
  async verifyPassport(token: string, audience?: string): Promise<PassportVerdict> { return good(await call(this.#t, 'POST', '/api/v1/passports/verify', json({ token, audience }), undefined, undefined, token)) }
  async revokePassport(jti: string, reason?: string): Promise<RevokedPassport> { return good(await call(this.#t, 'POST', '/api/v1/passports/revoke', json({ jti, reason }))) }
  async jwks(): Promise<JWKS> { return good(await call(this.#t, 'GET', '/api/v1/passports/jwks')) }
}

interface Question { body: Preflight; text: string }

/**
 * Without an answer of the provider's it may have happened. The error's text may
 * hold secrets: its name alone is reported. It is somebody else's, and may do
 * anything when it is looked at.
 */
function outcome(e: any): Outcome {
  const at = (name: string) => { try { return e?.[name] } catch { return undefined } }
  const name = at('name'), given = at('statusCode') ?? at('status'), status = typeof given === 'string' ? Number(given) : given
  const said = { error: (typeof name === 'string' && name ? name : 'error').slice(0, 100) }
  return typeof status === 'number' && Number.isInteger(status) && status >= 100 && status <= 599 ? { state: 'failed', status, ...said } : { state: 'unknown', ...said }
}
