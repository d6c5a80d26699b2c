"""`contextlib.ExitStack`, of which a start needs the callbacks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class ExitStack:
    """At the end of its ``with`` everything that was asked for is called, the last first; an error stops none."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def callback(self, function: Callable[..., object], *arguments: object) -> None:
        self._callbacks.append((function, arguments))

    def pop_all(self) -> None:
        """Call none of them any more: what they would have undone stays."""
        self._callbacks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._callbacks:
            return
        function, arguments = self._callbacks.pop()
        try:
            function(*arguments)
        finally:
            self.__exit__()
