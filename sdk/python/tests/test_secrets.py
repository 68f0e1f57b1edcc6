"""Nothing secret in an error, a repr or a log: the key, the passport, what execute
raised; also not where an error reporter shows the local variables of each frame."""

import asyncio
import contextlib
import fcntl
import io
import json
import logging
import pathlib
import pickle
import socket
import termios
import threading
import time
import traceback
import unittest

from actpass import ActPass, ActPassError, AsyncActPass, MisusedError
from stand_in import StandIn

DECISIONS = json.loads((pathlib.Path(__file__).resolve().parents[2] / "vectors/guard.json").read_text("utf-8"))["decisions"]
KEY, PASSPORT, CARD = "sk_live_topsecret1", "eyJ.topsecret2.sig", "topsecret3"


def shown(e):
    """What anybody could print of an error, but the frames of this file."""
    out = [str(e), repr(e), repr(vars(e))]
    seen = set()

    def show(e):
        if e is None or id(e) in seen:
            return
        seen.add(id(e))
        t = traceback.TracebackException.from_exception(e, capture_locals=True)
        for frame in t.stack:
            if frame.filename != __file__:
                out.append(f"{frame.name} {frame.locals}")
        out.extend((str(e), repr(e)))
        show(e.__cause__)
        show(e.__context__)

    show(e)
    return "\n".join(out)


