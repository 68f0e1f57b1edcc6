import type { Decision } from './wire.js'

/** What every error of this package is. `message` says what to do; nothing secret is in it. */
export class ActPassError extends Error {
  /** Stable: `refused`, `held`, `expired`, `unreachable` or `misused`. */
  readonly kind: 'refused' | 'held' | 'expired' | 'unreachable' | 'misused'
  /** The decision that it is about; absent when none was made. */
  readonly decision?: Decision
  constructor(kind: ActPassError['kind'], message: string, decision?: Decision, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.kind = kind
    if (decision) this.decision = decision
  }
}

/** Policy, a passport or a human said no. The action was not run. */
export class RefusedError extends ActPassError {
  constructor(decision: Decision) {
    const rule = decision.explain.matched_rules.length ? ` Rule: ${decision.explain.matched_rules.join(', ')}.` : ''
    const next = decision.explain.next_steps.join(' ') || 'Do not retry it unchanged.'
    super('refused', `ActPass refused ${decision.tool}, and it was not run. ${decision.explain.summary}${rule} Reason: ${decision.reason_code}. ${next}`, decision)
  }
}

/** A human has to decide first. The action was not run. */
export class HeldError extends ActPassError {
  /** The approval that is open, `apr_...`. */
  readonly approvalId: string
  constructor(decision: Decision) {
    const id = decision.approval_request_id ?? ''
    super('held', `ActPass holds ${decision.tool} for a human, and it was not run. ${decision.explain.summary} Reason: ${decision.reason_code}. Approval ${id} is open: wait for it with waitForApproval, then call guard again unchanged.`, decision)
    this.approvalId = id
  }
}

/** The approval was not given, or not used, in time. The action was not run. */
export class ExpiredError extends ActPassError {
  constructor(message: string, decision?: Decision) { super('expired', message, decision) }
}

/** No usable answer came from ActPass. */
export class UnreachableError extends ActPassError {
  constructor(message: string, cause?: unknown, decision?: Decision) { super('unreachable', message, decision, { cause }) }
}

/** The call itself is wrong: a bad key, a bad argument. To repeat it changes nothing. */
export class MisusedError extends ActPassError {
  /** HTTP status of the answer, 0 when nothing was sent. */
  readonly status: number
  /** Code of the API, as in `invalid_request`. */
  readonly code: string
  /** The field of the request that it is about. */
  readonly field?: string
  constructor(message: string, status = 0, code = 'misused', field?: string) {
    super('misused', message)
    this.status = status
    this.code = code
    if (field) this.field = field
  }
}
