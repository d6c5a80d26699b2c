"""What samples say, and what they do not: ratios with an interval, outliers by name, and a sentence in words.

Runs are made in rounds, every runtime once in each, so a ratio is that of two samples of one round: what the machine
did meanwhile has hit both. Outliers are shown, never dropped; so that one does not hide a difference either, the
interval is that of the signed ranks (Wilcoxon; Hodges and Lehmann), which assumes no normal distribution. It needs six
rounds to be 95 % sure of anything; below that it is Student's of the logarithms.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOWER, HIGHER = "lower", "higher"  # which value is the better one

_RANKS_FROM = 6  # 2 / 2**6 < 0.05: with fewer pairs no interval of ranks is that sure
_ALPHA = 0.05
# Student's t, two-sided 95 %, for 1 to 4 degrees of freedom: more pairs than that go by their ranks.
_T = (12.7062, 4.3027, 3.1824, 2.7764)


class Summary(NamedTuple):
    """Of the samples of one metric. ``stddev`` is the sample's, 0 of a single one; ``outliers`` are among the rest."""

    n: int
    min: float
    mean: float
    median: float
    max: float
    stddev: float
    outliers: list[float]


class Ratio(NamedTuple):
    """How one thing compares with another: ``low`` to ``high`` holds the truth in 95 of 100 cases; None: too few."""

    value: float
    low: float | None
    high: float | None
    n: int
    method: str

    @property
    def differs(self) -> bool:
        """Is the difference larger than the noise?"""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{figure(self.value)} in {self.n} run{'s' if self.n > 1 else ''}"
        return f"{figure(self.value)}, {figure(self.low)} to {figure(self.high)}"


def summarize(samples: Sequence[float]) -> Summary:
    """Of at least one sample."""
    deviation = statistics.stdev(samples) if len(samples) > 1 else 0.0
    return Summary(
        len(samples),
        min(samples),
        statistics.fmean(samples),
        statistics.median(samples),
        max(samples),
        deviation,
        outliers(samples),
    )


def outliers(samples: Sequence[float]) -> list[float]:
    """Those that lie more than 1.5 quartile ranges beyond the quartiles (Tukey's fences)."""
    if len(samples) < 4:
        return []
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    reach = 1.5 * (third - first)
    return [sample for sample in samples if not first - reach <= sample <= third + reach]


def ratio(samples: Sequence[float], base: Sequence[float]) -> Ratio | None:
    """``samples`` by ``base``, pair by pair. None where there is no pair, or a value of 0, which has no ratio."""
    pairs = list(zip(samples, base, strict=True))
    if not pairs or any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    logarithms = [math.log(a / b) for a, b in pairs]
    if len(pairs) < 2:
        return Ratio(math.exp(logarithms[0]), None, None, 1, "single")
    value, low, high, method = _by_ranks(logarithms) if len(pairs) >= _RANKS_FROM else _by_student(logarithms)
    return Ratio(math.exp(value), math.exp(low), math.exp(high), len(pairs), method)


def _by_student(values: Sequence[float]) -> tuple[float, float, float, str]:
    mean = statistics.fmean(values)
    reach = _T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach, "t"


def _by_ranks(values: Sequence[float]) -> tuple[float, float, float, str]:
    """The median of the means of all pairs, and the interval the signed-rank test would not reject."""
    means = sorted((a + b) / 2 for at, a in enumerate(values) for b in values[at:])
    outside = _outside(len(values))
    return statistics.median(means), means[outside], means[-1 - outside], "signed ranks"


def _outside(n: int) -> int:
    """How many of the means of pairs lie outside the interval at either end (Hollander and Wolfe, 3.3)."""
    if n > 100:  # the exact count grows with the cube
        variance = n * (n + 1) * (2 * n + 1) / 24
        return int(n * (n + 1) / 4 - 1.959964 * math.sqrt(variance)) - 1
    ways = [1] + [0] * (n * (n + 1) // 2)  # how many subsets of the ranks 1..n have each sum
    for rank in range(1, n + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    most, seen = _ALPHA / 2 * 2**n, 0
    for total, count in enumerate(ways):
        seen += count
        if seen > most:
            return total - 1
    raise AssertionError("the last sum is that of all subsets")


def independent_ratio(samples: Sequence[float], base: Sequence[float]) -> Ratio | None:
    """The same of two runs at different times, which share no rounds (Mann and Whitney; Hodges and Lehmann)."""
    if not samples or not base or min(*samples, *base) <= 0:
        return None
    shifts = sorted(math.log(a / b) for a in samples for b in base)
    value = math.exp(statistics.median(shifts))
    outside = _outside_of_two(len(samples), len(base))
    if outside < 0:
        return Ratio(value, None, None, min(len(samples), len(base)), "too few")
    low, high = math.exp(shifts[outside]), math.exp(shifts[-1 - outside])
    return Ratio(value, low, high, min(len(samples), len(base)), "rank sums")


def _outside_of_two(m: int, n: int) -> int:
    """As `_outside`, of the differences of two samples; -1: too few to be 95 % sure."""
    if m * n > 2500:
        return int(m * n / 2 - 1.959964 * math.sqrt(m * n * (m + n + 1) / 12)) - 1
    ways = [1] + [0] * (m * n)  # of the rank sum's values: the coefficients of a Gaussian binomial
    for i in range(1, n + 1):
        for total in range(m * n, m + i - 1, -1):
            ways[total] -= ways[total - m - i]
        for total in range(i, m * n + 1):
            ways[total] += ways[total - i]
    most, seen = _ALPHA / 2 * math.comb(m + n, n), 0
    for total, count in enumerate(ways):
        seen += count
        if seen > most:
            return total - 1
    raise AssertionError("the last sum is that of all")


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────


Words = tuple[str, str]  # what the better one is called, and the worse one
FASTER = ("faster", "slower")


def sentence(
    title: str, found: Ratio, better: str, name: str, base: str, words: Words = FASTER, pair: bool = False
) -> str:
    """What a ratio means: "CPU: no measurable difference (0.998, 0.991 to 1.004)".

    ``pair``: it is one of several, so it says which two it is about where that is not plain. ``title`` may be "".
    """
    between = f" between {name} and {base}" if pair else ""
    if found.low is None or found.high is None:
        told = f"too few runs to tell a difference{between} from noise"
    elif found.differs:
        told = f"{name} {_difference(found, better, words)} {base}"
    elif max(found.high - 1, 1 - found.low) > _NOISY:
        told = f"the noise is larger than the difference{between}"
    else:
        told = f"no measurable difference{between}"
    return f"{title}{': ' if title else ''}{told} ({found})"


_NOISY = 0.05  # an interval that reaches further than this says little
_TIMES = 1.5  # from here on it is "2.4 × faster", below "12 % faster"


def _difference(found: Ratio, better: str, words: Words) -> str:
    """ "is 2.4 × faster than", "is 3.1 % slower than"; the percentage is of the other's value."""
    gain = found.value if better == HIGHER else 1 / found.value
    word = words[gain < 1]
    factor = max(gain, 1 / gain)
    if factor >= _TIMES:
        return f"is {factor:.1f} × {word} than"
    return f"is {abs(found.value - 1) * 100:.1f} % {word} than"


def figure(value: float) -> str:
    """A ratio as a person reads it: three places near 1, three digits elsewhere."""
    return f"{value:.3f}" if 0.1 <= value < 10 else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
