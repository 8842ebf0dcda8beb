"""A server on this machine that breaks off, lies, or changes its mind, for tests of downloads."""

from __future__ import annotations

import hashlib
import http.server
import re


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; tests set how badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.body = b""
        self.requests = []  # the Range header of each
        self.sent = 0
        self.cuts = []  # after how many bytes the next answers break off
        self.ranges, self.obeys_if_range, self.announced, self.etag = True, True, None, True
        self.statuses = []  # what the next answers are instead

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.tgz"

    def handle_error(self, *args):
        """Broken pipes are what the tests are about."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, body = self.server, self.server.body
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        changed = server.obeys_if_range and self.headers.get("If-Range") not in (None, etag)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges and not changed else 0
        if start >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(server.announced or len(body) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        piece = body[start:]
        if server.cuts:
            piece = piece[: server.cuts.pop(0)]
        server.sent += len(piece)
        self.wfile.write(piece)
        self.close_connection = True

    def log_message(self, *args):
        pass
