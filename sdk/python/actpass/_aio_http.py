"""HTTP for the client of asyncio: one attempt, within one time-out, on connections
that are kept. Each belongs to the event loop that made it."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any, AsyncGenerator, Callable, Dict, Generator, List, NamedTuple, Optional, Tuple

from ._core import Answer, Ask, NoAnswer, Settings, bare
from ._http import KEEP, MAX_ANSWER, readable, split

Loop = asyncio.AbstractEventLoop

# What a line or a head may weigh, in bytes.
_HEAD = 64 << 10


class Transport:
    """Safe for threads that have a loop each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        scheme, self._authority, self._prefix = split(settings.base_url)
        m = re.fullmatch(r"\[?(.+?)\]?(?::(\d+))?", self._authority)
        assert m is not None  # Settings took it
        self._tls = scheme == "https"
        self._host, self._port = m[1], int(m[2] or (443 if self._tls else 80))
        self._context: Any = None
        self._lock = threading.Lock()
        self._idle: List[_Connection] = []
        self._ends: Dict[Loop, AsyncGenerator[None, None]] = {}

    def __repr__(self) -> str:
        return "<actpass transport>"

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        self._drop(loop)
        await asyncio.sleep(0)  # the loop closes what was dropped

    def _drop(self, loop: Loop) -> None:
        with self._lock:
            own = [c for c in self._idle if c.loop is loop]
            self._idle = [c for c in self._idle if c.loop is not loop]
        for c in own:
            c.drop()

    def _take(self, loop: Loop) -> "Optional[_Connection]":
        while True:
            with self._lock:
                self._idle = [c for c in self._idle if c.alive and not c.loop.is_closed()]
                c = next((c for c in reversed(self._idle) if c.loop is loop), None)
                if c is None:
                    return None
                self._idle.remove(c)
            if c.quiet():
                return c
            c.drop()

    def _give(self, c: "_Connection") -> None:
        with self._lock:
            if c.alive and sum(i.loop is c.loop for i in self._idle) < KEEP:
                self._idle.append(c)
                return
        c.drop()

    async def attempt(self, ask: Ask) -> Answer:
        loop = asyncio.get_running_loop()
        end = loop.time() + ask.timeout
        head = {"Host": self._authority, **self._settings.headers(ask)}
        if ask.body is not None:
            head["Content-Length"] = str(len(ask.body))
        lines = "".join([f"{k}: {v}\r\n" for k, v in head.items()])
        text = f"{ask.method} {self._prefix}{ask.path} HTTP/1.1\r\n{lines}\r\n".encode("ascii") + (ask.body or b"")
        del head, lines
        try:
            while True:
                kept = self._take(loop)
                c = kept or _Connection(loop)
                c.ask(text)
                if kept is None:
                    await asyncio.wait_for(self._connect(c), end - loop.time())
                try:
                    raw = await c.answer(end)
                except _Unanswered:
                    # A kept connection may have been closed while it was idle; that says
                    # nothing of the server, and the Idempotency-Key makes it safe.
                    if kept is None:
                        raise
                    continue
                if raw.keep:
                    self._give(c)
                return Answer(ask, raw.status, raw.headers, raw.body)
        except asyncio.TimeoutError as e:
            raise NoAnswer(f"no answer within {round(ask.timeout * 1000)} ms") from bare(e)
        except (OSError, EOFError, ValueError) as e:
            # ValueError: what is no HTTP, or too long.
            raise NoAnswer("no connection") from bare(e)

    async def _connect(self, c: "_Connection") -> None:
        if self._tls and self._context is None:
            import ssl

            self._context = ssl.create_default_context()
        if c.loop not in self._ends:
            # In place before there is anything to close.
            self._ends[c.loop] = end = self._until_it_ends(c.loop)
            await end.__anext__()
        await c.loop.create_connection(lambda: c, self._host, self._port, ssl=self._context)

    async def _until_it_ends(self, loop: Loop) -> AsyncGenerator[None, None]:
        """What a loop that ends, as that of asyncio.run, does last is to close such
        generators: nobody has to close a client to have no connection left over."""
        try:
            yield
        finally:
            self._ends.pop(loop, None)
            await self.close()


