"""What guard() adds to the call that it wraps, on loopback, against the real binary:

    PYTHONPATH=.:tests python3 bench/guard.py [N] [BIN...]

The wrapped call does nothing, so that all the time is ours. One line of JSON for
each client, in milliseconds; `best` is the least median of 20 calls in a row.
Several binaries are asked by turns, call by call, so that what others do meets all
alike.
"""

import asyncio
import json
import os
import platform
import sys
import time

from actpass import ActPass, AsyncActPass
import sidecar as rig

ACTION = {
    "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {"amount": 1, "currency": "usd"},
    "goal": "resolve_refund_request", "user_id": "user_456", "mode": "enforce",
}  # fmt: skip


def show(client, n, arms):
    for name, _, took in arms:
        took = took[-n:]
        best = round(min(sorted(took[i : i + 20])[10] for i in range(0, n - 19, 20)) * 1000, 3)
        took.sort()
        p10, p50, p99 = (round(took[int(n * q)] * 1000, 3) for q in (0.1, 0.5, 0.99))
        line = {"client": f"python {platform.python_version()} {client}", "bin": name, "n": n, "guard": {"best": best, "p10": p10, "p50": p50, "p99": p99}}
        print(json.dumps({k: v for k, v in line.items() if v is not None}))


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rig.CONFIG += "limits: { api_rate: 0 }\n"  # the bound on a key's calls would be what is measured
    sidecars = []
    for name in sys.argv[2:] or [None]:
        if name:
            os.environ["ACTPASS_BIN"] = name
        sidecars.append((name, rig.Sidecar()))

    arms = [(name, ActPass(s.agent, "support_agent", base_url=s.url), []) for name, s in sidecars]
    for _ in range(n + min(n, 100)):
        for _, a, took in arms:
            began = time.perf_counter()
            assert a.guard(**ACTION, execute=lambda: 1).reported
            took.append(time.perf_counter() - began)
    for _, a, _ in arms:
        a.close()
    show("blocking", n, arms)

    async def aio():
        arms = [(name, AsyncActPass(s.agent, "support_agent", base_url=s.url), []) for name, s in sidecars]
        for _ in range(n + min(n, 100)):
            for _, a, took in arms:
                began = time.perf_counter()
                assert (await a.guard(**ACTION, execute=lambda: 1)).reported
                took.append(time.perf_counter() - began)
        return arms

    show("asyncio", n, asyncio.run(aio()))


if __name__ == "__main__":
    main()
