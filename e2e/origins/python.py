"""What Python understood of a request, as JSON. Usage: python3 python.py PORT"""
import http.server
import io
import json
import sys
import urllib.parse
import warnings

warnings.simplefilter("ignore")
try:
    import cgi  # gone from 3.13
except ImportError:
    cgi = None


def read(f):
    try:
        return f()
    except Exception as e:  # noqa: BLE001 - whatever it is, the reader refuses
        return {"error": repr(e)}


def fields(text):
    return {"parse_qsl": read(lambda: {"pairs": urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=100000)})}


def multipart(data, content_type):
    form = cgi.FieldStorage(io.BytesIO(data), keep_blank_values=True, environ={
        "REQUEST_METHOD": "POST", "CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(data))})
    return {"pairs": [[f.name, f.value] for f in form.list if f.filename is None],
            "files": [[f.name, f.filename, len(f.value)] for f in form.list if f.filename is not None]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        u = urllib.parse.urlsplit("http://" + (self.headers.get("Host") or "") + self.path)
        out = {"method": self.command, "host": u.hostname, "path": urllib.parse.unquote(u.path), "query": fields(u.query)}
        content_type = self.headers.get("Content-Type") or ""
        kind = self.headers.get_content_type() if content_type else ""
        if kind == "application/x-www-form-urlencoded":
            out["body"] = fields(data.decode("utf-8", "replace"))
        elif kind == "multipart/form-data" and cgi:
            out["body"] = {"cgi": read(lambda: multipart(data, content_type))}
        elif "json" in kind:
            out["body"] = {"json": read(lambda: {"json": json.loads(data)})}
        body = json.dumps(out).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
