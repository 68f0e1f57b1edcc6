"""Runs sdk/vectors/guard.json, each case against a server that answers as it says."""

import asyncio
import json
import pathlib
import unittest

from actpass import ActPass, ActPassError, AsyncActPass
from stand_in import StandIn

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"
DOC = json.loads((VECTORS / "guard.json").read_text("utf-8"))


class Own(Exception):
    pass


class GuardVectors(unittest.TestCase):
    """The rules, by the blocking client."""

    def guard(self, url, case, execute):
        more = {"on_approval": case["onApproval"]} if "onApproval" in case else {}
        with ActPass("sk_live_test_secret", "support_agent", base_url=url, timeout=0.3, retries=2) as a:
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
            except ActPassError as e:
                decision, error, executed, warning = None, e, False, None
            self.assertEqual(len(ran), expect["executed"], "executed")
            self.assertEqual(executed, expect["executed"] == 1)
            self.assertEqual(decision and decision["decision"], expect["decision"], "decision")
            kind = "own" if error is own else error and error.kind
            self.assertEqual(kind, expect["error"], repr(error))
            self.assertEqual(warning is not None, expect.get("warning", False), "warning")
            if isinstance(error, ActPassError):
                self.assertGreater(len(str(error)), 20)
                self.assertNotIn("sk_live", str(error) + repr(error))
                self.assertEqual(error.decision, decision)
            self.assertNotIn("4242", json.dumps(server.outcomes), "the report holds no text of the error")
            said = [{k: v for k, v in o.items() if k != "error"} for o in server.outcomes]
            self.assertEqual(said, [expect["outcome"]] if expect["outcome"] else [], "outcome")
            for q in server.questions:
                self.assertEqual((q["intent"], q.get("mode")), ("execute", c.get("mode")))
            if "preflights" in expect:
                self.assertEqual(len(server.keys), expect["preflights"], "preflights")
            if expect.get("oneKey"):
                self.assertTrue(server.keys[0] and len(set(server.keys)) == 1, server.keys)

    def test_all(self):
        self.assertGreater(len(DOC["cases"]), 20)
        for c in DOC["cases"]:
            with self.subTest(c["name"]):
                self.run_case(c)


class AsyncGuardVectors(GuardVectors):
    """The same, by the client for asyncio, whose action is async, too."""

    def guard(self, url, case, execute):
        more = {"on_approval": case["onApproval"]} if "onApproval" in case else {}

        async def action():
            await asyncio.sleep(0)
            return execute()

        async def go():
            a = AsyncActPass("sk_live_test_secret", "support_agent", base_url=url, timeout=0.3, retries=2)
            return await a.guard(
                tool="stripe.refund.create", resource="stripe:charge:ch_123", args={"amount": 4900}, mode=case.get("mode"), execute=action, **more
            )

        return asyncio.run(go())


if __name__ == "__main__":
    unittest.main()
