"""The real binary, built once for a test run, on ports of its own."""

import atexit
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONFIG = """mode: monitor
identity: { tenant_id: acme, agent_id: support_agent }
listen: { proxy: "127.0.0.1:0", reverse: "127.0.0.1:0", api: "127.0.0.1:0" }
policy: { files: [./policies/*.yaml] }
"""


class Sidecar:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="actpass-py-"))
        atexit.register(self.stop)
        self.bin = os.environ.get("ACTPASS_BIN") or str(self.dir / "actpass")
        if not os.environ.get("ACTPASS_BIN"):
            subprocess.run(["go", "build", "-o", self.bin, "./cmd/actpass"], cwd=ROOT, check=True)
        (self.dir / "policies").mkdir()
        shutil.copy(ROOT / "policies/refund_policy.yaml", self.dir / "policies")
        self.config = str(self.dir / "config.yaml")
        pathlib.Path(self.config).write_text(CONFIG)
        self.process = subprocess.Popen([self.bin, "serve", "--config", self.config], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if '"msg":"ready"' in line:
                self.url = "http://" + json.loads(line)["api"]
                break
        else:
            raise RuntimeError("the sidecar ended")
        # A pipe that nobody reads fills, and the sidecar's log would wait for it.
        fd = self.process.stderr.fileno()
        self.drain = threading.Thread(target=lambda: all(iter(lambda: os.read(fd, 1 << 16), b"")), daemon=True)
        self.drain.start()
        self.admin = self.key("--name", "admin", "--role", "admin")
        self.agent = self.key("--name", "a", "--role", "gateway", "--agent", "support_agent")
        self.approver = self.key("--name", "lead", "--role", "approver", "--group", "support-leads")

    def run(self, *args, **kw):
        return subprocess.run([self.bin, *args], check=True, capture_output=True, **kw).stdout

    def key(self, *args):
        return self.run("keys", "create", "--config", self.config, *args, text=True).strip()

    def stop(self):
        if getattr(self, "process", None):
            self.process.terminate()
            self.process.wait(20)
            self.drain.join(5)
            self.process.stderr.close()
            self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)


_one = None


def sidecar():
    global _one
    if _one is None:
        _one = Sidecar()
    return _one
