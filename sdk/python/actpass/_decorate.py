"""What an action is when ``guard`` decorates a function: its call's own arguments."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Mapping, Tuple

from ._core import Action
from ._errors import MisusedError

# Of code objects: a generator's body does not run when it is called.
_GENERATOR = 0x20 | 0x200
_COROUTINE = 0x80


def is_coroutine_function(f: Callable[..., Any]) -> bool:
    return bool(_flags(f) & _COROUTINE)


def _flags(f: Callable[..., Any]) -> int:
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    return int(getattr(code, "co_flags", 0))


def check(f: Any, asynchronous: bool) -> None:
    if not callable(f):
        raise MisusedError("execute is required: the function that takes the action.")
    if _flags(f) & _GENERATOR:
        raise MisusedError("a generator runs nothing when it is called: guard a function that takes the action itself.")
    if not asynchronous and is_coroutine_function(f):
        raise MisusedError("this function is async: guard it with AsyncActPass.")


class Bound:
    """Makes the action of one call of a decorated function."""

    def __init__(self, f: Callable[..., Any], action: Mapping[str, Any]) -> None:
        import inspect

        self._signature = inspect.signature(f)
        self._action = action

    def action(self, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Action:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        names: Dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self._signature.parameters[name].kind is self._signature.parameters[name].VAR_KEYWORD:
                names.update(value)
            elif name not in ("self", "cls"):
                names[name] = value
        out = Action(self._action)
        for field in ("resource", "args", "user_id", "goal", "passport", "idempotency_key"):
            v = out.get(field)
            if callable(v):
                out[field] = v(*args, **kwargs)
        if out.get("args") is None:
            out["args"] = names
        if isinstance(self._action.get("resource"), str):
            out["resource"] = _fill(self._action["resource"], names)
        return out


def _fill(template: str, names: Mapping[str, Any]) -> str:
    def value(m: "re.Match[str]") -> str:
        v = names.get(m[1])
        if not isinstance(v, (str, int)):
            raise MisusedError(f"resource names {{{m[1]}}}, which is no text or whole number among the arguments of the call.")
        return str(v)

    return re.sub(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", value, template)


