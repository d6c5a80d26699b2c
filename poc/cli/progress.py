"""A bar for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.status import Status

_DELAY = 1.0  # seconds


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, int, int], object] | None]:
    """What long calls of the library take to report to: a bar on stderr, or None where that is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as shown:
        yield _Delayed(shown)


class _Delayed:
    """A bar that is drawn, and even loaded, only when it comes to that."""

    def __init__(self, shown: ExitStack) -> None:
        self._shown = shown
        self._due = time.monotonic() + _DELAY
        self._update: Callable[[str, int, int], object] | None = None

    def __call__(self, text: str, done: int, total: int) -> None:
        if self._update is None:
            if time.monotonic() < self._due:
                return
            self._update = _start(self._shown)
        self._update(text, done, total)


def _start(shown: ExitStack) -> Callable[[str, int, int], object]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = shown.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task("", total=None)
    return lambda text, done, total: bar.update(task, description=text, completed=done, total=total or None)


@contextmanager
def time_left() -> Iterator[Callable[[str, int, int], object] | None]:
    """As `progress`, of what reports the seconds that have passed and those it will take in all."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """Counts on between one report and the next."""

        def render(self, task: Task) -> Text:
            passed = time.monotonic() - task.fields["reported"]
            left = max(0, round((task.total or 0) - task.completed - passed))
            return Text(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left" if task.total else "")

    columns = (TextColumn("{task.description}"), BarColumn(), Left())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, reported=time.monotonic())
        yield lambda text, done, total: bar.update(
            task, description=text, completed=done, total=total or None, reported=time.monotonic()
        )


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on stderr for a call that reports nothing, once it has taken longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    shown: list[Status] = []

    def show() -> None:
        from rich.console import Console  # slow to load: not for what is quick

        shown.append(Console(stderr=True).status(f"{what} …"))
        shown[0].start()

    timer = Timer(1.0, show)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for status in shown:
            status.stop()
