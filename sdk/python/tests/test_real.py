"""Against the real binary: every mode, the record, waiting, and races."""

import asyncio
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest
import urllib.request

from actpass import ActPass, AsyncActPass, ExpiredError, HeldError, MisusedError, RefusedError
from sidecar import sidecar

ROOT = pathlib.Path(__file__).resolve().parents[1]


def refund(amount, **more):
    return {
        "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {"amount": amount, "currency": "usd"},
        "goal": "resolve_refund_request", "user_id": "user_456", **more,
    }  # fmt: skip


def api(path, key, body=None):
    r = urllib.request.Request(sidecar().url + "/api/v1" + path, headers={"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    with urllib.request.urlopen(r, json.dumps(body).encode() if body else None) as answer:
        return json.load(answer)


def approve_soon(amount):
    """Approves the pending refund of that amount once it is there."""

    def go():
        end = time.time() + 20
        while time.time() < end:
            for a in api("/approvals?state=pending", sidecar().approver)["data"]:
                if a["args"].get("amount") == amount:
                    return api(f"/approvals/{a['id']}/decide", sidecar().approver, {"decision": "approve", "reason": "ok"})
            time.sleep(0.05)

    t = threading.Thread(target=go)
    t.start()
    return t


class Real(unittest.TestCase):
    def setUp(self):
        self.s = sidecar()
        self.agent = ActPass(self.s.agent, "support_agent", base_url=self.s.url)
        self.addCleanup(self.agent.close)

    def test_allow_runs_and_the_outcome_is_in_the_event(self):
        r = self.agent.guard(**refund(4900), mode="enforce", execute=lambda: "re_1")
        self.assertEqual((r.decision["decision"], r.decision["reason_code"], r.unwrap(), r.reported), ("allow", "refund.small_in_scope", "re_1", True))
        event = api("/evidence/events/" + r.decision["evidence_event_id"], self.s.admin)
        self.assertEqual(event["outcome"]["state"], "forwarded")

    def test_a_deny_names_the_rule_and_runs_nothing(self):
        for mode in ("enforce", "strict"):
            r = self.agent.guard(**refund(75000), mode=mode, execute=lambda: self.fail("run"))
            self.assertIsInstance(r.error, RefusedError)
            if mode == "enforce":
                self.assertRegex(str(r.error), r"large_refund.*refund\.over_limit")

    def test_monitor_and_warn_run_what_policy_denies(self):
        m = self.agent.guard(**refund(75000), mode="monitor", execute=lambda: 1)
        self.assertEqual((m.result, m.decision["decision"], m.decision["would"]["enforce"]), (1, "deny", "block"))
        w = self.agent.guard(**refund(75000), mode="warn", execute=lambda: 1)
        self.assertEqual((w.result, w.decision["decision"]), (1, "warn"))
        self.assertTrue(w.warning)

    def test_a_hold_is_returned_and_attaches_to_the_same_approval(self):
        a, b = (self.agent.guard(**refund(20000), mode="enforce", execute=lambda: self.fail("run")) for _ in range(2))
        self.assertIsInstance(a.error, HeldError)
        self.assertEqual(a.error.approval_id, b.error.approval_id)
        self.assertEqual(self.agent.wait_for_approval(a.error.approval_id, timeout=0.05)["state"], "pending")

    def test_a_hold_waits_for_the_human_and_runs_once(self):
        ran = []
        t = approve_soon(20001)
        r = self.agent.guard(**refund(20001), mode="enforce", on_approval="wait", execute=lambda: ran.append(1))
        t.join()
        self.assertEqual((r.error, r.executed, r.reported, len(ran)), (None, True, True, 1))
        again = self.agent.guard(**refund(20001), mode="enforce", execute=lambda: self.fail("run"))
        self.assertIsInstance(again.error, HeldError, "an approval is good for one use")

    def test_of_several_that_wait_one_runs(self):
        ran, results = [], []

        async def go():
            a = AsyncActPass(self.s.agent, "support_agent", base_url=self.s.url)
            ask = [a.guard(**refund(20002), mode="enforce", on_approval="wait", approval_timeout=8, execute=lambda: ran.append(1)) for _ in range(4)]
            results.extend(await asyncio.gather(*ask))

        t = approve_soon(20002)
        asyncio.run(go())
        t.join()
        self.assertEqual(len(ran), 1)
        # The others are asked about anew, or were a moment too late for this approval.
        for r in results:
            self.assertTrue(r.executed or r.error.kind == "held" or r.decision["reason_code"] == "approval.consumed", repr(r.error))

    def test_waiting_ends(self):
        r = self.agent.guard(**refund(20003), mode="enforce", on_approval="wait", approval_timeout=0.2, execute=lambda: self.fail("run"))
        self.assertIsInstance(r.error, ExpiredError)
        self.assertEqual(r.error.decision, r.decision)

    def test_a_passport_is_used_by_one_of_twenty_at_once(self):
        boss = ActPass(self.s.admin, "support_agent", base_url=self.s.url)
        self.addCleanup(boss.close)
        p = boss.issue_passport(allowed_tools=["stripe.refund.*"], allowed_resources=["*"])
        self.assertEqual(self.agent.verify_passport(p["token"])["claims"]["jti"], p["jti"])
        ran = []

        def go():
            self.agent.guard(**refund(100), passport=p["token"], mode="strict", execute=lambda: ran.append(1))

        threads = [threading.Thread(target=go) for _ in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(ran), 1)
        other = boss.issue_passport(allowed_tools=["*"], allowed_resources=["*"])
        boss.revoke_passport(other["jti"], "test")
        self.assertEqual(self.agent.verify_passport(other["token"])["reason_code"], "passport.revoked")
        self.assertTrue(self.agent.jwks()["keys"])

    def test_an_unknown_key_is_misuse_and_not_shown(self):
        with ActPass("sk_live_unknown", "support_agent", base_url=self.s.url) as a, self.assertRaises(MisusedError) as e:
            a.guard(**refund(1), execute=lambda: self.fail("run"))
        self.assertEqual(e.exception.status, 401)
        self.assertNotIn("sk_live_unknown", str(e.exception))

    def test_a_wrong_field_is_named(self):
        with self.assertRaises(MisusedError) as e:
            self.agent.issue_passport(allowed_tools=["*"], allowed_resources=["*"], ttl=-1)
        self.assertEqual((e.exception.status, e.exception.field), (400, "ttl"))

    def test_the_readme_as_it_stands(self):
        snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
        want = ["{'id': 're_123'}\nrefund.over_limit\n", "{'id': 're_123'}\n"]
        # The first takes a real refund: e2e runs it against stripe-mock.
        self.assertIn("stripe.Refund.create", snippets.pop(0))
        self.assertEqual(len(snippets), len(want))
        env = {"ACTPASS_API_KEY": self.s.agent, "ACTPASS_API_URL": self.s.url, "PYTHONPATH": str(ROOT)}
        for code, out in zip(snippets, want):
            p = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
            self.assertEqual((p.stdout, p.stderr), (out, ""))


if __name__ == "__main__":
    unittest.main()
