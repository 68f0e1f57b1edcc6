import { ActPassError, ExpiredError, HeldError, MisusedError, RefusedError, UnreachableError } from './errors.js'
import { call, good, type Transport } from './http.js'
import type { Approval, Decision, IssuedPassport, JWKS, Mode, NewPassport, Outcome, PassportVerdict, Preflight, RevokedPassport } from './wire.js'

export interface ActPassOptions {
  /** `sk_live_...`, of role gateway. */
  apiKey: string
  /** For the reader. It is not sent: the tenant is the key's. */
  tenantId?: string
  agentId: string
  /** Of the sidecar's API, without /api/v1. Default http://127.0.0.1:8090. */
  baseUrl?: string
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
  /** Whether the outcome reached the record; absent when there was none to report. */
  reported?: boolean
}

export class ActPass {
  readonly #t: Transport
  readonly agentId: string

  constructor(o: ActPassOptions) {
    if (!o?.apiKey?.startsWith('sk_')) throw new MisusedError('apiKey is required: a key that begins with sk_, made with `actpass keys create`.')
    if (!o.agentId) throw new MisusedError('agentId is required: the agent that acts, as in support_agent.')
    this.agentId = o.agentId
    this.#t = { apiKey: o.apiKey, baseUrl: (o.baseUrl ?? 'http://127.0.0.1:8090').replace(/\/+$/, ''), timeoutMs: o.timeoutMs ?? 5000, retries: o.retries ?? 2 }
  }

  /** The decision on an action. Nothing is run, and nothing used up. */
  preflight(a: Action): Promise<Decision> { return this.#ask(a) }

  async #ask(a: Action, intent?: 'execute'): Promise<Decision> {
    if (!a.tool) throw new MisusedError('tool is required, as in stripe.refund.create.')
    const body: Preflight = { tool: a.tool, agent_id: this.agentId }
    if (a.resource !== undefined) body.resource = a.resource
    if (a.args !== undefined) body.args = a.args
    if (a.userId !== undefined) body.user_id = a.userId
    if (a.goal !== undefined) body.goal = a.goal
    if (a.mode !== undefined) body.mode = a.mode
    if (a.passport !== undefined) body.passport = a.passport
    if (a.idempotencyKey !== undefined) body.idempotency_key = a.idempotencyKey
    if (intent) body.intent = intent
    const r = await call(this.#t, 'POST', '/api/v1/actions/preflight', body, a.signal)
    const decided = (r.status === 200 || r.status === 403) && typeof r.body?.decision === 'string'
    const d = decided ? r.body as Decision : good(r) as Decision
    // What is not wholly a decision is none: nothing runs on it.
    if (!decided || !['none', 'warn', 'block', 'hold'].includes(d.enforcement) || typeof d.evidence_event_id !== 'string' || !Array.isArray(d.explain?.matched_rules) || !Array.isArray(d.explain.next_steps)) {
      throw new UnreachableError('ActPass could not be asked: its answer is no decision. Check baseUrl.')
    }
    if (r.status === 403 && (d.enforcement === 'none' || d.enforcement === 'warn')) return { ...d, enforcement: 'block' }
    return d
  }

  /**
   * Runs `execute` when the decision lets it, at most once, and reports what came
   * of it. It throws for nothing but an abort before `execute` and a misuse;
   * every other ending is in the result.
   */
  async guard<T>(o: GuardOptions<T>): Promise<GuardResult<T>> {
    if (typeof o?.execute !== 'function') throw new MisusedError('execute is required: the function that takes the action.')
    let d: Decision
    try {
      d = await this.#decide(o)
    } catch (e) {
      if (!(e instanceof ActPassError) || e.kind === 'misused') throw e
      // Only an explicit monitor or warn may go on unasked: without a mode, the
      // operator's is not known here, and it may be enforce.
      if (e.kind === 'unreachable' && !e.decision && (o.mode === 'monitor' || o.mode === 'warn')) return this.#run(o, null, e.message)
      return { decision: e.decision ?? null, error: e, executed: false }
    }
    if (d.enforcement === 'block') return { decision: d, error: new RefusedError(d), executed: false }
    if (d.enforcement === 'hold') return { decision: d, error: new HeldError(d), executed: false }
    return this.#run(o, d, d.enforcement === 'warn' ? d.explain.summary : undefined)
  }

  async #decide(o: GuardOptions<unknown>): Promise<Decision> {
    const d = await this.#ask(o, 'execute')
    if (d.enforcement !== 'hold' || o.onApproval !== 'wait' || !d.approval_request_id) return d
    try {
      return await this.#waited(o, d, d.approval_request_id)
    } catch (e) {
      // It was held: whatever mode was asked for, nothing runs unasked now.
      throw e instanceof UnreachableError ? new UnreachableError(e.message, e.cause, d) : e
    }
  }

  async #waited(o: GuardOptions<unknown>, d: Decision, id: string): Promise<Decision> {
    const a = await this.waitForApproval(id, { timeoutMs: o.approvalTimeoutMs, signal: o.signal })
    if (a.state === 'pending') throw new ExpiredError(`Nobody decided approval ${a.id} in time, and ${d.tool} was not run. Call guard again unchanged to wait for it.`, d)
    if (a.state === 'expired') throw new ExpiredError(`Approval ${a.id} expired, and ${d.tool} was not run. Call guard again to ask anew.`, d)
    // Judged again: the approval is used here, once, whoever else waits for it.
    return this.#ask(o, 'execute')
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
      const status = Number((e as any)?.statusCode ?? (e as any)?.status)
      // Without an answer of the provider's it may have happened. The error's text
      // may hold secrets: its name alone is reported.
      said = { state: status >= 100 && status <= 599 ? 'failed' : 'unknown', error: String((e as any)?.name ?? 'error').slice(0, 100) }
      if (said.state === 'failed') said.status = status
    }
    if (d) out.reported = await this.#report(d, said)
    return out
  }

  async #report(d: Decision, o: Outcome): Promise<boolean> {
    try {
      const r = await call(this.#t, 'POST', `/api/v1/actions/${encodeURIComponent(d.evidence_event_id)}/outcome`, o)
      return r.status === 200
    } catch { return false }
  }

  /** The approval once it is not pending any more, or as it is when `timeoutMs` is over. */
  async waitForApproval(id: string, o: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<Approval> {
    const end = Date.now() + (o.timeoutMs ?? Infinity)
    for (;;) {
      const wait = Math.max(0, Math.min(30_000, end - Date.now()))
      const a = good(await call(this.#t, 'GET', `/api/v1/approvals/${encodeURIComponent(id)}?wait=${Math.round(wait)}ms`, undefined, o.signal, wait + this.#t.timeoutMs)) as Approval
      if (a.state !== 'pending' || Date.now() >= end) return a
    }
  }

  async issuePassport(p: NewPassport): Promise<IssuedPassport> { return good(await call(this.#t, 'POST', '/api/v1/passports/issue', p)) }
  async verifyPassport(token: string, audience?: string): Promise<PassportVerdict> { return good(await call(this.#t, 'POST', '/api/v1/passports/verify', audience ? { token, audience } : { token })) }
  async revokePassport(jti: string, reason?: string): Promise<RevokedPassport> { return good(await call(this.#t, 'POST', '/api/v1/passports/revoke', reason ? { jti, reason } : { jti })) }
  async jwks(): Promise<JWKS> { return good(await call(this.#t, 'GET', '/api/v1/passports/jwks', undefined)) }
}
