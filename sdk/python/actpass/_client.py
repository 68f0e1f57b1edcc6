from __future__ import annotations

import functools
import time
from typing import Any, Callable, Mapping, Optional, Sequence, TypeVar, Union, cast, overload

from . import _core
from ._core import Action, Ask, GuardResult, NoAnswer, OnApproval, Run, Settings, Sleep, Steps
from ._decorate import Bound, check
from ._errors import ActPassError, MisusedError
from ._http import Transport
from .wire import JWKS, Approval, Constraints, Decision, IssuedPassport, Mode, PassportVerdict, RevokedPassport, RiskTier

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# In a decorator, a value may depend on the call.
Text = Union[str, Callable[..., str], None]
Args = Union[Mapping[str, Any], Callable[..., Mapping[str, Any]], None]


class ActPass:
    """Asks ActPass before an agent acts. Safe for threads.

    ``api_key`` is ``sk_live_...``, of role gateway. ``base_url`` is that of the
    sidecar's API, without /api/v1. ``timeout`` is of one attempt, in seconds;
    ``retries`` are further attempts of a question that got no answer.
    ``tenant_id`` is for the reader: it is not sent, the tenant is the key's.
    """

    def __init__(
        self,
        api_key: str,
        agent_id: str,
        *,
        tenant_id: Optional[str] = None,
        base_url: str = "http://127.0.0.1:8090",
        timeout: float = 5.0,
        retries: int = 2,
    ) -> None:
        self._s = Settings(api_key, agent_id, base_url, timeout, retries)
        self._http = Transport(self._s)
        self.agent_id = agent_id

    def __repr__(self) -> str:
        return f"ActPass(agent_id={self.agent_id!r}, base_url={self._s.base_url!r})"

    def __enter__(self) -> "ActPass":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes idle connections. The client can be used again."""
        self._http.close()

    def _drive(self, steps: Steps[T], execute: Optional[Callable[[], Any]] = None) -> T:
        try:
            step = next(steps)
            while True:
                fault: Optional[BaseException] = None
                got: Any = None
                try:
                    if isinstance(step, Ask):
                        got = self._http.attempt(step)
                    elif isinstance(step, Sleep):
                        time.sleep(step.seconds)
                    elif isinstance(step, Run):
                        got = _execute(execute)
                except BaseException as e:
                    fault = e
                # Not while it is handled: it would be the context of what comes of it.
                step = steps.send(got) if fault is None else steps.throw(fault)
        except StopIteration as e:
            return cast(T, e.value)
        except ActPassError as e:
            # The frames below hold what was asked, and with it what is secret.
            raise e.with_traceback(None)

    @overload
    def guard(
        self,
        *,
        tool: str,
        execute: Callable[[], T],
        resource: Optional[str] = None,
        args: Optional[Mapping[str, Any]] = None,
        goal: Optional[str] = None,
        user_id: Optional[str] = None,
        mode: Optional[Mode] = None,
        passport: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        on_approval: OnApproval = "return",
        approval_timeout: Optional[float] = None,
    ) -> GuardResult[T]: ...

    @overload
    def guard(
        self,
        *,
        tool: str,
        resource: Text = None,
        args: Args = None,
        goal: Text = None,
        user_id: Text = None,
        mode: Optional[Mode] = None,
        passport: Text = None,
        idempotency_key: Text = None,
        on_approval: OnApproval = "return",
        approval_timeout: Optional[float] = None,
    ) -> Callable[[F], F]: ...

    def guard(
        self, *, tool: str, execute: Any = None, on_approval: OnApproval = "return", approval_timeout: Optional[float] = None, **action: Any
    ) -> Any:
        """Runs an action when the decision lets it, at most once, and reports what came of it.

        With ``execute``, a call: it gives a GuardResult, and raises for nothing but a
        misuse. Without, a decorator: the decorated function gives what it gave before,
        and raises what stopped it; ``args`` are then the call's own arguments unless
        given, ``resource`` may name them in braces, and the fields may be functions of them.

        ``on_approval`` is what a held action does: ``return`` gives a HeldError, ``wait``
        waits for the human, ``approval_timeout`` seconds at most, or until the approval expires.
        """
        action = _fields(tool, action)
        if execute is not None:
            check(execute, asynchronous=False)
            return self._drive(_core.guard(self._s, action, on_approval, approval_timeout), execute)

        def decorate(f: Callable[..., Any]) -> Callable[..., Any]:
            check(f, asynchronous=False)
            bound = Bound(f, action)

            @functools.wraps(f)
            def guarded(*a: Any, **kw: Any) -> Any:
                steps = _core.guard(self._s, bound.action(a, kw), on_approval, approval_timeout)
                r = self._drive(steps, lambda: f(*a, **kw))
                tell(r, tool)
                return r.unwrap()

            return guarded

        return decorate

    def preflight(
        self,
        *,
        tool: str,
        resource: Optional[str] = None,
        args: Optional[Mapping[str, Any]] = None,
        goal: Optional[str] = None,
        user_id: Optional[str] = None,
        mode: Optional[Mode] = None,
        passport: Optional[str] = None,
        idempotency_key: Optional[str] = None,
    ) -> Decision:
        """The decision on an action. Nothing is run, and nothing used up."""
        action = Action({
            "tool": tool, "resource": resource, "args": args, "goal": goal, "user_id": user_id,
            "mode": mode, "passport": passport, "idempotency_key": idempotency_key,
        })  # fmt: skip
        del args, passport  # which an error reporter would show
        return self._drive(_core.asked(self._s, action))

    def wait_for_approval(self, approval_id: str, timeout: Optional[float] = None) -> Approval:
        """The approval once it is not pending any more, or as it is after ``timeout`` seconds."""
        return self._drive(_core.wait_for_approval(self._s, approval_id, timeout))

    def issue_passport(
        self,
        *,
        allowed_tools: Sequence[str],
        allowed_resources: Sequence[str],
        agent_id: Optional[str] = None,
        user_id: Optional[str] = None,
        goal: Optional[str] = None,
        resource_constraints: Optional[Constraints] = None,
        risk_tier: Optional[RiskTier] = None,
        approval_hash: Optional[str] = None,
        audience: Optional[str] = None,
        tenant_id: Optional[str] = None,
        ttl: Optional[int] = None,
    ) -> IssuedPassport:
        """Makes a passport; ``agent_id`` is this client's unless given, ``ttl`` is in seconds."""
        wish = _core.passport(
            agent_id or self.agent_id, allowed_tools, allowed_resources, user_id=user_id, goal=goal, resource_constraints=resource_constraints,
            risk_tier=risk_tier, approval_hash=approval_hash, audience=audience, tenant_id=tenant_id, ttl=ttl,
        )  # fmt: skip
        return cast(IssuedPassport, self._drive(_core.post(self._s, "/api/v1/passports/issue", wish)))

    def verify_passport(self, token: str, audience: Optional[str] = None) -> PassportVerdict:
        """Asks whether a token is good here; ``audience`` is the sidecar's own unless given."""
        steps = _core.post(self._s, "/api/v1/passports/verify", {"token": token, "audience": audience}, secret=token)
        del token  # which an error reporter would show
        return cast(PassportVerdict, self._drive(steps))

    def revoke_passport(self, jti: str, reason: Optional[str] = None) -> RevokedPassport:
        """Ends a passport by its ``jti``."""
        return cast(RevokedPassport, self._drive(_core.post(self._s, "/api/v1/passports/revoke", {"jti": jti, "reason": reason})))

    def jwks(self) -> JWKS:
        """The public keys of passports."""
        return cast(JWKS, self._drive(_core.get(self._s, "/api/v1/passports/jwks")))


def _execute(f: Optional[Callable[[], Any]]) -> Any:
    assert f is not None
    got = f()
    if hasattr(got, "__await__"):
        if hasattr(got, "close"):
            got.close()
        raise MisusedError("execute gave something to be awaited: guard it with AsyncActPass.")
    return got


def _fields(tool: str, action: Mapping[str, Any]) -> Action:
    known = ("resource", "args", "goal", "user_id", "mode", "passport", "idempotency_key")
    for name in action:
        if name not in known:
            raise TypeError(f"guard() got an unexpected keyword argument {name!r}")
    return Action({"tool": tool, **action})


def tell(r: GuardResult[Any], tool: str) -> None:
    """A decorated function has no place for a warning: the logger ``actpass`` gets it."""
    if r.warning is not None:
        import logging

        event = r.decision["evidence_event_id"] if r.decision else "none"
        logging.getLogger("actpass").warning("%s was run: %s (event %s)", tool, r.warning, event)
