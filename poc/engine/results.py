"""What a program wrote, and how it ended: what `Containers.run` and `Container.exec_run` give back."""

from __future__ import annotations

import os

from poc import _fs
from poc._lean.contextlib import ExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poc.engine.attach import Exit, Session
    from poc.engine.execution import Execution


class ExecResult:
    """What `Container.exec_run` gives back: ``stdout`` and ``stderr`` as bytes, and ``exit_code``."""

    __slots__ = ("exit_code", "stderr", "stdout")

    def __init__(self, stdout: bytes, stderr: bytes, exit_code: int) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.exit_code = exit_code

    @property
    def output(self) -> str:
        """stdout as text."""
        return self.stdout.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} exit_code={self.exit_code} stdout={self.stdout[:60]!r}>"


class RunResult(ExecResult):
    """What `Containers.run` gives back: the same, and ``oom_killed``."""

    __slots__ = ("oom_killed",)

    def __init__(self, stdout: bytes, stderr: bytes, exit_code: int, oom_killed: bool) -> None:
        super().__init__(stdout, stderr, exit_code)
        self.oom_killed = oom_killed


def collect(
    session: Session | Execution, stdin: bytes | None, end: Callable[[], object]
) -> tuple[bytes, bytes, Exit | None]:
    """Carry a session's bytes until it ends, and keep what is written; None in place of how when nobody can tell.

    ``end`` ends it when that is cut short.
    """
    with ExitStack() as undo:
        undo.callback(session.close)
        try:
            files = []
            for name in ("stdin", "stdout", "stderr"):
                files.append(os.memfd_create(name, os.MFD_CLOEXEC))
                undo.callback(os.close, files[-1])
            _fs.write_all(files[0], stdin or b"")
            os.lseek(files[0], 0, os.SEEK_SET)
            ended = session.run(None if stdin is None else files[0], files[1], files[2])
        except BaseException:
            end()
            raise
        stdout, stderr = (os.pread(fd, os.fstat(fd).st_size, 0) for fd in files[1:])
        return stdout, stderr, ended
