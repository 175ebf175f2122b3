"""Pictures in, answers out, until told to stop: a picture that cannot be read or a camera that is gone ends nothing."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.config import Input
from classifier.state import State
from edgevit.bundle.loaded import Deployed
from edgevit.data.capture import captured_pictures, is_live
from edgevit.data.images import picture_paths, read_picture
from edgevit.errors import BadFile, DeviceUnreachable

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

log = logging.getLogger("classifier")
_AGAIN_S = (1.0, 30.0)
_SHOWN = 640


@dataclass
class Loop:
    """Classifies one picture after the other.

    Attributes:
        source: where pictures come from, and how many.
        model: the bundle.
        state: is told about every picture.
        changed: is called when the steady answer changed.
        alive: is called at least once a second: the watchdog.
        stop: ends it between two pictures.
    """

    source: Input
    model: Deployed
    state: State
    changed: Callable[[], None]
    alive: Callable[[], None]
    stop: threading.Event

    def run(self) -> None:
        """Until the source ends or `stop` is set; a camera is waited for.

        Raises:
            BadFile: there is no such folder or video.
            MissingDependency: OpenCV is needed and not installed.
        """
        wait = _AGAIN_S[0]
        while not self.stop.is_set():
            before, trouble = self.state.pictures, ""
            try:
                for picture in self._paced():
                    self._classify(picture)
            except DeviceUnreachable as error:
                trouble = error.message
            seen = self.state.pictures > before
            if is_live(self.source.source):
                trouble = trouble or "the camera gives no more pictures"
            elif not self.source.repeat:
                return
            elif not seen:
                trouble = "no picture can be read"
            if self.stop.is_set() or not trouble:
                continue
            wait = _AGAIN_S[0] if seen else wait
            self._complain(f"{trouble}; trying again in {wait:.0f} s")
            self._rest(wait)
            wait = min(2 * wait, _AGAIN_S[1])

    def _complain(self, text: str) -> None:
        log.warning("%s", text)
        self.state.trouble(text)

    def _rest(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        self.alive()
        while (left := ends - time.monotonic()) > 0 and not self.stop.wait(min(1.0, left)):
            self.alive()

    def _paced(self) -> Iterator[Picture]:
        """Pictures at no more than the rate; those of a camera that come faster are let go, others wait."""
        live, due = is_live(self.source.source), time.monotonic()
        for picture in self._pictures():
            if self.stop.is_set():
                return
            now = time.monotonic()
            if now < due:
                if live:
                    self.alive()
                    continue
                self._rest(due - now)
            due = max(due, now) + 1 / self.source.most_per_second
            yield picture

    def _pictures(self) -> Iterator[Picture]:
        folder = Path(self.source.source)
        if not folder.is_dir():
            for _, picture in captured_pictures(self.source.source):
                yield picture
            return
        for path in picture_paths(folder):
            try:
                yield read_picture(path)
            except BadFile as error:
                self._complain(f"{path.name}: {error.message}")

    def _classify(self, picture: Picture) -> None:
        start = time.perf_counter()
        found = self.model.predict(picture, top=self.state.rule.top)
        took = (time.perf_counter() - start) * 1e3
        top = [{"index": one.index, "label": one.label, "score": round(one.score, 6)} for one in found]
        if self.state.take(top, _jpeg(picture), took):
            log.info("seen: %s", self.state.document()["seen"] or "nothing")
            self.changed()
        self.alive()


def _jpeg(picture: Picture) -> bytes:
    shown = picture.copy()
    shown.thumbnail((_SHOWN, _SHOWN))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=80)
    return out.getvalue()
