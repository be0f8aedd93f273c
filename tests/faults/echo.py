"""A network on which what a site pushes arrives again and again."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Path, headers and content; status, type and content.
Request = tuple[str, dict[str, str], bytes]
Answer = tuple[int, str, bytes]


class Echo(ThreadingHTTPServer):
    """Forwards requests to `target`; each push arrives twice, and all earlier replies again before each pull."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.lock = target, threading.Lock()
        self.replies: list[Request] = []
        #: Requests that arrived once more than they were sent.
        self.repeated = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def forward(self, request: Request) -> Answer:
        """The answer to a request."""
        path, headers, body = request
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def answer(self, request: Request) -> Answer:
        """What comes back."""
        kind = request[0].rpartition("/")[2]
        with self.lock:
            if kind == "pull-messages":
                self._repeat(*self.replies)
            if kind == "push-messages":
                # Parts that are pushed belong to the session of the last one.
                self._repeat(request)
                self.replies.append(request)
            answer = self.forward(request)
            if kind == "push-object":
                self._repeat(request)
            return answer

    def _repeat(self, *requests: Request) -> None:
        for request in requests:
            self.forward(request)
            self.repeated += 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Echo

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, kind, content = self.server.answer((self.path, dict(self.headers.items()), body))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def echo(target: str) -> Iterator[Echo]:
    """Such a network to `target`, as host:port."""
    with Echo(target) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