class _Raw(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: bytes
    #: Whether the connection can be asked again.
    keep: bool


_Reading = Generator[None, None, _Raw]


class _Unanswered(OSError):
    """It was closed before a byte of the answer came."""


class _Connection(asyncio.Protocol):
    """One question at a time. It is read all the time, so that its end is seen, and
    an answer too many, which would be taken for the next one's."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.alive = True
        self._transport: Any = None
        self._got = bytearray()
        self._begun = False
        self._text = b""
        self._reading: Optional[_Reading] = None
        self._raw: "Optional[asyncio.Future[_Raw]]" = None

    def ask(self, text: bytes) -> None:
        """Sends a question, or has it sent as soon as the connection is made."""
        self._raw = self.loop.create_future()
        self._begun, self._reading, self._text = False, _answer(self._got), text
        next(self._reading)
        if self._transport is not None:
            self._transport.write(text)

    async def answer(self, end: float) -> _Raw:
        raw = self._raw
        assert raw is not None
        timer = self.loop.call_at(end, self._fail, asyncio.TimeoutError())
        keep = False
        try:
            got = await raw
            keep = got.keep
            return got
        finally:
            timer.cancel()
            self._raw = self._reading = None
            self._text = b""
            if raw.done() and not raw.cancelled():
                raw.exception()  # seen, also by a caller that was cancelled meanwhile
            if not keep:
                self.drop()

    def quiet(self) -> bool:
        """Whether nothing came that the loop has not looked at yet."""
        sock = self._transport.get_extra_info("socket")
        return self.alive and (sock is None or not readable(sock))

    def drop(self) -> None:
        self.alive = False
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort()

    def _asked(self) -> bool:
        return self._raw is not None and not self._raw.done()

    def _fail(self, e: BaseException) -> None:
        self.alive = False
        if self._raw is not None and not self._raw.done():
            self._raw.set_exception(e)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Before anything is read: what comes is an answer.
        self._transport.write(self._text)

    def data_received(self, data: bytes) -> None:
        if not self._asked():
            return self.drop()
        self._begun = True
        self._got += data
        self._read(lambda reading: next(reading))

    def eof_received(self) -> None:
        self._ended(EOFError("the answer is cut off"))

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._ended(exc or EOFError("the answer is cut off"))

    def _ended(self, e: Exception) -> None:
        self.alive = False
        if self._asked():
            self._read(lambda reading: reading.throw(e if self._begun else _Unanswered("the connection was closed")))

    def _read(self, on: Callable[[_Reading], None]) -> None:
        assert self._raw is not None and self._reading is not None
        try:
            on(self._reading)
        except StopIteration as whole:
            self._raw.set_result(whole.value)
        except (OSError, EOFError, ValueError) as why:
            self._fail(why)


def _answer(got: bytearray) -> _Reading:
    """Takes an answer off what came (RFC 9112), and yields for more to come. An end
    of the connection is thrown in."""
    status, said, keep = yield from _head(got)
    while 100 <= status < 200:
        status, said, keep = yield from _head(got)
    body, coding, length = b"", said.get("transfer-encoding"), said.get("content-length")
    if status in (204, 304):
        pass
    elif coding is not None:
        if coding.lower() != "chunked":
            raise ValueError("a transfer coding that is not known")
        keep = keep and length is None
        body = yield from _chunks(got)
    elif length is not None:
        if not re.fullmatch(r"\d{1,10}", length) or int(length) > MAX_ANSWER:
            raise ValueError("the answer is larger than 8 MiB")
        body = yield from _exactly(got, int(length))
    else:
        keep = False
        try:
            while len(got) <= MAX_ANSWER:
                yield
            raise ValueError("the answer is larger than 8 MiB")
        except EOFError:
            body = bytes(got)
            got.clear()
    # More than the answer is another one, to nothing that was asked.
    return _Raw(status, said, body, keep and not got)


def _head(got: bytearray) -> Generator[None, None, Tuple[int, Dict[str, str], bool]]:
    lines = (yield from _until(got, b"\r\n\r\n")).decode("latin-1").split("\r\n")
    m = re.match(r"HTTP/1\.([01]) (\d{3})(?: |$)", lines[0])
    if m is None:
        raise ValueError("no status line")
    said: Dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if name in ("content-length", "transfer-encoding") and said.get(name, value) != value:
            raise ValueError("the answer has two lengths")
        if colon:
            said[name] = value
    keep = m[1] == "1" and "close" not in said.get("connection", "").lower()
    return int(m[2]), said, keep


def _chunks(got: bytearray) -> Generator[None, None, bytes]:
    out = bytearray()
    while True:
        size = (yield from _until(got, b"\r\n")).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size) or int(size, 16) > MAX_ANSWER - len(out):
            raise ValueError("the answer is larger than 8 MiB")
        if int(size, 16) == 0:
            break
        out += yield from _exactly(got, int(size, 16))
        if (yield from _exactly(got, 2)) != b"\r\n":
            raise ValueError("a chunk of another size than it says")
    while (yield from _until(got, b"\r\n")):
        pass  # a trailer
    return bytes(out)


def _until(got: bytearray, mark: bytes) -> Generator[None, None, bytes]:
    at = 0
    while True:
        i = got.find(mark, at)
        if i >= 0:
            break
        if len(got) > _HEAD:
            raise ValueError("the answer's head is too long")
        at = max(0, len(got) - len(mark))
        yield
    out = bytes(got[:i])
    del got[: i + len(mark)]
    return out


def _exactly(got: bytearray, size: int) -> Generator[None, None, bytes]:
    while len(got) < size:
        yield
    out = bytes(got[:size])
    del got[:size]
    return out
