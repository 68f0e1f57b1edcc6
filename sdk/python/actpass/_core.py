"""The rules, without any input or output: generators that say what to do next.

Both clients drive the same generators, so that what runs when cannot differ
between them. A driver answers each step: ``Ask`` with an ``Answer``, or by
throwing ``NoAnswer`` in; ``Sleep`` with nothing; ``Run`` with what the action
gave, or by throwing in what it raised.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from typing import Any, Dict, Generator, Generic, List, Literal, Mapping, Optional, Sequence, Tuple, TypeVar, Union, cast

from ._errors import ActPassError, ExpiredError, HeldError, MisusedError, RefusedError, UnreachableError
from .wire import Approval, Decision

T = TypeVar("T")

OnApproval = Literal["return", "wait"]

MODES = ("monitor", "warn", "enforce", "strict")


class Answer:
    """An answer of HTTP: the status, whether it says that it is JSON, the Retry-After
    in seconds, the body as it came."""

    __slots__ = ("status", "json", "retry_after", "raw")

    def __init__(self, ask: "Ask", status: int, headers: Mapping[str, str], raw: bytes) -> None:
        of = headers.get("x-request-id")
        if of is not None and of != ask.id:
            # Meant for another question, on a connection that somebody mixed up.
            raise NoAnswer("its answer was to another question")
        self.status = status
        self.raw = raw
        self.json = re.match(r"(?i)application/json *(;|$)", headers.get("content-type", "")) is not None
        retry_after = headers.get("retry-after")
        self.retry_after = float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}", retry_after) else 0.0


class NoAnswer(Exception):
    """What a driver throws in for an attempt that got none."""


class Action(Dict[str, Any]):
    """What is asked about. Error reporters show local variables: of this one, nothing."""

    def __repr__(self) -> str:
        return "<action>"


E = TypeVar("E", bound=BaseException)


def bare(e: E) -> E:
    """The error, and what it came of, without the frames in which the key was sent."""
    at: Optional[BaseException] = e
    while at is not None:
        at.__traceback__ = None
        at = at.__cause__ or at.__context__
    return e


class Ask:
    """One attempt at a question. ``timeout`` in seconds, for all of it; ``id`` comes
    back in the answer."""

    __slots__ = ("method", "path", "body", "key", "timeout", "id")

    def __init__(self, method: str, path: str, body: Optional[bytes], key: Optional[str], timeout: float) -> None:
        self.method, self.path, self.body, self.key, self.timeout = method, path, body, key, timeout
        self.id = os.urandom(16).hex()


class Sleep:
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Run:
    """Take the action, now and once."""

    __slots__ = ()


Step = Union[Ask, Sleep, Run]
Steps = Generator[Step, Any, T]


class Settings:
    """What a client was made with. The key is in no repr."""

    __slots__ = ("_key", "agent_id", "base_url", "timeout", "retries")

    def __init__(self, api_key: str, agent_id: str, base_url: str, timeout: float, retries: int) -> None:
        # Anything else in it would be refused by http.client with the key in the message.
        if not isinstance(api_key, str) or not re.fullmatch(r"sk_[\x21-\x7e]+", api_key):
            raise MisusedError("api_key is required: a key that begins with sk_, made with `actpass keys create`.")
        if not isinstance(agent_id, str) or not agent_id:
            raise MisusedError("agent_id is required: the agent that acts, as in support_agent.")
        if not isinstance(base_url, str) or not re.fullmatch(r"https?://(\[[^\s/?#@\]]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?(/[^\s?#]*)?", base_url) or not base_url.isascii():
            raise MisusedError("base_url must be like http://127.0.0.1:8090, without a user, a query and /api/v1.")
        if not timeout > 0 or retries < 0:
            raise MisusedError("timeout must be above 0 seconds, and retries not below 0.")
        self._key = api_key
        self.agent_id, self.base_url, self.timeout, self.retries = agent_id, base_url.rstrip("/"), float(timeout), retries

    def headers(self, ask: Ask) -> Dict[str, str]:
        h = {"Authorization": "Bearer " + self._key, "Accept": "application/json", "User-Agent": "actpass-python/0.1.0", "X-Request-Id": ask.id}
        if ask.body is not None:
            h["Content-Type"] = "application/json"
        if ask.key is not None:
            h["Idempotency-Key"] = ask.key
        return h


class Reply:
    __slots__ = ("status", "body")

    def __init__(self, status: int, body: Any) -> None:
        self.status, self.body = status, body


def encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as e:
        # Its text names types, and never values but those that are no number; somebody
        # else's __iter__ or keys may say anything.
        why = str(e) if re.fullmatch(r"[A-Za-z ]{1,80}[a-zA-Z_.]* is not JSON serializable|Out of range float values are not JSON compliant.{0,9}|Circular reference detected", str(e)) else type(e).__name__
    raise MisusedError(f"the call cannot be written as JSON: {why}. Give args as texts, whole numbers, lists and dicts.")


def strict(text: bytes) -> Any:
    """JSON in which no name stands twice, and no half of a surrogate pair (RFC 7493)."""

    def pairs(list_: List[Tuple[str, Any]]) -> Dict[str, Any]:
        d = dict(list_)
        if len(d) != len(list_):
            raise ValueError("a name twice")
        return d

    def none(_: str) -> Any:
        raise ValueError("no number of JSON")

    try:
        v = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_constant=none)
        json.dumps(v, ensure_ascii=False).encode("utf-8")  # raises on half a pair
        return v
    except RecursionError:
        raise ValueError("too deep") from None


def call(
    s: Settings, method: str, path: str, body: Optional[bytes], timeout: Optional[float] = None, retries: Optional[int] = None, secret: str = ""
) -> Steps[Reply]:
    """One question to the API, repeated while it is the server's or the network's
    fault: no connection, a time-out, 429, 5xx. Every attempt carries the same
    Idempotency-Key, so a repetition is not a second question. What is secret in the
    question is in no answer."""
    key = os.urandom(16).hex() if method == "POST" else None
    limit = s.timeout if timeout is None else timeout
    cause: Optional[BaseException]
    attempt = 0
    while True:
        wait = min(2.0, 0.1 * 2**attempt) * (0.5 + random.random() / 2)
        cause = None
        try:
            a = yield Ask(method, path, body, key, limit)
        except NoAnswer as e:
            problem, cause = str(e), e.__cause__
        else:
            if a.status != 429 and a.status < 500:
                for word in (s._key, secret):
                    if word:
                        a.raw = a.raw.replace(word.encode("utf-8", "surrogatepass"), b"***")
                try:
                    if a.json:
                        return Reply(a.status, strict(a.raw))
                except ValueError:
                    pass
                raise UnreachableError(f"ActPass could not be asked: what answers there is not ActPass (HTTP {a.status}, no JSON). Check base_url.")
            problem = f"it answered {a.status}"
            if a.retry_after > 0:
                wait = min(a.retry_after, 5.0)
        if attempt >= (s.retries if retries is None else retries):
            raise UnreachableError(f"ActPass could not be asked: {problem}. Check that the sidecar runs and that base_url names its API.") from cause
        yield Sleep(wait)
        attempt += 1


def good(r: Reply) -> Any:
    """The body of a success; anything else is a MisusedError with what the API says."""
    if 200 <= r.status < 300:
        return r.body
    e = r.body.get("error") if isinstance(r.body, dict) else None
    if not isinstance(e, dict):
        e = {}
    field = e.get("field") if isinstance(e.get("field"), str) else None
    said = f"{field}: " if field else ""
    raise MisusedError(
        f"ActPass did not take the call: {said}{e.get('message') or f'it answered HTTP {r.status}. Check base_url'}.", r.status, str(e.get("code") or f"http_{r.status}"), field
    )


class Question:
    """A question as it is sent. Encoded once: what is asked again after a wait is
    what was asked first, whatever became of args in the meantime."""

    __slots__ = ("body", "tool", "resource", "mode", "passport")

    def __init__(self, s: Settings, a: Mapping[str, Any], intent: str = "") -> None:
        if not isinstance(a["tool"], str) or not a["tool"]:
            raise MisusedError("tool is required, as in stripe.refund.create.")
        if a.get("mode") is not None and a["mode"] not in MODES:
            raise MisusedError("mode must be monitor, warn, enforce or strict; without it the operator's holds.")
        for name in ("resource", "user_id", "goal", "passport", "idempotency_key"):
            if a.get(name) is not None and not isinstance(a[name], str):
                raise MisusedError(f"{name} must be a text.")
        body: Dict[str, Any] = {"tool": a["tool"], "agent_id": s.agent_id}
        for name in ("resource", "args", "user_id", "goal", "mode", "passport", "idempotency_key"):
            if a.get(name) is not None:
                body[name] = a[name]
        if intent:
            body["intent"] = intent
        self.body = encode(body)
        self.tool: str = a["tool"]
        self.resource: str = a.get("resource") or ""
        self.mode: Optional[str] = a.get("mode")
        self.passport: str = a.get("passport") or ""


def _texts(v: Any) -> bool:
    return isinstance(v, list) and all(isinstance(x, str) for x in v)


def _is_id(v: Any) -> bool:
    return isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9_-]+", v) is not None


def _is_decision(d: Any) -> bool:
    if not isinstance(d, dict) or d.get("enforcement") not in ("none", "warn", "block", "hold") or d.get("mode") not in MODES:
        return False
    e = d.get("explain")
    if not isinstance(e, dict) or not isinstance(e.get("summary"), str) or not _texts(e.get("matched_rules")) or not _texts(e.get("next_steps")):
        return False
    if not all(isinstance(d.get(n), str) for n in ("decision", "reason_code", "tool", "resource")):
        return False
    return _is_id(d.get("evidence_event_id")) and ("approval_request_id" not in d or _is_id(d["approval_request_id"]))


def preflight(s: Settings, q: Question) -> Steps[Decision]:
    """The decision. What is not wholly one, is about another action, or is of a looser
    mode than was asked for, is none: nothing runs on it."""
    r = yield from call(s, "POST", "/api/v1/actions/preflight", q.body, secret=q.passport)
    d = r.body
    if r.status not in (200, 403) or not isinstance(d, dict) or "decision" not in d:
        good(r)
    if r.status not in (200, 403) or not _is_decision(d):
        raise UnreachableError("ActPass could not be asked: its answer is no decision. Check base_url.")
    if d["tool"] != q.tool or d["resource"] != q.resource:
        raise UnreachableError("ActPass could not be asked: its answer is about another action. Check base_url.")
    if MODES.index(d["mode"]) < MODES.index(q.mode or "monitor"):
        raise UnreachableError(f"ActPass could not be asked: its answer is of mode {d['mode']}, and {q.mode} was asked for. Check base_url.")
    if d["enforcement"] in ("none", "warn") and (r.status == 403 or (d["mode"] in ("enforce", "strict") and d["decision"] != "allow")):
        d = {**d, "enforcement": "block"}
    return cast(Decision, d)


def asked(s: Settings, action: Mapping[str, Any]) -> Steps[Decision]:
    return (yield from preflight(s, Question(s, action)))


def wait_for_approval(s: Settings, approval_id: str, timeout: Optional[float]) -> Steps[Approval]:
    if not _is_id(approval_id):
        raise MisusedError("approval_id is required, as in apr_..., which a HeldError has.")
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        began = time.monotonic()
        wait = 30.0 if end is None else max(0.0, min(30.0, end - began))
        r = yield from call(s, "GET", f"/api/v1/approvals/{approval_id}?wait={round(wait * 1000)}ms", None, wait + s.timeout)
        a = good(r)
        if not isinstance(a, dict) or a.get("id") != approval_id or not isinstance(a.get("state"), str):
            raise UnreachableError("ActPass could not be asked: its answer is not the approval. Check base_url.")
        if a["state"] != "pending" or (end is not None and time.monotonic() >= end):
            return cast(Approval, a)
        # It answers when something is decided, or when the wait is over: one that
        # answers at once is asked no faster for it.
        pause = min(0.2, began + wait - time.monotonic())
        if pause > 0:
            yield Sleep(pause)


class GuardResult(Generic[T]):
    """What came of ``guard``. ``error`` is set when the action was not run, and
    when it raised (then it is what it raised)."""

    __slots__ = ("decision", "result", "error", "executed", "warning", "reported")

    def __init__(self, decision: Optional[Decision], error: Optional[Exception] = None) -> None:
        #: None when ActPass was out of reach.
        self.decision = decision
        self.result: Optional[T] = None
        self.error = error
        #: Whether the action was called.
        self.executed = False
        #: Under warn, what policy says against it; or that ActPass was out of reach.
        self.warning: Optional[str] = None
        #: Whether the sidecar wrote the outcome down; None when there was none to report.
        self.reported: Optional[bool] = None

    def unwrap(self) -> T:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return cast(T, self.result)

    def __repr__(self) -> str:
        # Neither the result nor the error's text: both may hold what is secret.
        word = None if self.decision is None else self.decision["decision"]
        error = None if self.error is None else type(self.error).__name__
        return f"<GuardResult decision={word} executed={self.executed} error={error}>"


def guard(s: Settings, action: Mapping[str, Any], on_approval: str, approval_timeout: Optional[float]) -> Steps[GuardResult[Any]]:
    """Asks, runs the action at most once when the decision lets it, and reports what
    came of it. It raises for nothing but a misuse and what is no Exception
    (KeyboardInterrupt, a cancelled task); every other ending is in the result."""
    if on_approval not in ("return", "wait"):
        raise MisusedError("on_approval must be 'return' or 'wait'.")
    q = Question(s, action, "execute")
    try:
        d = yield from preflight(s, q)
    except UnreachableError as e:
        # Only an explicit monitor or warn may go on unasked: without a mode, the
        # operator's is not known here, and it may be enforce.
        if q.mode in ("monitor", "warn"):
            return (yield from _run(s, None, str(e)))
        return GuardResult(None, e.with_traceback(None))
    approval = d.get("approval_request_id")
    if d["enforcement"] == "hold" and on_approval == "wait" and approval:
        try:
            d = yield from _waited(s, q, d, approval, approval_timeout)
        except (UnreachableError, ExpiredError) as e:
            # It was held: whatever mode was asked for, nothing runs unasked now.
            e.decision = d
            return GuardResult(d, e.with_traceback(None))
    if d["enforcement"] == "block":
        return GuardResult(d, RefusedError(d))
    if d["enforcement"] == "hold":
        return GuardResult(d, HeldError(d))
    summary = d["explain"]["summary"] or f"ActPass warns of {d['tool']}: {d['reason_code']}."
    return (yield from _run(s, d, summary if d["enforcement"] == "warn" else None))


def _waited(s: Settings, q: Question, d: Decision, approval: str, timeout: Optional[float]) -> Steps[Decision]:
    a = yield from wait_for_approval(s, approval, timeout)
    if a["state"] == "pending":
        raise ExpiredError(f"Nobody decided approval {a['id']} in time, and {d['tool']} was not run. Call guard again unchanged to wait for it.")
    if a["state"] == "expired":
        raise ExpiredError(f"Approval {a['id']} expired, and {d['tool']} was not run. Call guard again to ask anew.")
    # Judged again: the approval is used here, once, whoever else waits for it.
    return (yield from preflight(s, q))


def _run(s: Settings, d: Optional[Decision], warning: Optional[str]) -> Steps[GuardResult[Any]]:
    out: GuardResult[Any] = GuardResult(d)
    out.warning, out.executed = warning, True
    said: Dict[str, Any] = {"state": "succeeded"}
    try:
        out.result = yield Run()
    except Exception as e:
        out.error = e
        said = _outcome(e)
    except GeneratorExit:
        raise
    except BaseException as e:
        # The caller is being stopped in the middle of the action: one attempt to
        # say so, then let it stop.
        if d is not None:
            yield from _report(s, d, _outcome(e), retries=0)
        raise
    if d is not None:
        out.reported = yield from _report(s, d, said)
    return out


def _outcome(e: BaseException) -> Dict[str, Any]:
    """Without an answer of the provider's it may have happened. The error's text may
    hold secrets: its name alone is reported."""
    name = type(e).__name__[:100]
    status = _attr(e, "status_code") or _attr(e, "http_status") or _attr(e, "status")
    if status is None:  # as requests, httpx and urllib have it
        status = _attr(_attr(e, "response"), "status_code")
    if status is None and type(e).__module__ == "urllib.error":
        status = _attr(e, "code")
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
        return {"state": "failed", "status": int(status), "error": name}
    return {"state": "unknown", "error": name}


def _attr(of: Any, name: str) -> Any:
    try:
        return getattr(of, name, None)
    except Exception:  # of somebody else's class, which may do anything
        return None


def _report(s: Settings, d: Decision, said: Mapping[str, Any], retries: Optional[int] = None) -> Steps[bool]:
    try:
        r = yield from call(s, "POST", f"/api/v1/actions/{d['evidence_event_id']}/outcome", encode(said), retries=retries)
        return r.status == 200
    except ActPassError:
        return False


def passport(agent_id: str, tools: Sequence[str], resources: Sequence[str], **more: Any) -> Dict[str, Any]:
    """What is wished for of a new one."""
    return {"agent_id": agent_id, "allowed_tools": list(tools), "allowed_resources": list(resources), **more}


def post(s: Settings, path: str, body: Mapping[str, Any], secret: str = "") -> Steps[Any]:
    return good((yield from call(s, "POST", path, encode({k: v for k, v in body.items() if v is not None}), secret=secret)))


def get(s: Settings, path: str) -> Steps[Any]:
    return good((yield from call(s, "GET", path, None)))
