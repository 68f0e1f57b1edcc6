"""What can be verified without asking anybody: evidence bundles and passports.

Written from the formats' documentation (the package comment of evidence/, and
docs/passports.md), so that it proves that they can be read by a stranger.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple, cast

from ._core import strict
from ._ed25519 import verify
from .wire import JWKS, PassportClaims


class EvidenceError(ValueError):
    """The bundle does not verify."""


class PassportError(ValueError):
    """The passport does not hold. ``reason_code`` is stable, as in passport.expired."""

    def __init__(self, reason_code: str, why: str) -> None:
        super().__init__(f"{reason_code}: {why}")
        self.reason_code = reason_code


class VerifiedBundle:
    """``public_key`` vouches for it; ``tree_size`` records were in the log at its
    checkpoint; ``records`` are pairs of index and record."""

    __slots__ = ("public_key", "tree_size", "records")

    def __init__(self, public_key: str, tree_size: int) -> None:
        self.public_key, self.tree_size = public_key, tree_size
        self.records: List[Tuple[int, Dict[str, Any]]] = []


_HASH = r"[A-Za-z0-9+/]{43}="
_LINE = re.compile(rf'\{{"i":(0|[1-9][0-9]{{0,18}}),"h":"({_HASH})","p":\[((?:"{_HASH}"(?:,"{_HASH}")*)?)')
_MAX_LINE = 4 << 20


def _no(why: str) -> EvidenceError:
    return EvidenceError("the evidence bundle does not verify: " + why)


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _no("it has base64 that is none") from None
    if base64.b64encode(raw).decode() != text:
        raise _no("it has base64 that is not canonical")
    return raw


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _quoted(text: str) -> str:
    out = json.dumps(text, ensure_ascii=False)
    for c in "<>&\u2028\u2029":
        out = out.replace(c, f"\\u{ord(c):04x}")
    return out


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not re.search(r"\s", name)


def verify_evidence(bundle: bytes, public_key: Optional[str] = None) -> VerifiedBundle:
    """Checks an exported bundle (``actpass evidence export``) and raises an
    EvidenceError at the first fault. ``public_key`` is the verifier key known from
    elsewhere; without one the bundle's own is used, which shows damage, not forgery."""
    lines = bytes(bundle).split(b"\n")
    if lines.pop() != b"" or not lines:
        raise _no("a line is cut off")
    try:
        head = lines[0].decode("utf-8")
        h = strict(lines[0])
    except ValueError:
        raise _no("its header is no JSON") from None
    if not isinstance(h, dict) or h.get("bundle") != 1 or not all(isinstance(h.get(k), str) for k in ("origin", "key", "checkpoint")):
        raise _no("its header is not of format 1")
    origin, key, checkpoint = h["origin"], h["key"], h["checkpoint"]
    if head != f'{{"bundle":1,"origin":{_quoted(origin)},"key":{_quoted(key)},"checkpoint":{_quoted(checkpoint)}}}':
        raise _no("its header is not in its canonical form")
    if public_key is not None and key != public_key:
        raise _no("it is of another key")
    size, root = _checkpoint(origin, key, checkpoint)
    out = VerifiedBundle(key, size)
    last = -1
    for line in lines[1:]:
        start, cut, record = line.partition(b'],"r":')
        m = _LINE.fullmatch(start.decode("latin-1"))
        if not m or not cut or not record.endswith(b"}") or len(line) > _MAX_LINE:
            raise _no(f"the line behind record {last} is malformed")
        index, record = int(m[1]), record[:-1]
        if index <= last:
            raise _no(f"record {index} is out of order")
        if index >= size:
            raise _no(f"record {index} is not in the checkpoint")
        leaf = _sha256(b"\0", record)
        if _base64(m[2]) != leaf:
            raise _no(f"record {index} was altered")
        if not _included(index, size, leaf, [_base64(p) for p in re.findall(_HASH, m[3])], root):
            raise _no(f"record {index} is not in the tree of the checkpoint")
        try:
            read = strict(record)
        except ValueError:
            raise _no(f"record {index} is no JSON, or has a name twice") from None
        if not isinstance(read, dict):
            raise _no(f"record {index} is no object")
        out.records.append((index, read))
        last = index
    return out


