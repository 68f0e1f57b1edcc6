# Made from api/openapi.yaml by `npm run wire` in sdk/typescript. Do not edit.
"""What the API takes and gives."""

from typing import Any, Dict, List, Literal, TypedDict, Union

ApprovalState = Literal["pending", "approved", "denied", "expired", "cancelled", "consumed"]
Constraints = Dict[str, Any]
DecisionWord = Literal["allow", "deny", "require_approval", "warn", "require_tool_reapproval"]
Enforcement = Literal["none", "warn", "block", "hold"]
Mode = Literal["monitor", "warn", "enforce", "strict"]
ModeOrNone = Literal["", "monitor", "warn", "enforce", "strict"]
RiskTier = Literal["low", "medium", "high", "critical"]
Time = str
TimeOrNull = Union[str, None]
Would = Dict[str, "Enforcement"]


class _Approval(TypedDict):
    id: str
    state: "ApprovalState"
    tool: str
    resource: str
    risk_tier: "RiskTier"
    #: With secrets redacted.
    args: Dict[str, Any]
    agent_id: str
    user_id: str
    goal: str
    reason_code: str
    summary: str
    policy: str
    rule: str
    #: Groups; empty for any approver.
    approvers: List[str]
    #: Different keys that must approve.
    required: int
    votes: List["Vote"]
    created_at: "Time"
    expires_at: "Time"
    decided_at: "TimeOrNull"
    use_before: "TimeOrNull"
    #: The event that opened it.
    event_id: str
    request: Union["Request", None]
    #: The event that used it; empty before.
    consumed_by: str
    #: Since it was asked for.
    age_seconds: int
    #: Until it ends by itself: while pending, the time left to decide; once approved, to use it; null when it is closed.
    expires_in_seconds: Union[int, None]
    #: What came of the call that used it; null before, and in the answers to `decide` and to callbacks.
    outcome: Union["ApprovalOutcome", None]


class Approval(_Approval, total=False):
    #: In the answer about one pending approval, for people: the rules above the asking one that would have allowed the call, and what it is away from them.
    beside: List["ApprovalBeside"]
    #: In the answer to the word that approved it, and nowhere else: the right to make this one request. It and the request's own retry share one use.
    passport_token: str
    passport_expires_at: "Time"
    grant: "Grant"


class ApprovalBeside(TypedDict):
    rule: str
    decision: Literal["allow"]
    #: The condition as written.
    when: str
    misses: List[str]


class ApprovalOutcome(TypedDict):
    #: Of the event that used it; `unknown` where neither its record nor a word of the sidecar that sent it is at hand.
    state: Literal["pending", "forwarded", "blocked", "refused", "ambiguous", "unknown"]
    #: HTTP status of the answer, or of the refusal; 0 for none.
    status: int
    event_id: str
    used_at: "TimeOrNull"
    #: Where the call goes; empty for an action that the agent runs itself.
    host: str
    #: What is known.
    summary: str
    #: What a human has to find out, because nobody knows whether the call took effect; empty otherwise.
    check: str


class _Decision(TypedDict):
    decision: "DecisionWord"
    reason_code: str
    risk_tier: "RiskTier"
    explain: "Explain"
    evidence_event_id: str
    mode: "Mode"
    enforcement: "Enforcement"
    would: "Would"
    tool: str
    resource: str


class Decision(_Decision, total=False):
    approval_request_id: str
    policy_hash: str
    mapping_hash: str


class ErrorBody(TypedDict):
    error: "ErrorBodyError"


class _ErrorBodyError(TypedDict):
    #: Stable, as in invalid_request or approval.illegal_state.
    code: str
    #: A sentence for people.
    message: str


class ErrorBodyError(_ErrorBodyError, total=False):
    #: Of the request; nested ones are joined by dots.
    field: str
    #: With readiness.reading: the share of the record that is read.
    progress: float


class Explain(TypedDict):
    summary: str
    matched_rules: List[str]
    next_steps: List[str]


