"""Carries out a container's health checks, from within its monitor and without holding that up.

Each is a fork of the monitor, no new interpreter, that runs the command as `poc exec` does and hands the result back::

    monitor            helper                          container
    ───────            ──────                          ─────────
    fork ────────────▶ process beside the first ─────▶ the command
    goes on            reads its output ◀───────────── ends, or is killed for taking too long
      ◀────── result   ends
    health.json written
"""

from __future__ import annotations

import os
import select
import time

from poc import _fs, _libc
from poc._lean import json, signal
from poc.engine import health
from poc.engine.execution import Plan
from poc.engine.health import Health
from poc.engine.logs import timestamp
from poc.engine.store import read_optional
from poc.errors import PocError
from poc.namespaces import fork, run_and_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from poc.engine.container import Container
    from poc.namespaces import Process

_CHUNK = 1 << 16
_GRACE = 10.0  # seconds that a helper may take longer than the command
_PF_EXITING = 0x4  # include/linux/sched.h
_LAST_WAIT = 1.0  # seconds for a killed command to end: a frozen one does not


class Checks:
    """The checks of one run. ``path`` is where the state of health stands, ``kept`` where it stays afterwards."""

    __slots__ = (
        *("_check", "_command", "_container", "_deadline", "_due", "_first", "_health", "_helper", "_kept", "_path"),
        *("_reader", "_started_at"),
    )

    def __init__(
        self, container: Container, check: Mapping[str, Any], command: list[str], path: str, state: Mapping[str, Any]
    ) -> None:
        self._container = container
        self._check = check
        self._command = command
        self._path, self._kept = path, container.health_path
        self._started_at: float = state["started_at"]
        self._first: int = state["init"][0]
        self._health = Health(check, read_optional(self._kept))
        self._helper = -1  # its pidfd
        self._reader = -1
        self._deadline = 0.0
        self._due = time.monotonic() + health.seconds(check, "Interval")
        self._write(path)

    def _write(self, path: str) -> None:
        try:
            _fs.write_json(path, self._health.as_object())
        except OSError:
            pass  # a full disk: what was known before stays

    def patience(self) -> float:
        """Seconds until there is something to do, if nothing happens before."""
        return max(0.0, (self._due if self._helper < 0 else self._deadline) - time.monotonic())

    def watch(self, poller: select.poll) -> int:
        """Have told when a check has ended; returns the descriptor, or -1."""
        if self._helper >= 0:
            poller.register(self._helper, select.POLLIN)
        return self._helper

    def attend(self) -> bool:
        """Do what there is to do by now; has a check ended?"""
        if self._helper >= 0:
            self._look_at_helper()
            return self._helper < 0
        if not self.patience():
            self._begin()
        return False

    # ── one check ────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        if self._container.is_frozen():
            self._await_next()  # as docker's, which checks none that is paused
            return
        timeout = health.seconds(self._check, "Timeout")
        self._reader, writer = os.pipe()
        try:
            pid = fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            self._await_next()
            return
        if pid == 0:
            run_and_exit(lambda: self._help(timeout, writer))
        os.close(writer)
        self._helper = os.pidfd_open(pid)
        self._deadline = time.monotonic() + timeout + _GRACE

    def _await_next(self) -> None:
        self._due = time.monotonic() + health.seconds(self._check, "Interval")

    def _look_at_helper(self) -> None:
        if not _has_ended(self._helper):
            if self.patience():
                return
            signal.pidfd_send_signal(self._helper, signal.SIGKILL)
        said = self._reap()
        self._await_next()
        # One that was paused meanwhile could not answer, and with the container's end comes that of the check.
        if said and not self._container.is_frozen() and not self._is_ending():
            self._take(json.loads(said))

    def _is_ending(self) -> bool:
        started, flags = _fs.process_start(self._first)
        return started is None or bool(flags & _PF_EXITING)

    def _reap(self) -> bytes:
        os.waitid(os.P_PIDFD, self._helper, os.WEXITED)
        said = _fs.read_all(self._reader)
        os.close(self._helper)
        os.close(self._reader)
        self._helper = self._reader = -1
        return said

    def _take(self, said: dict[str, Any]) -> None:
        age = said.pop("began") - self._started_at
        changed = self._health.take(said, age)
        self._write(self._path)
        if changed:
            self._container.emit(f"health_status: {self._health.status}")

    def close(self) -> None:
        """The run has ended; docker calls unhealthy what does not run."""
        if self._helper >= 0:
            signal.pidfd_send_signal(self._helper, signal.SIGKILL)
            self._reap()
        self._health.status = health.UNHEALTHY
        self._write(self._kept)

    # ── the helper ───────────────────────────────────────────────────────────────────────────────────

    def _help(self, timeout: float, writer: int) -> None:
        _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        _fs.close_all_but(writer)
        began = time.time()
        try:
            code, said = self._run(timeout)
        except (PocError, OSError) as error:
            code, said = -1, str(error)
        result = {"Start": timestamp(began), "End": timestamp(), "ExitCode": code, "Output": said, "began": began}
        _fs.write_all(writer, json.dumps(result).encode())

    def _run(self, timeout: float) -> tuple[int, str]:
        """The exit code, -1 for one that takes too long, and what it wrote."""
        deadline = time.monotonic() + timeout
        plan = Plan(self._container, self._command, {})
        reader, writer = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        created = plan.carry_out((null, writer, writer))
        os.close(writer)
        os.set_blocking(reader, False)
        plan.start(created)
        said, ended = _listen(reader, created.process, deadline)
        if not ended:
            created.process.kill()
            _has_ended(created.process.pidfd, _LAST_WAIT)
            plan.emit("exec_die", exitCode=137)
            return -1, f"Health check exceeded timeout ({_span(timeout)})"
        code = created.process.exit_code()
        plan.emit("exec_die", exitCode=code)
        return code, health.output(said)


def _listen(reader: int, process: Process, deadline: float) -> tuple[bytes, bool]:
    """What a process writes until it ends, no more than is kept; and whether it has ended by ``deadline``."""
    said = bytearray()
    poller = select.poll()
    for fd in (reader, process.pidfd):
        poller.register(fd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = [fd for fd, _ in poller.poll(left * 1000)]
        if reader in ready and not _hear(reader, said):
            poller.unregister(reader)
        if process.pidfd in ready:
            while _hear(reader, said):
                pass
            return bytes(said), True
    return bytes(said), False


def _hear(reader: int, said: bytearray) -> bool:
    """Take what is there; was there anything?"""
    try:
        data = os.read(reader, _CHUNK)
    except BlockingIOError:
        return False
    said += data[: health.LONGEST_OUTPUT + 1 - len(said)]
    return bool(data)


def _has_ended(pidfd: int, patience: float = 0.0) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(patience * 1000))


def _span(timeout: float) -> str:
    return f"{timeout * 1000:g}ms" if timeout < 1 else f"{timeout:g}s"
