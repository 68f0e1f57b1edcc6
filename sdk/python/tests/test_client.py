"""What the shared vectors do not say: decorators, misuse, secrets, cancelling."""

import asyncio
import json
import pathlib
import unittest

from actpass import ActPass, AsyncActPass, HeldError, MisusedError, RefusedError, UnreachableError
from stand_in import StandIn

DECISIONS = json.loads((pathlib.Path(__file__).resolve().parents[2] / "vectors/guard.json").read_text("utf-8"))["decisions"]
KEY = "sk_live_top_secret"


def answering(*names):
    status = {"allow": 200, "deny": 403, "hold": 200, "warned": 200}
    body = {"warned": {"$d": "deny", "decision": "warn", "enforcement": "warn", "mode": "warn"}}
    return StandIn({"preflight": [{"status": status[n], "body": body.get(n, {"$d": n})} for n in names]}, DECISIONS, fit=True)


class Client(unittest.TestCase):
    def client(self, server, kind=ActPass, **more):
        a = kind(KEY, "support_agent", base_url=server.url, timeout=1, retries=0, **more)
        if kind is ActPass:
            self.addCleanup(a.close)
        return a

    def test_a_decorated_function_is_asked_about_with_its_own_arguments(self):
        with answering("allow") as server:

            @self.client(server).guard(tool="t", resource="stripe:charge:{charge}", goal=lambda charge, **_: "for " + charge)
            def refund(charge, amount, *, currency="usd", **more):
                """Doc."""
                return (charge, amount, currency, more)

            self.assertEqual(refund("ch_1", amount=5, note="n"), ("ch_1", 5, "usd", {"note": "n"}))
            self.assertEqual((refund.__name__, refund.__doc__), ("refund", "Doc."))
            q = server.questions[0]
            self.assertEqual(q["args"], {"charge": "ch_1", "amount": 5, "currency": "usd", "note": "n"})
            self.assertEqual((q["resource"], q["goal"], q["intent"]), ("stripe:charge:ch_1", "for ch_1", "execute"))

    def test_a_method_and_given_args(self):
        with answering("allow") as server:
            a = self.client(server)

            class Shop:
                @a.guard(tool="t", args=lambda self, order: {"order": order.upper()})
                def cancel(self, order):
                    return order

            self.assertEqual(Shop().cancel("o"), "o")
            self.assertEqual(server.questions[0]["args"], {"order": "O"})

    def test_a_decorated_function_raises_what_stopped_it_or_what_it_raised(self):
        for name, error in (("deny", RefusedError), ("hold", HeldError), ("allow", ZeroDivisionError)):
            with answering(name) as server:

                @self.client(server).guard(tool="t")
                def f():
                    return 1 / 0

                with self.assertRaises(error):
                    f()

    def test_a_decorated_function_logs_its_warning_without_its_arguments(self):
        with answering("warned") as server:

            @self.client(server).guard(tool="t")
            def f(card):
                return 1

            with self.assertLogs("actpass", "WARNING") as logs:
                self.assertEqual(f("4242"), 1)
            self.assertNotIn("4242", "".join(logs.output))
            self.assertIn("refund_policy", logs.output[0])

    def test_a_call_that_does_not_fit_the_function_asks_nothing(self):
        with answering("allow") as server:

            @self.client(server).guard(tool="t")
            def f(a):
                return a

            self.assertRaises(TypeError, f)
            self.assertEqual(server.keys, [])

    def test_misuse_is_said_before_anything_is_sent(self):
        with answering("allow") as server:
            a, b = self.client(server), self.client(server, AsyncActPass)

            async def coroutine():
                pass

            def generator():
                yield 1

            wrong = {
                "no tool": lambda: a.guard(tool="", execute=lambda: 1),
                "mode": lambda: a.guard(tool="t", mode="loose", execute=lambda: 1),
                "on_approval": lambda: a.guard(tool="t", on_approval="ask", execute=lambda: 1),
                "not callable": lambda: a.guard(tool="t", execute=1),
                "async": lambda: a.guard(tool="t", execute=coroutine),
                "generator": lambda: a.guard(tool="t")(generator),
                "generator for asyncio": lambda: b.guard(tool="t")(generator),
                "not async": lambda: b.guard(tool="t")(lambda: 1),
                "NaN": lambda: a.guard(tool="t", args={"x": float("nan")}, execute=lambda: 1),
                "no JSON": lambda: a.guard(tool="t", args={"x": object()}, execute=lambda: 1),
                "key": lambda: ActPass("secret", "a"),
                "key with a line break": lambda: ActPass("sk_live_top_secret\n", "a"),
                "agent": lambda: ActPass(KEY, ""),
                "user in base_url": lambda: ActPass(KEY, "a", base_url="http://u:top_secret@h"),
                "timeout": lambda: ActPass(KEY, "a", timeout=0),
            }
            for what, f in wrong.items():
                with self.subTest(what), self.assertRaises(MisusedError) as e:
                    f()
                self.assertNotIn("secret", str(e.exception))
            with self.assertRaises(TypeError):
                a.guard(tool="t", agent="x", execute=lambda: 1)
            self.assertEqual(server.keys, [])

    def test_what_must_be_awaited_is_no_success(self):
        with answering("allow") as server:

            async def coroutine():
                pass

            r = self.client(server).guard(tool="t", execute=lambda: coroutine())
            self.assertIsInstance(r.error, MisusedError)
            self.assertEqual(server.outcomes[0]["state"], "unknown")

    def test_the_key_is_in_no_repr_and_in_no_cause(self):
        with answering("allow") as server:
            for kind in (ActPass, AsyncActPass):
                a = self.client(server, kind)
                self.assertNotIn("secret", repr(a) + str(vars(a)))
        gone = ActPass(KEY, "a", base_url=server.url, retries=0)
        e = gone.guard(tool="t", execute=lambda: 1).error
        self.assertIsInstance(e, UnreachableError)
        while e is not None:
            self.assertNotIn("secret", repr(e))
            e = e.__cause__ or e.__context__

    def test_the_status_of_an_error_is_found_where_libraries_keep_it(self):
        import urllib.error

        class Answer:
            status_code = 404

        def carrying(**attrs):
            e = Exception("x")
            vars(e).update(attrs)
            return e

        cases = [
            (carrying(status_code=402), 402), (carrying(http_status=409), 409), (carrying(response=Answer()), 404),
            (urllib.error.HTTPError("http://x", 410, "m", {}, None), 410), (carrying(status="402"), None), (carrying(code=404), None),
            (carrying(status=True), None), (carrying(status_code=1001), None),
        ]  # fmt: skip
        for e, status in cases:
            with answering("allow") as server:

                def execute(e=e):
                    raise e

                r = self.client(server).guard(tool="t", execute=execute)
                self.assertIs(r.error, e)
                self.assertEqual((server.outcomes[0]["state"], server.outcomes[0].get("status")), ("failed" if status else "unknown", status), repr(e))

    def test_args_that_change_while_it_runs_are_not_asked_about(self):
        args = {"amount": 1}
        case = {"preflight": [{"status": 200, "body": {"$d": "hold"}}, {"status": 200, "body": {"$d": "allow"}}], "approval": [{"status": 200, "body": {"id": "apr_1", "state": "approved"}}]}
        with StandIn(case, DECISIONS, fit=True) as server:
            answer = server.answer

            def changing(path, headers, text):
                args["amount"] = 1000
                return answer(path, headers, text)

            server.answer = changing
            self.assertTrue(self.client(server).guard(tool="t", args=args, on_approval="wait", execute=lambda: 1).executed)
            self.assertEqual([q["args"]["amount"] for q in server.questions], [1, 1])

    def test_a_stop_in_the_middle_is_reported_and_goes_on(self):
        with answering("allow") as server:

            def stop():
                raise KeyboardInterrupt

            with self.assertRaises(KeyboardInterrupt):
                self.client(server).guard(tool="t", execute=stop)
            self.assertEqual(server.outcomes, [{"state": "unknown", "error": "KeyboardInterrupt"}])

    def test_a_task_cancelled_in_the_middle_is_reported_and_ends(self):
        with answering("allow") as server:
            b = self.client(server, AsyncActPass)

            async def go():
                begun = asyncio.Event()

                async def action():
                    begun.set()
                    await asyncio.sleep(30)

                t = asyncio.ensure_future(b.guard(tool="t", execute=action))
                await begun.wait()
                t.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await t

            asyncio.run(go())
            self.assertEqual(server.outcomes, [{"state": "unknown", "error": "CancelledError"}])

    def test_a_task_cancelled_before_the_answer_runs_nothing(self):
        with StandIn({"preflight": [{"timeout": True}]}, DECISIONS) as server:
            b = self.client(server, AsyncActPass)

            async def go():
                t = asyncio.ensure_future(b.guard(tool="t", mode="monitor", execute=lambda: self.fail("run")))
                await asyncio.sleep(0.1)
                t.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await t

            asyncio.run(go())

    def test_a_kept_connection_that_was_closed_is_no_failure(self):
        with answering("allow") as server:
            a = self.client(server)
            a.preflight(tool="t")
            for c in a._http._idle:
                c.sock.sock.shutdown(2)
            self.assertEqual(len(a._http._idle), 1)
            self.assertEqual(a.preflight(tool="t")["decision"], "allow")

    def test_an_answer_that_drips_ends_in_time(self):
        import socket
        import threading
        import time

        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def drip():
            c, _ = listener.accept()
            with c:
                try:
                    for b in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"x" * 40:
                        c.sendall(bytes([b]))
                        time.sleep(0.05)
                except OSError:
                    pass

        for kind in (ActPass, AsyncActPass):
            t = threading.Thread(target=drip)
            t.start()
            a = kind(KEY, "a", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3, retries=0)
            began = time.monotonic()
            with self.assertRaisesRegex(UnreachableError, "no answer within 300 ms"):
                a.preflight(tool="t") if kind is ActPass else asyncio.run(a.preflight(tool="t"))
            self.assertLess(time.monotonic() - began, 1)
            t.join()


if __name__ == "__main__":
    unittest.main()