def _checkpoint(origin: str, key: str, note: str) -> Tuple[int, bytes]:
    """Size and root of a signed note that the key signed (C2SP signed-note)."""
    m = re.fullmatch(r"([^+]+)\+([0-9a-f]{8})\+(\S+)", key)
    if not m or m[1] != origin or not _is_name(origin):
        raise _no("its key is not that of its origin")
    key_id, raw = bytes.fromhex(m[2]), _base64(m[3])
    if len(raw) != 33 or raw[0] != 1 or _sha256(origin.encode() + b"\n", raw)[:4] != key_id:
        raise _no("its key is malformed")
    if re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise _no("its checkpoint has control characters")
    text, gap, signatures = note.rpartition("\n\n")
    text += "\n"
    if not gap or not signatures.endswith("\n"):
        raise _no("its checkpoint is malformed")
    signed = False
    for line in signatures[:-1].split("\n"):
        s = re.fullmatch(r"\u2014 (\S+) (\S+)", line)
        if not s or not _is_name(s[1]):
            raise _no("a signature of its checkpoint is malformed")
        signature = _base64(s[2])
        if len(signature) < 5:
            raise _no("a signature of its checkpoint is malformed")
        if s[1] == origin and signature[:4] == key_id:
            if not verify(raw[1:], text.encode(), signature[4:]):
                raise _no("its checkpoint is not signed by its key")
            signed = True
    if not signed:  # by others alone, as witnesses are
        raise _no("its checkpoint is not signed by its key")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or lines[0] != origin or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
        raise _no("its checkpoint is malformed")
    for line in lines[3:]:
        if line.startswith("time ") and not re.fullmatch(r"time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line):
            raise _no("the time of its checkpoint is none")
    root = _base64(lines[2])
    if len(root) != 32:
        raise _no("its root is no hash")
    return int(lines[1]), root


def _included(index: int, size: int, leaf: bytes, proof: List[bytes], root: bytes) -> bool:
    """RFC 9162 section 2.1.3.2."""
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = _sha256(b"\1", p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = _sha256(b"\1", r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


_LEEWAY = 5
_TEXTS = {"iss": 1, "aud": 1, "jti": 1, "tenant_id": 1, "agent_id": 1, "user_id": 0, "goal": 0, "risk_tier": 0, "approval_hash": 0}
_LISTS = ("allowed_tools", "allowed_resources")
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _segment(text: str, what: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise PassportError("passport.malformed", f"{what} is not base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise PassportError("passport.malformed", f"{what} is not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise PassportError("passport.malformed", f"{what} is not base64url")
    return raw


def verify_passport_offline(
    token: str, jwks: JWKS, *, issuer: str = "actpass", audience: str = "actpass", now: Optional[float] = None
) -> PassportClaims:
    """The claims of a passport, by the public keys alone (``jwks()``); a
    PassportError otherwise. ``now`` is in seconds since 1970. Only the sidecar knows
    what was used and revoked: this does not say that the passport is still unused."""
    bad = "passport.malformed"
    parts = token.split(".")
    if len(token.encode("utf-8", "surrogatepass")) > 16 << 10 or len(parts) != 3:
        raise PassportError(bad, "it is not a token of this form")
    header, payload, signature = (_segment(p, what) for p, what in zip(parts, ("the header", "the claims", "the signature")))
    try:
        h = strict(header)
    except ValueError:
        h = None
    if not isinstance(h, dict):
        raise PassportError(bad, "the header is not one JSON object")
    if h.get("alg") != "EdDSA":
        raise PassportError("passport.algorithm", "only EdDSA is accepted")
    if set(h) - {"alg", "kid", "typ"} or h.get("typ") != "actpass+jwt":
        raise PassportError(bad, "the header is not that of a passport")
    key = _key(h.get("kid"), jwks)
    if not verify(key, token.rpartition(".")[0].encode(), signature):
        raise PassportError("passport.signature", "the signature does not fit")
    try:
        c = strict(payload)
    except ValueError:
        c = {}  # which lacks what a passport has
    _check_form(c)
    _check_constraints(c.get("resource_constraints"))
    at = time.time() if now is None else now
    if c["iss"] != issuer:
        raise PassportError("passport.issuer", "it was issued by another than is trusted here")
    if c["aud"] != audience:
        raise PassportError("passport.audience", "it is for another audience")
    if at >= c["exp"] + _LEEWAY:
        raise PassportError("passport.expired", "it expired")
    if at + _LEEWAY < c["iat"]:
        raise PassportError("passport.not_yet_valid", "it is issued in the future")
    return cast(PassportClaims, c)


def _key(kid: Any, jwks: Mapping[str, Any]) -> bytes:
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise PassportError("passport.key", "the kid is not a key's name")
    for k in jwks["keys"]:
        if k["kid"] == kid:
            if k["kty"] != "OKP" or k["crv"] != "Ed25519":
                break
            return _segment(k["x"], "the key")
    raise PassportError("passport.key", "the key is not known, or no longer used")


def _check_form(c: Any) -> None:
    def bad(why: str) -> PassportError:
        return PassportError("passport.malformed", why)

    if not isinstance(c, dict):
        raise bad("the claims are not one JSON object")
    known = {*_TEXTS, *_LISTS, "iat", "exp", "resource_constraints"}
    if set(c) - known:
        raise bad("it has a claim that is not known")
    for name, needed in _TEXTS.items():
        if not isinstance(c.get(name, ""), str) or (needed and name not in ("iss", "aud") and not c.get(name)):
            raise bad(f"{name} is missing, or no text")
    for name in _LISTS:
        if not isinstance(c.get(name, []), list) or not all(isinstance(x, str) for x in c.get(name, [])):
            raise bad(f"{name} is no list of texts")
    if not isinstance(c.get("resource_constraints", {}), dict):
        raise bad("resource_constraints is no object")
    for name in ("iat", "exp"):
        if type(c.get(name)) is not int or not -(2**63) <= c[name] < 2**63:
            raise bad(f"{name} is missing, or no whole number")
    if not c["jti"].startswith("ap_") or len(c["jti"].encode("utf-8", "surrogatepass")) > 128:
        raise bad("jti must begin with ap_, and have 128 bytes at most")
    if not 0 < c["exp"] - c["iat"] <= 3600:
        raise bad("it lives for no time, or for more than an hour")
    c.setdefault("iss", "")
    c.setdefault("aud", "")
    c.setdefault("allowed_tools", [])
    c.setdefault("allowed_resources", [])


def _is_number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def _check_constraints(all_: Optional[Mapping[str, Any]]) -> None:
    for name, v in (all_ or {}).items():
        if name in ("max_amount", "min_amount"):
            ok = _is_number(v)
        elif name == "currency":
            ok = isinstance(v, str)
        elif name in ("one_of", "equals", "prefix", "max", "min"):
            ok = isinstance(v, dict) and len(v) > 0
            for x in v.values() if ok else ():
                if name == "one_of":
                    ok = ok and isinstance(x, list) and len(x) > 0
                elif name == "prefix":
                    ok = ok and isinstance(x, str)
                elif name in ("max", "min"):
                    ok = ok and _is_number(x)
        else:
            ok = False
        if not ok:
            raise PassportError("passport.constraint", "a constraint has no meaning here")
