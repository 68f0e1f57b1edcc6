"""The connections of the asyncio client: kept, given up when they die, and nobody
else's; and answers in every form that HTTP/1.1 gives them."""

import asyncio
import contextlib
import gc
import json
import pathlib
import socket
import threading
import unittest
import warnings

from actpass import ActPass, AsyncActPass, MisusedError
from actpass._aio_http import _answer
from stand_in import StandIn

DECISIONS = json.loads((pathlib.Path(__file__).resolve().parents[2] / "vectors/guard.json").read_text("utf-8"))["decisions"]
ALLOW = {"status": 200, "body": {"$d": "allow"}}


def client(url, kind=AsyncActPass, **more):
    return kind("sk_live_top_secret", "support_agent", base_url=url, **{"timeout": 1, "retries": 0, **more})


class Counting(StandIn):
    """Counts the connections that are made."""

    def __init__(self, *answers):
        super().__init__({"preflight": list(answers)}, DECISIONS, fit=True)
        self.accepted = []
        accept = self.server.get_request

        def counted():
            self.accepted.append(accept())
            return self.accepted[-1]

        self.server.get_request = counted

    @property
    def connections(self):
        return len(self.accepted)


class Kept(unittest.TestCase):
    def test_one_connection_serves_one_question_after_the_other(self):
        async def go():
            a = client(server.url)
            for _ in range(5):
                self.assertTrue((await a.guard(tool="t", execute=lambda: 1)).reported)

        with Counting(ALLOW) as server:
            asyncio.run(go())
            self.assertEqual((server.connections, len(server.keys), len(server.outcomes)), (1, 5, 5))

    def test_many_at_once_have_one_each_and_few_are_kept(self):
        async def go():
            async with client(server.url, timeout=5) as a:
                await asyncio.gather(*[a.preflight(tool="t") for _ in range(20)])
                self.assertLessEqual(len(a._http._idle), 4)
                self.assertGreater(len(a._http._idle), 0)
            self.assertEqual(a._http._idle, [])
            self.assertEqual((await a.preflight(tool="t"))["decision"], "allow", "it can be used again")

        with Counting(ALLOW) as server:
            asyncio.run(go())

    def test_each_loop_has_its_own_and_leaves_none(self):
        with Counting(ALLOW) as server, warnings.catch_warnings():
            warnings.simplefilter("error")
            a = client(server.url)
            for n in (1, 2, 3):
                asyncio.run(self.ask(a))
                self.assertEqual((server.connections, a._http._idle, a._http._ends), (n, [], {}))
            threads = [threading.Thread(target=asyncio.run, args=(self.ask(a),)) for _ in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual((len(server.keys), a._http._idle, a._http._ends), (11, [], {}))
            gc.collect()

    async def ask(self, a):
        self.assertEqual((await a.preflight(tool="t"))["decision"], "allow")

    def test_one_that_was_closed_while_idle_is_no_failure(self):
        async def go():
            a = client(server.url)
            await self.ask(a)
            for pause in (0, 0.05):  # its end is seen with the next question, or before
                server.accepted[-1][0].shutdown(socket.SHUT_RDWR)
                await asyncio.sleep(pause)
                await self.ask(a)

        with Counting(ALLOW) as server:
            asyncio.run(go())
            self.assertEqual((server.connections, len(server.keys)), (3, 3))

    def test_one_that_dies_under_a_question_is_asked_again_with_the_same_key(self):
        """Whatever became of the question: the server answers a key once. The action runs once."""
        for kind in (ActPass, AsyncActPass):
            ran = []
            with Counting(ALLOW, {"unreachable": True}, ALLOW) as server:
                a = client(server.url, kind)

                async def go(a=a, ran=ran):
                    for _ in range(2):
                        r = a.guard(tool="t", execute=lambda: ran.append(1))
                        self.assertTrue((r if isinstance(a, ActPass) else await r).executed)

                asyncio.run(go())
                if isinstance(a, ActPass):
                    a.close()
                self.assertEqual((len(ran), len(server.keys), server.connections), (2, 3, 2), kind)
                self.assertEqual((server.keys[1] == server.keys[2], server.keys[0] == server.keys[1]), (True, False))

    def test_one_that_was_never_answered_on_is_not_asked_again_at_once(self):
        """A new connection that dies is the server's fault: that is what retries count."""
        with Counting({"unreachable": True}) as server:
            a = client(server.url)
            r = asyncio.run(self.result(a))
            self.assertEqual((r.error.kind, len(server.keys)), ("unreachable", 1))

    async def result(self, a, **more):
        return await a.guard(tool="t", execute=lambda: self.fail("run"), **more)

    def test_a_cancelled_question_takes_its_connection_along(self):
        async def go():
            a = client(server.url)
            await self.ask(a)
            t = asyncio.ensure_future(a.preflight(tool="t"))
            await asyncio.sleep(0.1)
            t.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await t
            self.assertEqual(a._http._idle, [])
            await self.ask(a)

        with Counting(ALLOW, {"timeout": True}, ALLOW) as server:
            asyncio.run(go())
            self.assertEqual(server.connections, 2)

    def test_the_host_of_every_base_url(self):
        for url, want in {
            "http://127.0.0.1:8090": ("127.0.0.1", 8090, ""), "https://h.example": ("h.example", 443, ""), "http://[::1]:81/x": ("::1", 81, "/x"),
            "http://[::1]": ("::1", 80, ""), "http://h/": ("h", 80, ""),
        }.items():  # fmt: skip
            t = client(url)._http
            self.assertEqual((t._host, t._port, t._prefix), want)
        for kind in (ActPass, AsyncActPass):
            for url in ("http://h:x", "http://a:1:2", "http://[::1", "http://::1", "http://h:"):
                with self.assertRaises(MisusedError, msg=url):
                    client(url, kind)


HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n"


class Answers(unittest.TestCase):
    def read(self, raw, step):
        got = bytearray()
        reading = _answer(got)
        try:
            next(reading)
            for i in range(0, len(raw), step):
                got += raw[i : i + step]
                next(reading)
            reading.throw(EOFError("cut off"))
        except StopIteration as e:
            return e.value

    def test_whole_ones(self):
        for raw, body, keep in (
            (HEAD + b"Content-Length: 2\r\n\r\nok", b"ok", True),
            (HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
            (HEAD + b"content-length: 2\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\no\r\n00001\r\nk\r\n0\r\nT: r\r\n\r\n", b"ok", True),
            (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
            (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nok", b"ok", True),
            (HEAD + b"Connection: Close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
            (HEAD + b"\r\nok", b"ok", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
            (b"HTTP/1.1 204 \r\n\r\n", b"", True),
        ):
            for step in (1, 7, 1000):
                r = self.read(raw, step)
                self.assertEqual((r.body, r.keep), (body, keep), (raw, step))
        self.assertFalse(self.read(HEAD + b"Content-Length: 2\r\n\r\nokHTTP/1.1", 1000).keep, "more than was asked for")

    def test_broken_ones(self):
        for raw in (
            b"HTTP/2 200\r\n\r\n", b"\x00\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: +2\r\n\r\nok",
            HEAD + b"Content-Length: 8388609\r\n\r\n", HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", HEAD + b"Content-Length: 2, 2\r\n\r\nok",
            HEAD + b"Transfer-Encoding: gzip\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n900000\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nk", b"x" * 70000,
        ):  # fmt: skip
            with self.assertRaises(ValueError, msg=raw[:80]):
                self.read(raw, 1000)
        for raw in (b"", HEAD, HEAD + b"Content-Length: 3\r\n\r\nok", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"):
            with self.assertRaises(EOFError, msg=raw):
                self.read(raw, 1000)


if __name__ == "__main__":
    unittest.main()
