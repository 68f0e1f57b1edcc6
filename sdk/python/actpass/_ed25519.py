"""Ed25519 verification (RFC 8032 section 5.1.7) with nothing but integers.

It verifies, it never signs: no secret passes through, so its time may depend on
its input. As in most libraries the equation is the one without the cofactor, and
R is compared by its bytes; an S that is not below the group's order is refused.
"""

from __future__ import annotations

import hashlib
from typing import Optional, Tuple

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)

# Extended coordinates: x = X/Z, y = Y/Z, x*y = T/Z.
_Point = Tuple[int, int, int, int]


def _add(a: _Point, b: _Point) -> _Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    i, j, k, m = f - e, h - g, h + g, f + e
    return (i * j % _P, k * m % _P, j * k % _P, i * m % _P)


def _times(n: int, p: _Point) -> _Point:
    out: _Point = (0, 1, 1, 0)
    while n:
        if n & 1:
            out = _add(out, p)
        p = _add(p, p)
        n >>= 1
    return out


def _encode(p: _Point) -> bytes:
    z = pow(p[2], _P - 2, _P)
    x, y = p[0] * z % _P, p[1] * z % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(b: bytes) -> Optional[_Point]:
    n = int.from_bytes(b, "little")
    sign, y = n >> 255, (n & (2**255 - 1)) % _P
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x - u) % _P:
        x = x * _ROOT % _P
        if (v * x * x - u) % _P:
            return None
    if x & 1 != sign:
        x = -x % _P
    return (x, y, 1, x * y % _P)


_B = _decode(bytes([0x58] + [0x66] * 31))
assert _B is not None


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature (64 bytes) over message is that of the key (32 bytes)."""
    if len(public) != 32 or len(signature) != 64 or _B is None:
        return False
    a = _decode(public)
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    minus = (-a[0] % _P, a[1], a[2], -a[3] % _P)
    return _encode(_add(_times(s, _B), _times(k, minus))) == signature[:32]
