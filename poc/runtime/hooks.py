"""Runs the hooks of a configuration (config.md, POSIX-platform Hooks), in the namespaces of whoever calls.

Each gets the container's state on its stdin, and its own environment only. What it prints is kept for the error
that says why it failed. The container's process runs some of them too: nothing is imported on the way.
"""

from __future__ import annotations

import os
import select
import time

from poc import _libc
from poc._lean import json, signal
from poc.errors import SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

_KEPT = 2048  # bytes of a failed hook's last words
_PAUSE, _SHORT_PAUSE = 0.05, 0.001  # seconds between looks at a hook that says nothing


class Hooks:
    """All hooks of one container. ``state`` is the runtime specification's, without pid and status."""

    __slots__ = ("_hooks", "_state")

    def __init__(self, hooks: Mapping[str, Sequence[Mapping[str, Any]]], state: Mapping[str, Any]) -> None:
        self._hooks = hooks
        self._state = dict(state)

    def run(self, kind: str, status: str, pid: int, env: Sequence[str] | None = None) -> None:
        """Run those of one kind in their order; ``env`` is for those that name none, None the caller's own.

        Raises SetupError at the first that fails or takes longer than its timeout.
        """
        state = json.dumps({**self._state, "status": status, "pid": pid}).encode()
        for position, hook in enumerate(self._hooks.get(kind, ())):
            failure = _run(hook, state, env)
            if failure:
                raise SetupError(f"/hooks/{kind}/{position}: {hook['path']} {failure}", f"{kind} hook")

    def run_all(self, kind: str, status: str, pid: int = 0) -> list[str]:
        """Run every one of a kind, also after one that fails. Returns what went wrong."""
        state = json.dumps({**self._state, "status": status, "pid": pid}).encode()
        failures = []
        for position, hook in enumerate(self._hooks.get(kind, ())):
            if failure := _run(hook, state, None):
                failures.append(f"/hooks/{kind}/{position}: {hook['path']} {failure}")
        return failures


def _run(hook: Mapping[str, Any], state: bytes, env: Sequence[str] | None) -> str:
    """What went wrong, "" for nothing."""
    stdin, state_writer = os.pipe()
    output, output_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _execute(hook, env, stdin, output_writer)
    os.close(stdin)
    os.close(output_writer)
    deadline = time.monotonic() + hook["timeout"] if "timeout" in hook else None
    try:
        status, said = _talk(pid, state_writer, state, output, deadline)
    finally:
        os.close(output)
    words = said.decode(errors="replace").strip()
    ended = {None: f"took longer than its timeout of {hook.get('timeout')} s", 0: ""}.get(status, _ended(status))
    return f"{ended}: {words}" if ended and words else ended


def _ended(status: int | None) -> str:
    code = os.waitstatus_to_exitcode(status or 0)
    return f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def _execute(hook: Mapping[str, Any], env: Sequence[str] | None, stdin: int, output: int) -> NoReturn:
    try:
        inherited = os.environ if env is None else dict(entry.partition("=")[::2] for entry in env)
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _libc.cloexec_from(3)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and what is ignored stays so after execve
        environment = dict(entry.partition("=")[::2] for entry in hook["env"]) if "env" in hook else inherited
        os.execve(hook["path"], hook.get("args") or [hook["path"]], environment)
    except OSError as error:
        os.write(2, os.strerror(error.errno or 0).encode())
    finally:
        os._exit(127)


def _talk(pid: int, writer: int, state: bytes, output: int, deadline: float | None) -> tuple[int | None, bytes]:
    """Give it its state and hear it out. (wait status, last words); status None: killed at its deadline."""
    os.set_blocking(writer, False)
    streams = {output: select.POLLIN, writer: select.POLLOUT}
    said, ended, expired = b"", 0, False
    while not ended and not expired:
        ended, status = os.waitpid(pid, os.WNOHANG)
        expired = deadline is not None and time.monotonic() >= deadline
        # Whoever has closed its output is about to end.
        for fd in _ready(streams, 0 if ended or expired else _PAUSE if output in streams else _SHORT_PAUSE):
            if fd == output:
                data = os.read(output, 1 << 16)
                said = (said + data)[-_KEPT:]
                if not data:
                    del streams[output]
            elif not (state := _write(writer, state)):
                del streams[writer]
                os.close(writer)
    if writer in streams:
        os.close(writer)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return (status if ended else None), said


def _ready(streams: Mapping[int, int], seconds: float) -> list[int]:
    poller = select.poll()
    for fd, events in streams.items():
        poller.register(fd, events)
    return [fd for fd, _ in poller.poll(seconds * 1000)]


def _write(fd: int, data: bytes) -> bytes:
    """What is left to write; nothing when the hook does not read."""
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""
