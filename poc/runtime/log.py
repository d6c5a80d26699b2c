"""Where `poc-runtime` says what went wrong: stderr for whoever typed the command, and a file for an engine.

The file has one line for each message, in the two formats that engines read from runc: JSON objects with level, msg
and time, or the same as ``key=value``.
"""

from __future__ import annotations

import os
import sys
import time

from poc._lean import json
from poc.errors import shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 2000


class Log:
    """``path`` may be empty: then everything goes to stderr only. ``form`` is text or json."""

    __slots__ = ("debugging", "form", "path")

    def __init__(self, path: str = "", form: str = "text", debugging: bool = False) -> None:
        self.path = path
        self.form = form
        self.debugging = debugging

    def check(self) -> None:
        """Raises OSError when nothing can be written to the file."""
        if self.path:
            os.close(self._open())

    def error(self, text: str) -> None:
        text = one_line(text)
        self._write("error", text)
        if self.path or self.form == "text":
            print(f"poc-runtime: {text}", file=sys.stderr)

    def warn(self, texts: Iterable[str]) -> None:
        for text in map(one_line, texts):
            self._write("warning", text)
            if self.path or self.form == "text":
                print(f"poc-runtime: warning: {text}", file=sys.stderr)

    def debug(self, text: str) -> None:
        if self.debugging:
            self._write("debug", text)
            if not self.path and self.form == "text":
                print(f"poc-runtime: {text}", file=sys.stderr)

    def _write(self, level: str, text: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            line = json.dumps({"level": level, "msg": text, "time": now})
        elif self.path:
            line = f'time="{now}" level={level} msg={json.dumps(text)}'
        else:
            return
        self._append(line + "\n")

    def _append(self, line: str) -> None:
        if not self.path:
            sys.stderr.write(line)
            return
        try:
            fd = self._open()
        except OSError as error:
            print(f"poc-runtime: {self.path}: {error.strerror}", file=sys.stderr)
            return
        with open(fd, "w") as file:
            file.write(line)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def one_line(text: str) -> str:
    """``text`` as one line that a terminal can show: what is somebody else's may hold anything, and be 10 MB long."""
    text = shorten(text, _LONGEST)
    return text if text.isprintable() else text.encode("unicode_escape").decode()
