"""A server that answers as a case of guard.json says."""

import http.server
import json
import re
import threading


def present(d):
    return {k: v for k, v in d.items() if v is not None}


class StandIn:
    def __init__(self, case, decisions, fit=False):
        """``fit``: a decision is about what was asked, whatever it says."""
        self.case, self.decisions = case, decisions
        self.keys, self.outcomes, self.questions, self.looks, self.heads, self.strays = [], [], [], 0, [], []
        self.over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                text = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.heads.append(dict(self.headers))
                a = outer.answer(self.path, self.headers, text)
                if a.get("timeout"):
                    outer.over.wait(10)
                if a.get("unreachable") or a.get("timeout"):
                    self.close_connection = True
                    return
                body = a["body"]
                if isinstance(body, dict) and "$d" in body:
                    body = present({**outer.decisions[body["$d"]], **body, "$d": None})
                    if fit:
                        body.update(tool=outer.questions[-1]["tool"], resource=outer.questions[-1].get("resource", ""))
                raw = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(a["status"])
                head = {"content-type": "application/json", "x-request-id": self.headers["x-request-id"], "content-length": str(len(raw)), **a.get("headers", {})}
                for name, value in present(head).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw[: len(raw) // 2] if a.get("cut") else raw)
                if a.get("cut"):
                    self.close_connection = True

            do_GET = do_POST = do

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path, headers, text):
        c = self.case
        if path == "/api/v1/actions/preflight":
            a = c["preflight"][min(len(self.keys), len(c["preflight"]) - 1)]
            self.keys.append(headers["idempotency-key"])
            self.questions.append(json.loads(text))
            return a
        if path.startswith("/api/v1/approvals/apr_1?wait="):
            a = c["approval"][min(self.looks, len(c["approval"]) - 1)]
            self.looks += 1
            return a
        if not re.fullmatch(r"/api/v1/actions/ev_\d/outcome", path):
            self.strays.append(path)
            return {"status": 500, "body": "asked for what is not there"}
        report = c.get("report") or [{"status": 200, "body": {"evidence_event_id": "ev_1", "state": "succeeded"}}]
        self.outcomes.append(json.loads(text))
        return report[min(len(self.outcomes), len(report)) - 1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