class Grant(TypedDict):
    id: str
    state: Literal["live", "used_up", "expired", "revoked"]
    agent_id: str
    tool: str
    resource: str
    resource_constraints: Dict[str, Any]
    free_args: List[str]
    policy: str
    rule: str
    count: int
    used: int
    sum: Union["GrantSum", None]
    summed: int
    #: Of the key that granted.
    key_id: str
    #: Of that key.
    name: str
    reason: str
    #: That it was made from; empty without one.
    approval_id: str
    created_at: "Time"
    expires_at: "Time"
    revoked_at: "TimeOrNull"
    revoked_by: str


class GrantSum(TypedDict):
    #: An integer argument.
    arg: str
    #: The most that all uses may come to.
    max: int


class IssuedPassport(TypedDict):
    #: A JWS. Send it as ActPass-Passport, or as `passport` of a preflight.
    token: str
    jti: str
    expires_at: "Time"


class JWKS(TypedDict):
    keys: List["JWKSKeys"]


class JWKSKeys(TypedDict):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    #: Base64url.
    x: str
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class _NewPassport(TypedDict):
    agent_id: str
    #: Names, or globs in which * stands for any run of characters.
    allowed_tools: List[str]
    #: Names or globs, as above.
    allowed_resources: List[str]


class NewPassport(_NewPassport, total=False):
    user_id: str
    goal: str
    resource_constraints: "Constraints"
    #: The highest risk that it allows; without it any.
    risk_tier: Literal["", "low", "medium", "high", "critical"]
    #: The one request that it is for.
    approval_hash: str
    #: Without it, the sidecar's own.
    audience: str
    #: The claim's name for `audience`.
    aud: str
    #: The sidecar's own, or absent.
    iss: str
    #: The key's own, or absent.
    tenant_id: str
    #: Seconds; without it 300.
    ttl: int


class _Outcome(TypedDict):
    state: Literal["succeeded", "failed", "unknown"]


class Outcome(_Outcome, total=False):
    #: HTTP status of the provider's answer.
    status: int
    error: str


class _PassportClaims(TypedDict):
    iss: str
    aud: str
    #: Seconds since 1970.
    exp: int
    #: Seconds since 1970.
    iat: int
    jti: str
    tenant_id: str
    agent_id: str
    allowed_tools: List[str]
    allowed_resources: List[str]


class PassportClaims(_PassportClaims, total=False):
    user_id: str
    goal: str
    resource_constraints: "Constraints"
    risk_tier: "RiskTier"
    approval_hash: str


class _PassportVerdict(TypedDict):
    valid: bool


class PassportVerdict(_PassportVerdict, total=False):
    claims: "PassportClaims"
    #: What is wrong, as in passport.expired.
    reason_code: str
    message: str


class _Preflight(TypedDict):
    tool: str
    agent_id: str


class Preflight(_Preflight, total=False):
    resource: str
    #: Numbers are taken exactly as written. The tool's declared argument types apply as they do to traffic.
    args: Dict[str, Any]
    user_id: str
    goal: str
    #: Can only tighten what is set for the key or agent.
    mode: "ModeOrNone"
    passport: str
    idempotency_key: str
    intent: Literal["", "execute"]


class Reported(TypedDict):
    evidence_event_id: str
    state: Literal["succeeded", "failed", "unknown"]


class _Request(TypedDict):
    method: str
    authority: str
    path: str
    #: Of the body; -1 when not known.
    bytes: int


class Request(_Request, total=False):
    content_type: str
    body_sha256: str


class _RevokePassport(TypedDict):
    jti: str


class RevokePassport(_RevokePassport, total=False):
    reason: str


class RevokedPassport(TypedDict):
    jti: str
    revoked_at: "Time"


class _VerifyPassport(TypedDict):
    token: str


class VerifyPassport(_VerifyPassport, total=False):
    #: Without it, the sidecar's own.
    audience: str


class Vote(TypedDict):
    key_id: str
    name: str
    decision: Literal["approve", "deny", "escalate", "cancel"]
    reason: str
    time: "Time"
    #: An approval towards `required`. One given before an escalation counts when its key is in the new groups too.
    counts: bool
