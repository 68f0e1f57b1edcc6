// Made from api/openapi.yaml by `npm run wire`. Do not edit.

export type Approval = {
  id: string
  state: ApprovalState
  tool: string
  resource: string
  risk_tier: RiskTier
  /** With secrets redacted. */
  args: { [name: string]: unknown }
  agent_id: string
  user_id: string
  goal: string
  reason_code: string
  summary: string
  policy: string
  rule: string
  /** Groups; empty for any approver. */
  approvers: Array<string>
  /** Different keys that must approve. */
  required: number
  votes: Array<Vote>
  created_at: Time
  expires_at: Time
  decided_at: TimeOrNull
  use_before: TimeOrNull
  /** The event that opened it. */
  event_id: string
  request: Request | null
  /** The event that used it; empty before. */
  consumed_by: string
  /** Since it was asked for. */
  age_seconds: number
  /** Until it ends by itself: while pending, the time left to decide; once approved, to use it; null when it is closed. */
  expires_in_seconds: number | null
  /** What came of the call that used it; null before, and in the answers to `decide` and to callbacks. */
  outcome: ApprovalOutcome | null
  /** In the answer about one pending approval, for people: the rules above the asking one that would have allowed the call, and what it is away from them. */
  beside?: Array<{
    rule: string
    decision: "allow"
    /** The condition as written. */
    when: string
    misses: Array<string>
  }>
  /** In the answer to the word that approved it, and nowhere else: the right to make this one request. It and the request's own retry share one use. */
  passport_token?: string
  passport_expires_at?: Time
  grant?: Grant
}

export type ApprovalOutcome = {
  /** Of the event that used it; `unknown` where neither its record nor a word of the sidecar that sent it is at hand. */
  state: "pending" | "forwarded" | "blocked" | "refused" | "ambiguous" | "unknown"
  /** HTTP status of the answer, or of the refusal; 0 for none. */
  status: number
  event_id: string
  used_at: TimeOrNull
  /** Where the call goes; empty for an action that the agent runs itself. */
  host: string
  /** What is known. */
  summary: string
  /** What a human has to find out, because nobody knows whether the call took effect; empty otherwise. */
  check: string
}

export type ApprovalState = "pending" | "approved" | "denied" | "expired" | "cancelled" | "consumed"

export type Constraints = { [name: string]: unknown }

export type Decision = {
  decision: DecisionWord
  reason_code: string
  risk_tier: RiskTier
  explain: Explain
  evidence_event_id: string
  mode: Mode
  enforcement: Enforcement
  would: Would
  approval_request_id?: string
  policy_hash?: string
  mapping_hash?: string
  tool: string
  resource: string
}

export type DecisionWord = "allow" | "deny" | "require_approval" | "warn" | "require_tool_reapproval"

export type Enforcement = "none" | "warn" | "block" | "hold"

export type ErrorBody = {
  error: {
    /** Stable, as in invalid_request or approval.illegal_state. */
    code: string
    /** A sentence for people. */
    message: string
    /** Of the request; nested ones are joined by dots. */
    field?: string
    /** With readiness.reading: the share of the record that is read. */
    progress?: number
  }
}

export type Explain = {
  summary: string
  matched_rules: Array<string>
  next_steps: Array<string>
}

export type Grant = {
  id: string
  state: "live" | "used_up" | "expired" | "revoked"
  agent_id: string
  tool: string
  resource: string
  resource_constraints: { [name: string]: unknown }
  free_args: Array<string>
  policy: string
  rule: string
  count: number
  used: number
  sum: GrantSum | null
  summed: number
  /** Of the key that granted. */
  key_id: string
  /** Of that key. */
  name: string
  reason: string
  /** That it was made from; empty without one. */
  approval_id: string
  created_at: Time
  expires_at: Time
  revoked_at: TimeOrNull
  revoked_by: string
}

export type GrantSum = {
  /** An integer argument. */
  arg: string
  /** The most that all uses may come to. */
  max: number
}

export type IssuedPassport = {
  /** A JWS. Send it as ActPass-Passport, or as `passport` of a preflight. */
  token: string
  jti: string
  expires_at: Time
}

export type JWKS = {
  keys: Array<{
    kty: "OKP"
    crv: "Ed25519"
    /** Base64url. */
    x: string
    kid: string
    use: "sig"
    alg: "EdDSA"
  }>
}

export type Mode = "monitor" | "warn" | "enforce" | "strict"

export type ModeOrNone = "" | "monitor" | "warn" | "enforce" | "strict"

export type NewPassport = {
  agent_id: string
  user_id?: string
  goal?: string
  /** Names, or globs in which * stands for any run of characters. */
  allowed_tools: Array<string>
  /** Names or globs, as above. */
  allowed_resources: Array<string>
  resource_constraints?: Constraints
  /** The highest risk that it allows; without it any. */
  risk_tier?: "" | "low" | "medium" | "high" | "critical"
  /** The one request that it is for. */
  approval_hash?: string
  /** Without it, the sidecar's own. */
  audience?: string
  /** The claim's name for `audience`. */
  aud?: string
  /** The sidecar's own, or absent. */
  iss?: string
  /** The key's own, or absent. */
  tenant_id?: string
  /** Seconds; without it 300. */
  ttl?: number
}

export type Outcome = {
  state: "succeeded" | "failed" | "unknown"
  /** HTTP status of the provider's answer. */
  status?: number
  error?: string
}

export type PassportClaims = {
  iss: string
  aud: string
  /** Seconds since 1970. */
  exp: number
  /** Seconds since 1970. */
  iat: number
  jti: string
  tenant_id: string
  agent_id: string
  user_id?: string
  goal?: string
  allowed_tools: Array<string>
  allowed_resources: Array<string>
  resource_constraints?: Constraints
  risk_tier?: RiskTier
  approval_hash?: string
}

export type PassportVerdict = {
  valid: boolean
  claims?: PassportClaims
  /** What is wrong, as in passport.expired. */
  reason_code?: string
  message?: string
}

export type Preflight = {
  tool: string
  resource?: string
  /** Numbers are taken exactly as written. The tool's declared argument types apply as they do to traffic. */
  args?: { [name: string]: unknown }
  agent_id: string
  user_id?: string
  goal?: string
  /** Can only tighten what is set for the key or agent. */
  mode?: ModeOrNone
  passport?: string
  idempotency_key?: string
  intent?: "" | "execute"
}

export type Reported = {
  evidence_event_id: string
  state: "succeeded" | "failed" | "unknown"
}

export type Request = {
  method: string
  authority: string
  path: string
  content_type?: string
  body_sha256?: string
  /** Of the body; -1 when not known. */
  bytes: number
}

export type RevokePassport = {
  jti: string
  reason?: string
}

export type RevokedPassport = {
  jti: string
  revoked_at: Time
}

export type RiskTier = "low" | "medium" | "high" | "critical"

export type Time = string

export type TimeOrNull = string | null

export type VerifyPassport = {
  token: string
  /** Without it, the sidecar's own. */
  audience?: string
}

export type Vote = {
  key_id: string
  name: string
  decision: "approve" | "deny" | "escalate" | "cancel"
  reason: string
  time: Time
  /** An approval towards `required`. One given before an escalation counts when its key is in the new groups too. */
  counts: boolean
}

export type Would = { [name: string]: Enforcement }
