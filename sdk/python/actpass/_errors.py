from __future__ import annotations

from typing import Optional

from .wire import Decision


class ActPassError(Exception):
    """What every error of this package is. Its text says what to do; nothing secret is in it."""

    #: Stable: ``refused``, ``held``, ``expired``, ``unreachable`` or ``misused``.
    kind: str = ""

    def __init__(self, message: str, decision: Optional[Decision] = None) -> None:
        super().__init__(message)
        #: The decision that it is about; None when none was made.
        self.decision = decision


class RefusedError(ActPassError):
    """Policy, a passport or a human said no. The action was not run."""

    kind = "refused"

    def __init__(self, decision: Decision) -> None:
        explain = decision["explain"]
        rules = ", ".join(explain["matched_rules"])
        rule = f" Rule: {rules}." if rules else ""
        steps = " ".join(explain["next_steps"]) or "Do not retry it unchanged."
        super().__init__(
            f"ActPass refused {decision['tool']}, and it was not run. {explain['summary']}{rule} Reason: {decision['reason_code']}. {steps}",
            decision,
        )


class HeldError(ActPassError):
    """A human has to decide first. The action was not run."""

    kind = "held"

    def __init__(self, decision: Decision) -> None:
        #: The approval that is open, ``apr_...``.
        self.approval_id: str = decision.get("approval_request_id", "")
        super().__init__(
            f"ActPass holds {decision['tool']} for a human, and it was not run. {decision['explain']['summary']} Reason: {decision['reason_code']}. "
            f"Approval {self.approval_id} is open: wait for it with wait_for_approval, then call guard again unchanged.",
            decision,
        )


class ExpiredError(ActPassError):
    """The approval was not given, or not used, in time. The action was not run."""

    kind = "expired"


class UnreachableError(ActPassError):
    """No usable answer came from ActPass."""

    kind = "unreachable"


class MisusedError(ActPassError):
    """The call itself is wrong: a bad key, a bad argument. To repeat it changes nothing."""

    kind = "misused"

    def __init__(self, message: str, status: int = 0, code: str = "misused", field: Optional[str] = None) -> None:
        super().__init__(message)
        #: HTTP status of the answer, 0 when nothing was sent.
        self.status = status
        #: Code of the API, as in ``invalid_request``.
        self.code = code
        #: The field of the request that it is about.
        self.field = field
