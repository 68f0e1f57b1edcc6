"""HTTP for the blocking client: one attempt, within one time-out."""

from __future__ import annotations

import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

from ._core import Answer, Ask, NoAnswer, Settings, bare

if TYPE_CHECKING:
    from http.client import HTTPConnection

# What an answer may weigh, in bytes.
MAX_ANSWER = 8 << 20

# Idle connections that are kept.
KEEP = 4


class _Until(io.RawIOBase):
    """What a socket gives until a deadline: a socket's own time-out starts anew
    with every byte, so that a slow server could hold a caller for ever."""

    def __init__(self, sock: Any) -> None:
        self.sock, self.end = sock, 0.0

    def left(self) -> None:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)

    def readable(self) -> bool:
        return True

    def readinto(self, b: Any) -> int:
        self.left()
        n: int = self.sock.recv_into(b)
        return n

    # What http.client wants of a socket.
    def sendall(self, data: Any) -> None:
        self.left()
        self.sock.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Borrowed(self))

    def setsockopt(self, *args: Any) -> None:
        self.sock.setsockopt(*args)

    def close(self) -> None:
        if not self.closed:
            self.sock.close()
        super().close()


class _Borrowed(io.RawIOBase):
    """A reader whose end is not the connection's."""

    def __init__(self, of: _Until) -> None:
        self.of = of

    def readable(self) -> bool:
        return True

    def readinto(self, b: Any) -> int:
        return self.of.readinto(b)


class Transport:
    """Safe for threads, and for a process that forks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: List["HTTPConnection"] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return "<actpass transport>"

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for c in idle:
            c.close()

    def _take(self) -> Optional["HTTPConnection"]:
        with self._lock:
            if self._pid != os.getpid():
                # The parent's: two processes on one connection would get each other's answers.
                self._idle, self._pid = [], os.getpid()
            while self._idle:
                c = self._idle.pop()
                if not readable(c.sock.sock):  # type: ignore[union-attr]
                    return c
                c.close()
            return None

    def _give(self, c: "HTTPConnection") -> None:
        with self._lock:
            if len(self._idle) < KEEP and self._pid == os.getpid():
                self._idle.append(c)
                return
        c.close()

    def attempt(self, ask: Ask) -> Answer:
        from http.client import HTTPException

        end = time.monotonic() + ask.timeout
        while True:
            kept = self._take()
            try:
                c = kept or self._connect(ask.timeout)
                return self._send(c, ask, end)
            except TimeoutError as e:
                raise NoAnswer(f"no answer within {round(ask.timeout * 1000)} ms") from bare(e)
            except (OSError, HTTPException) as e:
                if _timed_out(e):
                    raise NoAnswer(f"no answer within {round(ask.timeout * 1000)} ms") from bare(e)
                # A kept connection may have been closed while it was idle; that says
                # nothing of the server, and the Idempotency-Key makes it safe.
                if kept is None:
                    raise NoAnswer("no connection") from bare(e)

    def _connect(self, timeout: float) -> "HTTPConnection":
        from http.client import HTTPConnection, HTTPSConnection

        scheme, host, _ = split(self._settings.base_url)
        # Directly: the proxy variables of the environment often name the sidecar itself.
        c: "HTTPConnection" = (HTTPSConnection if scheme == "https" else HTTPConnection)(host, timeout=timeout)
        c.connect()
        c.sock = _Until(c.sock)
        c.auto_open = 0
        return c

    def _send(self, c: "HTTPConnection", ask: Ask, end: float) -> Answer:
        done = False
        try:
            c.sock.end = end  # type: ignore[union-attr]
            c.request(ask.method, split(self._settings.base_url)[2] + ask.path, ask.body, self._settings.headers(ask))
            r = c.getresponse()
            raw = r.read(MAX_ANSWER + 1)
            if len(raw) > MAX_ANSWER:
                raise OSError("the answer is larger than 8 MiB")
            if r.length:
                raise OSError("the answer is cut off")
            answer = Answer(ask, r.status, {k.lower(): v for k, v in r.getheaders()}, raw)
            done = r.isclosed() and not r.will_close
            return answer
        finally:
            if done:
                self._give(c)
            else:
                c.close()


def readable(sock: Any) -> bool:
    """Whether something came on a connection that nothing was asked on: its end, or
    an answer too many, which would be taken for the next one's."""
    import select

    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _timed_out(e: BaseException) -> bool:
    import socket

    return isinstance(e, socket.timeout)  # an alias of TimeoutError from Python 3.10 on


def split(base_url: str) -> Tuple[str, str, str]:
    """Scheme, host with port, and path of a base URL that Settings took."""
    scheme, _, rest = base_url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme, host, slash + path
