"""A built page on a server of its own, in a real Chromium that a test can click in."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.devices.chromium import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"]
_TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript", ".webmanifest": "application/manifest+json"}


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, **_TYPES}
    isolated = False

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path, *, isolated: bool = False) -> Iterator[str]:
    """The address of a folder while the block runs; it is gone afterwards."""
    kind = type("Handler", (_Handler,), {"isolated": isolated})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def browser(*switches: str) -> Iterator[Browser]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    chromium()
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path="/usr/bin/chromium", args=[*_SWITCHES, *switches])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def page(opened: Browser, url: str, **context: Any) -> Iterator[Page]:
    """A page in a context of its own; an error that its scripts do not catch fails the test."""
    made = opened.new_context(**context)
    errors: list[str] = []
    try:
        found = made.new_page()
        found.on("pageerror", lambda error: errors.append(str(error)))
        found.goto(url)
        yield found
        assert not errors, errors
    finally:
        made.close()
