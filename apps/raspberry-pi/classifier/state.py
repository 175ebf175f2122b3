"""What the service knows at this moment: the last answer, and the one that has been steady."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from classifier.config import Reported


@dataclass
class State:
    """Shared by the loop that classifies, the page and MQTT.

    Attributes:
        about: model, runtime and source, for people.
        rule: what counts as an answer.
    """

    about: dict[str, str]
    rule: Reported
    started: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pictures: int = 0
    _top: list[dict[str, Any]] = field(default_factory=list)
    _picture: bytes = b""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    _took_ms: float = 0.0
    _steady: str | None = None
    _candidate: str | None = None
    _streak: int = 0
    _trouble: str = ""

    def take(self, top: list[dict[str, Any]], picture: bytes, took_ms: float) -> bool:
        """A picture was classified; True when the steady answer changed."""
        best = top[0]
        label = best["label"] if best["score"] >= self.rule.least else None
        with self._lock:
            self._pictures += 1
            self._top, self._picture, self._took_ms, self._trouble = top, picture, took_ms, ""
            self._times.append(time.monotonic())
            self._streak = self._streak + 1 if label == self._candidate else 1
            self._candidate = label
            changed = self._streak >= self.rule.steady and label != self._steady
            if changed:
                self._steady = label
            return changed

    def trouble(self, text: str) -> None:
        """Something keeps pictures from coming."""
        with self._lock:
            self._trouble = text

    @property
    def pictures(self) -> int:
        """How many were classified."""
        with self._lock:
            return self._pictures

    @property
    def picture(self) -> bytes:
        """The last one, a JPEG."""
        with self._lock:
            return self._picture

    def document(self) -> dict[str, Any]:
        """As plain values; ``seen`` is the steady answer, None for nothing."""
        with self._lock:
            span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
            return {
                **self.about,
                "seen": self._steady,
                "top": self._top,
                "pictures": self._pictures,
                "per_second": round((len(self._times) - 1) / span, 2) if span else 0.0,
                "took_ms": round(self._took_ms, 2),
                "up_s": round(time.time() - self.started, 1),
                "trouble": self._trouble,
            }