def arrived(conn):
    """Returns when what was sent has been acknowledged: on a busy machine that is
    later than sendall, also on loopback."""
    if not hasattr(termios, "TIOCOUTQ"):
        return time.sleep(0.05)
    end = time.monotonic() + 5
    while any(fcntl.ioctl(conn, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < end:
        time.sleep(0.0005)


ECHO = KEY + " " + PASSPORT
ANSWERS = {
    "no connection": {"unreachable": True},
    "no answer": {"timeout": True},
    "cut off": {"cut": True, "status": 200, "body": {"$d": "allow"}},
    "another question": {"status": 200, "headers": {"x-request-id": "x"}, "body": {"$d": "allow"}},
    "misuse that repeats the key": {"status": 401, "body": {"error": {"code": ECHO, "message": "no key " + ECHO, "field": ECHO}}},
    "a page that repeats the key": {"status": 200, "body": "<html>" + ECHO},
    "a refusal that repeats them": {"status": 403, "body": {"$d": "deny", "explain": {"summary": ECHO, "matched_rules": [ECHO], "next_steps": [ECHO]}}},
    "a hold that repeats them": {"status": 200, "body": {"$d": "hold", "reason_code": ECHO}},
    "500": {"status": 500, "body": ECHO},
    "no decision": {"status": 200, "body": {"decision": ECHO}},
}


class Secrets(unittest.TestCase):
    def no_secret(self, text, what):
        self.assertNotIn("topsecret", text, what)

    def errors(self, url, **more):
        """What both clients give or raise, as a call, as a decorator and from preflight."""
        asked = {"tool": "t", "args": {"card": CARD}, "passport": PASSPORT, "mode": "enforce", **more}

        def fails():
            raise AssertionError("run")

        with ActPass(KEY, "a", base_url=url, timeout=0.2, retries=0) as a:
            b = AsyncActPass(KEY, "a", base_url=url, timeout=0.2, retries=0)

            @a.guard(**asked)
            def f():
                fails()

            async def go(c):
                return await c

            for do in (
                lambda: a.guard(**asked, execute=fails), f, lambda: a.preflight(**asked), lambda: a.verify_passport(PASSPORT),
                lambda: asyncio.run(go(b.guard(**asked, execute=fails))), lambda: asyncio.run(go(b.preflight(**asked))),
            ):  # fmt: skip
                try:
                    r = do()
                except ActPassError as e:
                    yield e
                else:
                    self.no_secret(repr(r) if not isinstance(r, dict) else "", "the result")
                    if not isinstance(r, dict):
                        yield r.error

    def test_no_error_shows_one(self):
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        logging.getLogger().setLevel(logging.DEBUG)
        for what, answer in ANSWERS.items():
            with StandIn({"preflight": [answer]}, DECISIONS, fit=True) as server, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
                found = list(self.errors(server.url))
                self.assertGreaterEqual(len(found), 3, what)
                for e in found:
                    self.no_secret(shown(e), what)
        for what, more in {"no JSON": {"args": {"x": object(), "card": CARD}}, "a mode that is none": {"mode": "loose"}, "a text that is none": {"resource": 5}}.items():
            found = list(self.errors("http://127.0.0.1:9", **more))
            self.assertEqual(len(found), 6, what)
            for e in found:
                self.assertIn(e.kind, ("misused", "unreachable"))
                self.no_secret(shown(e), what)
        self.no_secret(log.getvalue(), "the log")

    def test_what_the_constructor_refuses_is_not_shown(self):
        for key, url in ((KEY + "\n", "http://h"), (KEY + "é", "http://h"), (KEY, "http://u:topsecret1@h"), (KEY, "http://hé/"), (KEY, "http://h/?k=topsecret1"), ("topsecret1", "http://h")):
            for kind in (ActPass, AsyncActPass):
                with self.assertRaises(MisusedError) as e:
                    kind(key, "a", base_url=url)
                self.assertNotIn("topsecret", str(e.exception) + repr(e.exception))

    def test_a_client_shows_none(self):
        a = ActPass(KEY, "a", base_url="http://127.0.0.1:9")
        self.no_secret(repr(a) + str(a) + repr(vars(a)) + repr(vars(a._http)), "the client")
        with self.assertRaises(Exception):
            pickle.dumps(a)  # nor does it travel

    def test_what_execute_raised_is_its_callers_and_reported_by_name_alone(self):
        with StandIn({"preflight": [{"status": 200, "body": {"$d": "allow"}}]}, DECISIONS, fit=True) as server:
            with ActPass(KEY, "a", base_url=server.url) as a:

                def execute():
                    raise ValueError("declined " + CARD)

                r = a.guard(tool="t", execute=execute)
            self.no_secret(repr(r) + json.dumps(server.outcomes), "the report")
            self.assertEqual(server.outcomes, [{"state": "unknown", "error": "ValueError"}])

    def test_an_answer_too_many_is_not_taken_for_the_next_ones(self):
        """Two answers to one question, on a connection that is kept: a deny, and an allow that nobody asked for."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def answer(name, head):
            at = head.lower().index(b"x-request-id: ") + 14
            body = json.dumps({**DECISIONS[name], "tool": "t", "resource": ""}).encode()
            identity = b"" if self.silent else b"X-Request-Id: " + head[at : head.index(b"\r", at)] + b"\r\n"
            return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + identity + b"Content-Length: %d\r\n\r\n" % len(body) + body

        def serve():
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(conn,), daemon=True).start()

        def one(conn):
            client = self.asking
            with conn:
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        try:
                            more = conn.recv(65536)
                        except ConnectionResetError:  # the client gave it up
                            return
                        if not more:
                            return
                        head += more
                    answers = answer("deny", head), answer("allow", head)
                    sent = self.sent  # of this question
                    with contextlib.suppress(OSError):
                        conn.sendall(answers[0])
                    time.sleep(0.002)
                    with contextlib.suppress(OSError):
                        conn.sendall(answers[1])
                        arrived(conn)
                    if client is self.asking:  # not of a connection that one before it left unread
                        sent.set()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for self.silent in (False, True):  # an id that comes back, and none
            with ActPass(KEY, "a", base_url=url, retries=0) as a:
                self.asking = a
                for _ in range(20):
                    self.sent = threading.Event()
                    r = a.guard(tool="t", execute=lambda: self.fail("run"))
                    self.assertFalse(r.executed)
                    if self.silent:
                        self.sent.wait(5)  # what has no id is known for a stray while nothing is asked

            async def go():
                self.asking = b = AsyncActPass(KEY, "a", base_url=url, retries=0)
                for _ in range(20):
                    self.sent = threading.Event()
                    r = await b.guard(tool="t", execute=lambda: self.fail("run"))
                    self.assertFalse(r.executed)
                    while self.silent and not self.sent.is_set():
                        await asyncio.sleep(0.001)

            asyncio.run(go())


if __name__ == "__main__":
    unittest.main()
