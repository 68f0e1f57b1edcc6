"""What guard() adds to the call that it wraps, on loopback, against the real binary:

    PYTHONPATH=.:tests python3 bench/guard.py [N]

The wrapped call does nothing, so that all the time is ours. One line of JSON for
each client, in milliseconds; `best` is the least median of 20 calls in a row.
"""

import asyncio
import json
import platform
import sys
import time

from actpass import ActPass, AsyncActPass
import sidecar as rig

ACTION = {
    "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {"amount": 1, "currency": "usd"},
    "goal": "resolve_refund_request", "user_id": "user_456", "mode": "enforce",
}  # fmt: skip


def show(client, took):
    n = len(took)
    best = round(min(sorted(took[i : i + 20])[10] for i in range(0, n - 19, 20)) * 1000, 3)
    took.sort()
    p50, p99 = round(took[n // 2] * 1000, 3), round(took[int(n * 0.99)] * 1000, 3)
    print(json.dumps({"client": f"python {platform.python_version()} {client}", "n": n, "guard": {"best": best, "p50": p50, "p99": p99}}))


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rig.CONFIG += "limits: { api_rate: 0 }\n"  # the bound on a key's calls would be what is measured
    s = rig.sidecar()
    took = []
    with ActPass(s.agent, "support_agent", base_url=s.url) as a:
        for i in range(n + min(n, 100)):
            began = time.perf_counter()
            assert a.guard(**ACTION, execute=lambda: 1).executed
            took.append(time.perf_counter() - began)
    show("blocking", took[-n:])

    async def aio():
        took = []
        a = AsyncActPass(s.agent, "support_agent", base_url=s.url)
        for i in range(n + min(n, 100)):
            began = time.perf_counter()
            assert (await a.guard(**ACTION, execute=lambda: 1)).executed
            took.append(time.perf_counter() - began)
        return took

    show("asyncio", asyncio.run(aio())[-n:])


if __name__ == "__main__":
    main()
