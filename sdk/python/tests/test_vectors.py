"""Runs sdk/vectors/guard.json, each case against a server that answers as it says."""

import asyncio
import json
import pathlib
import unittest
from concurrent.futures import ThreadPoolExecutor

from actpass import ActPass, ActPassError, AsyncActPass
from stand_in import StandIn

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"
DOC = json.loads((VECTORS / "guard.json").read_text("utf-8"))


# What each kind of error says to do; for a misuse the API's own sentence, where it has one.
TODO = {
    "refused": r"Do not retry it unchanged\.$", "held": r"wait for it with wait_for_approval, then call guard again unchanged\.$",
    "expired": "Call guard again", "unreachable": "Check .*base_url", "misused": r" m\.$|Check base_url",
}  # fmt: skip


class Own(Exception):
    pass


def options(case):
    more = {"on_approval": case["onApproval"]} if "onApproval" in case else {}
    if "approvalTimeoutMs" in case:
        more["approval_timeout"] = case["approvalTimeoutMs"] / 1000
    return more


class GuardVectors(unittest.TestCase):
    """The rules, by the blocking client, whose caller cannot give up."""

    aborts = False

    def guard(self, url, case, execute):
        more = options(case)
        with ActPass("sk_live_test_secret", "support_agent", base_url=url, timeout=1, retries=2) as a:
            return a.guard(
                tool="stripe.refund.create", resource="stripe:charge:ch_123", args={"amount": 4900}, mode=case.get("mode"), execute=execute, **more
            )

    def run_case(self, c):
        own = Own("card 4242 declined")
        if c.get("execute") == "throws 402":
            own.status_code = 402
        ran = []

        def execute():
            ran.append(1)
            if c.get("execute", "ok").startswith("throws"):
                raise own
            return "done"

        expect = c["expect"]
        with StandIn(c, DOC["decisions"]) as server:
            try:
                r = self.guard(server.url, c, execute)
                decision, error, executed, warning = r.decision, r.error, r.executed, r.warning
                if expect["error"] is None:
                    self.assertEqual(r.unwrap(), "done")
                self.assertNotIn("sk_live", repr(r))
                self.assertNotIn("4242", repr(r))
                reported = r.reported
            except (ActPassError, asyncio.CancelledError) as e:
                decision, error, executed, warning, reported = None, e, False, None, None
            self.assertEqual(len(ran), expect["executed"], "executed")
            self.assertEqual(executed, expect["executed"] == 1)
            self.assertEqual(decision and decision["decision"], expect["decision"], "decision")
            kind = "own" if error is own else "aborted" if isinstance(error, asyncio.CancelledError) else error and error.kind
            self.assertEqual(kind, expect["error"], repr(error))
            self.assertEqual(warning is not None, expect.get("warning", False), "warning")
            if isinstance(error, ActPassError):
                self.assertGreater(len(str(error)), 20)
                self.assertNotIn("sk_live", str(error) + repr(error))
                self.assertRegex(str(error), TODO[error.kind])
                self.assertEqual(error.decision, decision)
            self.assertNotIn("4242", json.dumps(server.outcomes), "the report holds no text of the error")
            said = [{k: v for k, v in o.items() if k != "error"} for o in server.outcomes]
            times = expect.get("reports") or max(len(said) if "report" in c else 1, 1)
            self.assertEqual(said, [expect["outcome"]] * times if expect["outcome"] else [], "outcome")
            if expect["outcome"]:
                self.assertEqual(reported, expect.get("reported", True), "reported")
            self.assertEqual(server.strays, [])
            for q in server.questions:
                self.assertEqual((q["intent"], q.get("mode")), ("execute", c.get("mode")))
            if "preflights" in expect:
                self.assertEqual(len(server.keys), expect["preflights"], "preflights")
            if expect.get("oneKey"):
                self.assertTrue(server.keys[0] and len(set(server.keys)) == 1, server.keys)

    def test_all(self):
        cases = [c for c in DOC["cases"] if self.aborts or "abortAfterMs" not in c]
        self.assertGreater(len(cases), 100)

        def run(c):
            try:
                self.run_case(c)
            except BaseException as e:
                return e

        with ThreadPoolExecutor(8) as pool:
            for c, fault in zip(cases, pool.map(run, cases)):
                with self.subTest(c["name"]):
                    if fault:
                        raise fault


class AsyncGuardVectors(GuardVectors):
    """The same, by the client for asyncio, whose action is async, too."""

    aborts = True

    def guard(self, url, case, execute):
        more = options(case)

        async def action():
            await asyncio.sleep(0)
            return execute()

        async def go():
            a = AsyncActPass("sk_live_test_secret", "support_agent", base_url=url, timeout=1, retries=2)
            t = asyncio.ensure_future(a.guard(
                tool="stripe.refund.create", resource="stripe:charge:ch_123", args={"amount": 4900}, mode=case.get("mode"), execute=action, **more
            ))  # fmt: skip
            if "abortAfterMs" in case:
                asyncio.get_running_loop().call_later(case["abortAfterMs"] / 1000, t.cancel)
            return await t

        return asyncio.run(go())


if __name__ == "__main__":
    unittest.main()
