"""The server of the measuring page: serves files, sends commands, receives events; its link works once."""

from __future__ import annotations

import http.server
import json
import mimetypes
import queue
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgevit.devices.base import RunnerEvent

_LONGEST_POST = 32 << 20
"""Bytes of the largest accepted message of the page (32 MiB), so that a page cannot fill memory."""
_POLL_S = 15.0
"""Seconds that a request for the next command is held open before the page is told to ask again."""
_TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript"}
_ISOLATED = {
    # Threads need a page that shares its process with no other origin.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PageServer:
    """Serves the measuring page to one browser.

    Attributes:
        token: of the link; the first browser that opens it gets the session.
        events: what the page posted, in order.
        claimed: set once the link was opened.
    """

    def __init__(
        self, bind: str, port: int, hosts: frozenset[str], public: Mapping[str, Path], tls: tuple[Path, Path] | None
    ) -> None:
        self.token = secrets.token_urlsafe(16)
        self.events: queue.Queue[RunnerEvent] = queue.Queue()
        self.claimed = threading.Event()
        self.public = dict(public)
        self.private: dict[str, Path] = {}
        self.hosts = hosts
        self.heard = time.monotonic()
        self._session = ""
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer((bind, port), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(*tls)
            # The handshake is left to the connection's own thread: one that stalls must not stop the others.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    def claim(self, token: str) -> str | None:
        """A session for the link's token, once; None for a wrong or used one."""
        with self._lock:
            if self._session or not secrets.compare_digest(token.encode(), self.token.encode()):
                return None
            self._session = secrets.token_urlsafe(24)
        self.claimed.set()
        return self._session

    def knows(self, session: str) -> bool:
        """Whether a session is the one that was given out."""
        return bool(self._session) and secrets.compare_digest(session.encode(), self._session.encode())

    def command(self, **command: Any) -> None:
        """Queue a command for the page."""
        self._commands.put(command)

    def next_command(self) -> dict[str, Any]:
        """The next command for the page; after some seconds without one, a request to ask again."""
        try:
            return self._commands.get(timeout=_POLL_S)
        except queue.Empty:
            return {"command": "wait"}

    def idle(self) -> bool:
        """Whether all commands have been delivered."""
        return self._commands.empty()

    def close(self) -> None:
        """Stop the server and free its port."""
        self._server.shutdown()
        self._server.server_close()


def _handler(page: PageServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "edgevit"
        sys_version = ""
        timeout = 120

        def _answer(self, status: int, data: bytes = b"", kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            for name, value in _ISOLATED.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def _refused(self) -> bool:
            """Refuse a foreign host name: another site's page that reached this server by DNS rebinding."""
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if host not in page.hosts:
                self._answer(421)
                return True
            return False

        def _mine(self) -> bool:
            if page.knows(self.headers.get("X-Edgevit-Session", "")):
                page.heard = time.monotonic()
                return True
            self._answer(403)
            return False

        def do_GET(self) -> None:  # the base class names it
            name = urlsplit(self.path).path.lstrip("/") or "index.html"
            if self._refused():
                return
            if name == "next":
                if self._mine():
                    self._answer(200, json.dumps(page.next_command()).encode(), "application/json")
            elif name in page.private:
                if self._mine():
                    self._send(page.private[name])
            elif name in page.public:
                self._send(page.public[name])
            else:
                self._answer(404)

        def _send(self, path: Path) -> None:
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self._answer(200, path.read_bytes(), kind)

        def do_POST(self) -> None:
            if self._refused():
                return
            try:
                size = int(self.headers.get("Content-Length", ""))
            except ValueError:
                size = -1
            if not 0 <= size <= _LONGEST_POST:
                self.close_connection = True
                self._answer(413)
                return
            data = self.rfile.read(size)
            if self.path == "/claim":
                session = page.claim(self.headers.get("X-Edgevit-Token", ""))
                if session is None:
                    self._answer(403)
                else:
                    self._answer(200, json.dumps({"session": session}).encode(), "application/json")
            elif self.path == "/events":
                if self._mine():
                    self._take(data)
            else:
                self._answer(404)

        def _take(self, data: bytes) -> None:
            try:
                events = json.loads(data)
                valid = isinstance(events, list) and all(
                    isinstance(one, dict) and isinstance(one.get("event"), str) for one in events
                )
            except (ValueError, RecursionError):
                valid = False
            if not valid:
                self._answer(400)
                return
            for event in events:
                page.events.put(event)
            self._answer(204)

        def log_message(self, *arguments: object) -> None:
            """Nothing is printed for requests."""

    return Handler
