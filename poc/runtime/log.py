"""Where `poc-runtime` says what went wrong: stderr for whoever typed the command, and a file for an engine.

The file has one line for each message, in the two formats that engines read from runc: JSON objects with level, msg
and time, or the same as ``key=value``.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Log:
    """``path`` may be empty: then everything goes to stderr only. ``form`` is text or json."""

    __slots__ = ("debugging", "form", "path")

    def __init__(self, path: str = "", form: str = "text", debugging: bool = False) -> None:
        self.path = path
        self.form = form
        self.debugging = debugging

    def error(self, text: str) -> None:
        self._write("error", text)
        if self.path or self.form == "text":
            print(f"poc-runtime: {text}", file=sys.stderr)

    def warn(self, texts: Iterable[str]) -> None:
        for text in texts:
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
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            print(f"poc-runtime: {self.path}: {error.strerror}", file=sys.stderr)
            return
        with open(fd, "w") as file:
            file.write(line)
