"""The page's server: files, one stream of events, and two buttons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tornado.iostream import StreamClosedError
from tornado.routing import HostMatches
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

PAGE = Path(__file__).parent / "page"
_BEHIND = 50
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "Cache-Control": "no-cache",
}


class Broadcast:
    """Events to every page that is open; a page that does not keep up misses some."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pages: set[asyncio.Queue[str]] = set()

    def say(self, kind: str, document: dict[str, Any]) -> None:
        """From any thread."""
        event = f"event: {kind}\ndata: {json.dumps(document, ensure_ascii=False)}\n\n"
        self.loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: str) -> None:
        for page in self.pages:
            if page.qsize() < _BEHIND:
                page.put_nowait(event)


class _Files(StaticFileHandler):
    def set_extra_headers(self, _path: str) -> None:
        for name, value in _SECURITY.items():
            self.set_header(name, value)


class _Events(RequestHandler):
    def initialize(self, broadcast: Broadcast, hello: Callable[[], dict[str, Any]]) -> None:
        self.broadcast, self.hello = broadcast, hello

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        mine: asyncio.Queue[str] = asyncio.Queue()
        self.broadcast.pages.add(mine)
        try:
            self.write(f"event: hello\ndata: {json.dumps(self.hello(), ensure_ascii=False)}\n\n")
            await self.flush()
            while True:
                self.write(await mine.get())
                await self.flush()
        except StreamClosedError:
            pass
        finally:
            self.broadcast.pages.discard(mine)


class _Member(RequestHandler):
    def initialize(self, act: Callable[[str, str], bool]) -> None:
        self.act = act

    async def post(self, name: str, what: str) -> None:
        origin = urlsplit(self.request.headers.get("Origin", "")).netloc
        if origin != self.request.host:
            raise HTTPError(403)  # a button of another page
        known = await asyncio.get_running_loop().run_in_executor(None, self.act, name, what)
        self.set_status(204 if known else 404)


def serve(
    bind: str,
    port: int,
    broadcast: Broadcast,
    hello: Callable[[], dict[str, Any]],
    act: Callable[[str, str], bool],
) -> None:
    """Listen. On loopback only its own names are answered, so that no other page can pose as this one.

    Raises:
        OSError: the port is taken.
    """
    hosts = r"(localhost|127\.0\.0\.1)" if bind in ("127.0.0.1", "localhost") else ".*"
    routes: list[Any] = [
        (r"/events", _Events, {"broadcast": broadcast, "hello": hello}),
        (r"/members/([^/]+)/(out|in)", _Member, {"act": act}),
        (r"/(.*)", _Files, {"path": str(PAGE), "default_filename": "index.html"}),
    ]
    Application([(HostMatches(hosts), routes)]).listen(port, bind)
