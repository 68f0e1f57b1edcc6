from __future__ import annotations

import asyncio
import functools
from typing import Any, Awaitable, Callable, Mapping, Optional, Sequence, TypeVar, Union, cast, overload

from . import _core
from ._aio_http import Transport
from ._client import Args, Text, _fields, tell
from ._core import Action, Ask, GuardResult, OnApproval, Run, Settings, Sleep, Steps
from ._decorate import Bound, check, is_coroutine_function
from ._errors import ActPassError, MisusedError
from .wire import JWKS, Approval, Constraints, Decision, IssuedPassport, Mode, PassportVerdict, RevokedPassport, RiskTier

T = TypeVar("T")
AF = TypeVar("AF", bound=Callable[..., Awaitable[Any]])


class AsyncActPass:
    """``ActPass`` for asyncio: the same rules, the same arguments.

    A task that is cancelled before the answer runs nothing; one that is cancelled
    while its action runs has the outcome reported as unknown.
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
        return f"AsyncActPass(agent_id={self.agent_id!r}, base_url={self._s.base_url!r})"

    async def __aenter__(self) -> "AsyncActPass":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes this loop's idle connections, as the end of the loop does. The client
        can be used again."""
        await self._http.close()

    async def _drive(self, steps: Steps[T], execute: Optional[Callable[[], Any]] = None) -> T:
        try:
            step = next(steps)
            while True:
                fault: Optional[BaseException] = None
                got: Any = None
                try:
                    if isinstance(step, Ask):
                        got = await self._http.attempt(step)
                    elif isinstance(step, Sleep):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, Run):
                        assert execute is not None
                        got = execute()
                        if hasattr(got, "__await__"):
                            got = await got
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
        execute: Callable[[], Union[Awaitable[T], T]],
        resource: Optional[str] = None,
        args: Optional[Mapping[str, Any]] = None,
        goal: Optional[str] = None,
        user_id: Optional[str] = None,
        mode: Optional[Mode] = None,
        passport: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        on_approval: OnApproval = "return",
        approval_timeout: Optional[float] = None,
    ) -> Awaitable[GuardResult[T]]: ...

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
    ) -> Callable[[AF], AF]: ...

    def guard(
        self, *, tool: str, execute: Any = None, on_approval: OnApproval = "return", approval_timeout: Optional[float] = None, **action: Any
    ) -> Any:
        """As ``ActPass.guard``; ``execute`` may be async or not, a decorated function must be async."""
        action = _fields(tool, action)
        if execute is not None:
            check(execute, asynchronous=True)
            return self._drive(_core.guard(self._s, action, on_approval, approval_timeout), execute)

        def decorate(f: Callable[..., Any]) -> Callable[..., Any]:
            check(f, asynchronous=True)
            if not is_coroutine_function(f):
                raise MisusedError("this function is not async: guard it with ActPass.")
            bound = Bound(f, action)

            @functools.wraps(f)
            async def guarded(*a: Any, **kw: Any) -> Any:
                steps = _core.guard(self._s, bound.action(a, kw), on_approval, approval_timeout)
                r: GuardResult[Any] = await self._drive(steps, lambda: f(*a, **kw))
                tell(r, tool)
                return r.unwrap()

            return guarded

        return decorate

    async def preflight(
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
        return await self._drive(_core.asked(self._s, action))

    async def wait_for_approval(self, approval_id: str, timeout: Optional[float] = None) -> Approval:
        """The approval once it is not pending any more, or as it is after ``timeout`` seconds."""
        return await self._drive(_core.wait_for_approval(self._s, approval_id, timeout))

    async def issue_passport(
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
        return cast(IssuedPassport, await self._drive(_core.post(self._s, "/api/v1/passports/issue", wish)))

    async def verify_passport(self, token: str, audience: Optional[str] = None) -> PassportVerdict:
        """Asks whether a token is good here; ``audience`` is the sidecar's own unless given."""
        steps = _core.post(self._s, "/api/v1/passports/verify", {"token": token, "audience": audience}, secret=token)
        del token  # which an error reporter would show
        return cast(PassportVerdict, await self._drive(steps))

    async def revoke_passport(self, jti: str, reason: Optional[str] = None) -> RevokedPassport:
        """Ends a passport by its ``jti``."""
        return cast(RevokedPassport, await self._drive(_core.post(self._s, "/api/v1/passports/revoke", {"jti": jti, "reason": reason})))

    async def jwks(self) -> JWKS:
        """The public keys of passports."""
        return cast(JWKS, await self._drive(_core.get(self._s, "/api/v1/passports/jwks")))
