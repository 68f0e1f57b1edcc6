"""A server that answers as a case of guard.json says."""

import http.server
import json
import threading


class StandIn:
    def __init__(self, case, decisions):
        self.case, self.decisions = case, decisions
        self.keys, self.outcomes, self.questions, self.looks, self.heads = [], [], [], 0, []
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
                    body = {**outer.decisions[body["$d"]], **{k: v for k, v in body.items() if k != "$d"}}
                raw = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(a["status"])
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

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
        self.outcomes.append(json.loads(text))
        return {"status": 200, "body": {"evidence_event_id": "ev_1", "state": "succeeded"}}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
