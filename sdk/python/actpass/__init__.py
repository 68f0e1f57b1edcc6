"""Ask ActPass before an agent acts, and run the action only when it may."""

from typing import TYPE_CHECKING

from ._client import ActPass
from ._core import GuardResult
from ._errors import ActPassError, ExpiredError, HeldError, MisusedError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from ._aio import AsyncActPass
    from ._offline import EvidenceError, PassportError, VerifiedBundle, verify_evidence, verify_passport_offline

__version__ = "0.1.0"
__all__ = [
    "ActPass",
    "ActPassError",
    "AsyncActPass",
    "EvidenceError",
    "ExpiredError",
    "GuardResult",
    "HeldError",
    "MisusedError",
    "PassportError",
    "RefusedError",
    "UnreachableError",
    "VerifiedBundle",
    "verify_evidence",
    "verify_passport_offline",
]


def __getattr__(name: str) -> object:
    # asyncio takes longer to load than all the rest: who does not use it does not wait.
    if name == "AsyncActPass":
        from ._aio import AsyncActPass

        return AsyncActPass
    if name in ("EvidenceError", "PassportError", "VerifiedBundle", "verify_evidence", "verify_passport_offline"):
        from . import _offline

        return getattr(_offline, name)
    raise AttributeError(f"module 'actpass' has no attribute {name!r}")
