"""The statistics of latencies: medians with intervals that hold when runs are not independent of each other.

Latencies of one device are autocorrelated: the effect of a governor, of heat or of another process lasts for many
runs. An interval that takes runs for independent is then far too narrow. Here whole blocks of runs are drawn (Künsch
1989, the moving-block bootstrap), as long as the correlation lasts, which the autocorrelation shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Confidence level of a median's interval (docs/profiling.md)."""
_RATIO_LEVEL = 0.97
"""Above 95 %, so that at most one null comparison in twenty is called a difference."""
_REPLICATES = 1000
"""Bootstrap draws; the interval's ends are quantiles of as many medians."""
_FEWEST_BLOCKS = 8
"""Fewest blocks in a bootstrap draw; bounds the length of a block."""
_LARGEST_DRAW = 2_000_000
"""Values drawn at once; bounds memory to 16 MB of float64."""
_SEGMENTS = 12
"""Parts of a series whose medians are tested for a trend."""
_SLOWDOWN_PARTS = 20
"""Parts of a series that are compared for a slowdown, a twentieth of the runs each."""
_STEPS_AHEAD = 3.0
"""The sum of a geometric decay whose steps shrink to three quarters each time, see `leads_to`."""
_TREND_ERRORS = 1.645
"""The 95 % quantile of the normal distribution: a two-sided test at 10 %, see `trend`."""
_PART_ERRORS = 5
"""Standard errors by which the median of a part may differ from the others by chance, see `median_noise`."""
_MAD_TO_STD, _MEDIAN_ERROR = 1.4826, 1.2533
"""Of the normal distribution: the standard deviation by the median deviation, and a median's error by a mean's."""
_INDEPENDENT = 1.5
"""Correlation time in runs below which runs count as independent; without correlation it is 1."""
_SLOWER_START = 1.01
"""Only a start that is slower than the rest by this factor is warm-up, see `transient`."""
_SHORT_SERIES = 2.0
"""A short series shows less of its correlation than it has."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower bound.
        high: upper bound.
    """

    low: float
    high: float

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that contains both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


