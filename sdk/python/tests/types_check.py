# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedExpression=false
"""Checked by test_types, never run. What is marked as an error is one: both
checkers complain of a mark that is not needed."""

from typing import List, Optional

from actpass import ActPass, AsyncActPass, GuardResult, HeldError, verify_evidence, verify_passport_offline
from actpass.wire import Decision, Mode

a = ActPass("sk_live_x", "support_agent", base_url="http://127.0.0.1:8090")
b = AsyncActPass("sk_live_x", "support_agent")


def right(mode: Mode) -> List[object]:
    r: GuardResult[int] = a.guard(tool="t", args={"amount": 1}, mode=mode, on_approval="wait", approval_timeout=1.5, execute=lambda: 1)
    n: int = r.unwrap()
    d: Optional[Decision] = r.decision
    if isinstance(r.error, HeldError):
        return [r.error.approval_id]
    p = a.issue_passport(allowed_tools=["t"], allowed_resources=["*"], resource_constraints={"max_amount": 1}, ttl=60)
    claims = verify_passport_offline(p["token"], a.jwks(), issuer="actpass")
    return [n, d["explain"]["next_steps"] if d else None, claims["jti"], verify_evidence(b"").tree_size]


@a.guard(tool="t", resource="stripe:charge:{charge}", args=lambda charge, amount: {"amount": amount})
def refund(charge: str, amount: int) -> str:
    return charge


@b.guard(tool="t", mode="enforce")
async def later(charge: str) -> str:
    return charge


async def awaited() -> None:
    s: str = await later("ch_1")
    r: GuardResult[str] = await b.guard(tool="t", execute=lambda: later("ch_1"))
    q: GuardResult[int] = await b.guard(tool="t", execute=lambda: 1)
    w: int = r.unwrap()  # type: ignore
    print(s, q, w)


kept: str = refund("ch_1", 1)
a.guard(execute=lambda: 1)  # type: ignore
a.guard(tool="t", mode="loose", execute=lambda: 1)  # type: ignore
a.guard(tool="t", on_approval="ask", execute=lambda: 1)  # type: ignore
a.guard(tool="t", userId="u", execute=lambda: 1)  # type: ignore
a.guard(tool="t", args=4900, execute=lambda: 1)  # type: ignore
a.guard(tool="t", execute=lambda n: n)  # type: ignore
a.guard(tool=1, execute=lambda: 1)  # type: ignore
ActPass("sk_live_x")  # type: ignore
ActPass("sk_live_x", "a", timeout="5")  # type: ignore
a.issue_passport(allowed_tools=["t"])  # type: ignore
a.issue_passport(allowed_tools=["t"], allowed_resources=["*"], ttl="60")  # type: ignore
a.preflight(tool="t", execute=lambda: 1)  # type: ignore
a.preflight(tool="t")["reason"]  # type: ignore
refund(1, 1)  # type: ignore
refund("ch_1")  # type: ignore
wrong: int = refund("ch_1", 1)  # type: ignore
late: str = later("ch_1")  # type: ignore
