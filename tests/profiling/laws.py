"""Latencies with a known median, around 10 ms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.profiling.synthetic import Law

BASE = 10.0


def _noise(rng: np.random.Generator, share: float = 0.02) -> float:
    return float(np.exp(share * rng.standard_normal()))


def quiet() -> Law:
    return lambda at, rng: BASE * _noise(rng)


def skewed() -> Law:
    return lambda at, rng: BASE - 0.5 * np.log(2) + rng.exponential(0.5)


def drifting() -> Law:
    """A cold start: 30 % slow at first, gone with a time constant of three seconds."""
    return lambda at, rng: BASE * (1 + 0.3 * np.exp(-at / 3)) * _noise(rng)


def spiky() -> Law:
    """Three runs in a hundred take six times as long; their place above the median moves it a little."""
    shift = float(np.exp(0.02 * 0.0376))  # the quantile 0.5 / 0.97 of the quiet part

    def law(at: float, rng: np.random.Generator) -> float:
        return BASE / shift * _noise(rng) * (6 if rng.random() < 0.03 else 1)

    return law


def wandering() -> Law:
    """Each run is like the one before: an autoregressive mood of 3 %, half a second long."""
    mood = [0.0]

    def law(at: float, rng: np.random.Generator) -> float:
        mood[0] = 0.95 * mood[0] + np.sqrt(1 - 0.95**2) * rng.standard_normal()
        return BASE * float(np.exp(0.03 * mood[0])) * _noise(rng, 0.01)

    return law


def bimodal() -> Law:
    """Two speeds, as of big and little cores: in three of ten spells of about twenty runs it is a fifth slower."""
    state = [0]

    def law(at: float, rng: np.random.Generator) -> float:
        if rng.random() < 1 / 20:
            state[0] = int(rng.random() < 0.3)
        return BASE * (1.2 if state[0] else 1.0) * _noise(rng)

    return law


BIMODAL_MEDIAN = BASE * float(np.exp(0.02 * 0.566))
"""The quantile 0.5 / 0.7 of the faster speed: the slower one lies above it."""

KNOWN: dict[str, tuple[Callable[[], Law], float]] = {
    "quiet": (quiet, BASE),
    "skewed": (skewed, BASE),
    "drifting": (drifting, BASE),
    "spiky": (spiky, BASE),
    "wandering": (wandering, BASE),
    "bimodal": (bimodal, BIMODAL_MEDIAN),
}


def throttling(kind: str, onset_s: float, depth: float = 0.25) -> Law:
    """A device that slows down by a quarter: at once, slowly, or in turns of a second."""

    def law(at: float, rng: np.random.Generator) -> float:
        since = at - onset_s
        slow = {
            "step": float(since > 0),
            "ramp": min(1.0, max(0.0, since / 4)),
            "pulses": float(since > 0 and int(since) % 2 == 0),
        }
        return BASE * (1 + depth * slow[kind]) * _noise(rng)

    return law