def _ranks(values: Floats) -> Floats:
    """Ranks of the values; ties share a rank, since a coarse clock makes many."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], np.float64)


def correlation_time(values: Floats) -> float:
    """The number of runs over which latencies stay correlated: 1 for independent runs.

    The integrated autocorrelation time of the ranks, summed up to the window of Sokal (1997): five times itself.
    Ranks, because a single spike would hide every other likeness.
    """
    count = len(values)
    if count < 4:
        return 1.0
    ranks = _ranks(values)
    ranks -= ranks.mean()
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(ranks, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[: count // 2]
    if covariance[0] <= 0:
        return 1.0
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    inside = np.arange(len(times)) >= 5 * times
    window = int(np.argmax(inside)) if inside.any() else len(times) - 1
    return max(1.0, float(times[window]))


def block_length(values: Floats) -> int:
    """Runs in one bootstrap block: twice the correlation time, but no more than an eighth of the series."""
    longest = max(1, len(values) // _FEWEST_BLOCKS)
    time = correlation_time(values)
    return 1 if time < _INDEPENDENT else min(longest, int(np.ceil(2 * time)))


def _draws(values: Floats, length: int, rng: np.random.Generator) -> Floats:
    """Medians of circular moving-block resamples: float64 [replicates]."""
    count = len(values)
    blocks = -(-count // length)
    offsets = np.arange(length)
    chunk = max(1, _LARGEST_DRAW // count)
    found = []
    for start in range(0, _REPLICATES, chunk):
        rows = min(chunk, _REPLICATES - start)
        starts = rng.integers(0, count, (rows, blocks, 1))
        places = ((starts + offsets) % count).reshape(rows, -1)[:, :count]
        found.append(np.median(values[places], axis=1))
    return np.concatenate(found)


def _ordered(values: Floats, effective: float, level: float) -> Interval:
    """The interval between two order statistics, for the number of independent runs that the series is worth.

    The number of runs below the median is binomial, here by its normal approximation; with few runs it reaches
    the smallest and the largest value, which is all that few runs can say.
    """
    half = NormalDist().inv_cdf((1 + level) / 2) / (2 * np.sqrt(effective))
    low, high = np.quantile(values, [max(0.0, 0.5 - half), min(1.0, 0.5 + half)])
    return Interval(float(low), float(high))


def median_interval(values: Floats, *, level: float = LEVEL, seed: int = 0) -> Interval:
    """A bootstrap confidence interval of the median.

    Where runs depend on each other a series of blocks varies less than what it stands for, so there the interval
    is at least the one between order statistics.

    Args:
        values: float64 [n] in the order of time.
        level: how often it should hold the median, 0 to 1.
        seed: of the resampling.
    """
    if len(values) < 2:
        return Interval(float(values[0]), float(values[0]))
    length = block_length(values)
    draws = _draws(values, length, np.random.default_rng(seed))
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    return Interval(float(low), float(high)).hull(_ordered(values, independent_runs(values), level))


def independent_runs(values: Floats) -> float:
    """The number of independent runs that a series is worth."""
    time = correlation_time(values)
    return len(values) if time < _INDEPENDENT else len(values) / (_SHORT_SERIES * time)


def transient(values: Floats) -> int:
    """The number of runs at the start that still belong to the warm-up.

    The truncation rule MSER (White 1997) on medians of batches: drop as many as make the rest's standard error
    least, at most half. Only a start that is slower than the rest, by 1 %, is warm-up; a faster one is a
    device that slows down.
    """
    if not trend(values):
        return 0
    size = max(1, len(values) // 100)
    batches = len(values) // size
    if batches < 10:
        return 0
    medians = np.median(values[: batches * size].reshape(batches, size), axis=1)
    cuts = np.arange(batches // 2 + 1)
    errors = [np.var(medians[cut:]) / (batches - cut) for cut in cuts]
    cut = int(cuts[int(np.argmin(errors))]) * size
    if cut and np.median(values[:cut]) < np.median(values[cut:]) * _SLOWER_START:
        return 0
    return cut


def median_noise(values: Floats, parts: list[Floats]) -> float:
    """The difference by which the median of one part may be off by chance: five standard errors."""
    spread = float(np.median([np.median(np.abs(part - np.median(part))) for part in parts]))
    return _PART_ERRORS * _MAD_TO_STD * _MEDIAN_ERROR * spread * float(np.sqrt(len(parts) / len(values)))


def slowdown(values: Floats, least: int = 10) -> float:
    """The share by which the slowest of twenty parts is slower than the fastest part before it; 0 if none is.

    A difference below five standard errors of such parts' medians counts as none.

    Args:
        values: float64 [n] in the order of time.
        least: runs of a part; with less than twice as many nothing can be said.
    """
    count = min(_SLOWDOWN_PARTS, len(values) // least)
    if count < 2:
        return 0.0
    parts = np.array_split(values, count)
    medians = [float(np.median(part)) for part in parts]
    noise = float(np.sqrt(2)) * median_noise(values, parts)
    fastest, worst = medians[0], 0.0
    for median in medians[1:]:
        if median - fastest > noise:
            worst = max(worst, median / fastest - 1)
        fastest = min(fastest, median)
    return worst


def trend(values: Floats) -> int:
    """The direction of a trend: 1 for slower, -1 for faster, 0 for none.

    The Mann-Kendall test on the medians of twelve parts, at 10 %.
    """
    if len(values) < 4 * _SEGMENTS:
        return 0
    parts = np.array([np.median(part) for part in np.array_split(values, _SEGMENTS)])
    score = sum(float(np.sign(parts[i + 1 :] - parts[i]).sum()) for i in range(_SEGMENTS - 1))
    spread = np.sqrt(_SEGMENTS * (_SEGMENTS - 1) * (2 * _SEGMENTS + 5) / 18)
    return int(np.sign(score)) if abs(score) / spread > _TREND_ERRORS else 0


def leads_to(values: Floats) -> float:
    """The furthest value that a trend may lead to: the last third's median plus three times the last step between
    thirds.

    A geometric decay whose steps shrink to three quarters each time ends there (Aitken's delta-squared); its ratio
    itself is too noisy to be measured on the way. A step against the trend leads nowhere.
    """
    _, second, last = (float(np.median(part)) for part in np.array_split(values, 3))
    step = last - second
    return last + _STEPS_AHEAD * step if np.sign(step) == trend(values) else last


def steady_interval(values: Floats, dropped: int = 0, *, seed: int = 0) -> Interval:
    """The interval of the median; with a trend, also of the last third and of where the trend leads.

    Args:
        values: float64 [n], all runs in the order of time.
        dropped: how many at the start the median leaves out; the trend is read off all of them.
        seed: of the resampling.
    """
    interval = median_interval(values[dropped:], seed=seed)
    direction = trend(values)
    if not direction:
        return interval
    last = values[-max(1, len(values) // 3) :]
    ahead = median_interval(last, seed=seed)
    noise = _STEPS_AHEAD * (ahead.high - ahead.low) / 2
    bound = max(0.0, leads_to(values) + direction * noise)  # no trend leads a latency below nothing
    return interval.hull(ahead).hull(Interval(bound, bound))


def ratio_interval(before: Floats, after: Floats, *, seed: int = 0) -> tuple[float, Interval]:
    """The ratio of B's latency to A's, from pairs measured next to each other.

    Args:
        before: float64 [pairs], latencies of A.
        after: float64 [pairs], latencies of B.
        seed: of the resampling.

    Returns:
        The median of the pairs' ratios, and its interval.
    """
    logs = np.log(after) - np.log(before)
    interval = median_interval(logs, level=_RATIO_LEVEL, seed=seed)
    return float(np.exp(np.median(logs))), Interval(float(np.exp(interval.low)), float(np.exp(interval.high)))
