"""The status page and JSON over HTTP: /, /status.json, /picture.jpg, /healthz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import HostMatches
from tornado.web import Application, RequestHandler

from classifier.state import State

_PAGE = Path(__file__).parent / "page.html"
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Handler(RequestHandler):
    def initialize(self, state: State) -> None:
        self.state = state

    def set_default_headers(self) -> None:
        for name, value in _SECURITY.items():
            self.set_header(name, value)


class _Status(_Handler):
    def get(self) -> None:
        self.write(self.state.document())


class _Health(_Handler):
    def get(self) -> None:
        trouble = self.state.document()["trouble"]
        self.set_status(503 if trouble else 200)
        self.write({"ok": not trouble, "trouble": trouble})


class _Picture(_Handler):
    def get(self) -> None:
        picture = self.state.picture
        if not picture:
            self.set_status(404)
            return
        self.set_header("Content-Type", "image/jpeg")
        self.write(picture)


class _Page(_Handler):
    def get(self) -> None:
        self.write(_PAGE.read_text(encoding="utf-8"))


def listen(state: State, bind: str, port: int) -> int:
    """Serve on the running event loop; returns the port, which is chosen where 0 was asked for.

    On loopback only its own names are answered, so that no page of another name can read it.

    Raises:
        OSError: the port is taken, or the address is not this computer's.
    """
    handlers: list[Any] = [
        (path, kind, {"state": state})
        for path, kind in (("/", _Page), ("/status.json", _Status), ("/picture.jpg", _Picture), ("/healthz", _Health))
    ]
    hosts = r"(localhost|127\.0\.0\.1)" if bind in ("127.0.0.1", "localhost") else ".*"
    sockets = bind_sockets(port, bind)
    HTTPServer(Application([(HostMatches(hosts), handlers)])).add_sockets(sockets)
    return int(sockets[0].getsockname()[1])
