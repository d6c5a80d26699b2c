"""What each phase of a command took, for ``poc-runtime --debug``: marks that cost nothing unless somebody counts."""

from __future__ import annotations

import time

_marks: list[tuple[str, float]] | None = None


def count(interpreter: float) -> None:
    """From here on, remember. ``interpreter``: the seconds since the process started, as far as it knows."""
    global _marks
    _marks = [("interpreter", interpreter), ("", time.perf_counter())]


def mark(phase: str) -> None:
    """The phase that ends here."""
    if _marks is not None:
        _marks.append((phase, time.perf_counter()))


def summary() -> str:
    """Each phase with its milliseconds, in order; "" when nobody counts."""
    if _marks is None:
        return ""
    from itertools import pairwise

    (first, interpreter), *marks = _marks
    took = {first: interpreter}
    for (_, before), (phase, now) in pairwise(marks):
        took[phase] = took.get(phase, 0.0) + now - before
    return ", ".join(f"{phase} {seconds * 1000:.1f}" for phase, seconds in took.items()) + " ms"
