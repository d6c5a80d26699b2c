"""The small interface behind which all runtimes look alike, and how their programs are called."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from poc._fs import identity
from poc._processes import await_either
from poc.bench.image import PATH
from poc.bench.network import Network
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.bench.image import Image
    from poc.bench.workspace import Workspace

# What a runtime may be able to do besides running a program to its end.
LIFE, EXEC, PAUSE, LOGS, LIMITS, UPDATE = "life", "exec", "pause", "logs", "limits", "update"
NETWORK = "network"  # a life with a network, exec in it, and its addresses
ALL = frozenset((LIFE, EXEC, PAUSE, LOGS, LIMITS, UPDATE, NETWORK))

MARK = "POC_BENCH"  # in the environment of all that is started here: whose process is it?
PATIENCE = 900.0  # seconds for one call


class CallFailed(PocError):
    """A runtime's program did not do what it was told: its last words."""


class Absent(PocError):
    """A runtime that was asked for is not on this machine, and why."""


class Runtime:
    """One way to run a program: on the host, with poc, with an OCI runtime, with an engine.

    `prepare` comes first and `close` last. A container is known by the name that `create` returns. ``can`` says which
    of the calls there are; those of a runtime that can't are never made.
    """

    can: frozenset[str] = ALL
    limits: frozenset[str] = frozenset(("cpus", "memory", "write_bps"))
    note = ""  # what a reader of its memory has to know
    needs_mounts = False  # does it mount things in the caller's mount namespace, or need one without some?

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment: dict[str, str] = {}
        self._count = 0

    def absent(self) -> str:
        """Why it can't be used here; "" if it can."""
        raise NotImplementedError

    def version(self) -> str:
        """Of whatever does the work, in one line."""
        raise NotImplementedError

    def prepare(self, workspace: Workspace, image: Image) -> None:
        """Bring the image to it, start what it needs; what has to be undone is noted in the workspace before."""
        self.workspace = workspace
        self.network = Network(workspace)
        self.image = image
        self.tag = f"{workspace.tag}-{_plain(self.name)}"
        self.environment = {**os.environ, MARK: self.tag}

    def close(self) -> None:
        """End what `prepare` started. What is noted in the workspace is not its task."""

    def new_name(self) -> str:
        self._count += 1
        return f"{self.tag}-{self._count}"

    def has(self, program: str, image: Image) -> bool:
        """Can it run this program?"""
        return program in image.programs

    def keeps(self, words: Sequence[str], mark: str) -> bool:
        """Is a process, by its command line and what `MARK` is in its environment, there for this runtime's sake?"""
        return mark == self.tag or any(f"{self.tag}-" in word for word in words)

    # ── what is measured ─────────────────────────────────────────────────────────────────────────────

    def run(self, command: Sequence[str], limits: Limits | None = None) -> str:
        """Run a program to its end, leave nothing; what it printed. Raises CallFailed when it or the runtime fails."""
        raise NotImplementedError

    def create(self, command: Sequence[str], limits: Limits | None = None, network: bool = False) -> str:
        """Make a container without starting it; its name. All but those with ``network`` have no network."""
        raise NotImplementedError

    def start(self, name: str) -> None:
        """Start it; returns when its program runs."""
        raise NotImplementedError

    def exec(self, name: str, command: Sequence[str]) -> str:
        """Run another program in it to its end; what it printed."""
        raise NotImplementedError

    def addresses(self, name: str) -> tuple[str, str]:
        """(its own, the host's) on its network; it runs."""
        return self.network.addresses(name)

    def pause(self, name: str) -> None:
        raise NotImplementedError

    def unpause(self, name: str) -> None:
        raise NotImplementedError

    def update(self, name: str, limits: Limits) -> None:
        """Put other limits into force while it runs."""
        raise NotImplementedError

    def logs(self, name: str) -> str:
        """What its program has printed so far."""
        raise NotImplementedError

    def destroy(self, name: str) -> None:
        """Kill it, and remove it with all it wrote."""
        raise NotImplementedError

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────

    def call(self, *words: str) -> str:
        """Run a program of the runtime's; what it printed. Raises CallFailed with the last line of its complaint.

        It prints to files: a container that it leaves behind would hold a pipe of ours for as long as it lives.
        """
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as told:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=told,
                    env=self.environment,
                    start_new_session=True,  # ctrl-c is for the benchmark, which then ends everything in order
                )
                status = _end(process)
            except OSError as error:
                raise CallFailed(f"{self.name}: {error}") from None
            printed.seek(0)
            output = printed.read().decode(errors="replace")
            if status:
                told.seek(0)
                complaint = told.read().decode(errors="replace") or output or f"exit status {status}"
                raise CallFailed(f"{self.name}: {_shown(words)}: {complaint.strip().splitlines()[-1]}")
        return output


def _end(process: subprocess.Popen[bytes]) -> int:
    """Wait for its exit status. Raises TimeoutError after killing it.

    Popen.wait with a timeout only looks now and then, every 50 ms in the end: every figure would be a step of that.
    """
    try:
        if not await_either([identity(process.pid)], PATIENCE):
            raise TimeoutError(f"{PATIENCE:.0f} s passed without an end of it")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.wait()


class Limits:
    """What a container may use: ``cpus`` as a number of CPUs, ``memory`` in bytes, ``write_bps`` of a device."""

    def __init__(
        self, cpus: float | None = None, memory: int | None = None, write_bps: tuple[str, int] | None = None
    ) -> None:
        self.cpus = cpus
        self.memory = memory
        self.write_bps = write_bps

    def flags(self) -> list[str]:
        """In docker's words, which all engines understand."""
        cpus = [f"--cpus={self.cpus:g}"] if self.cpus else []
        memory = [f"--memory={self.memory}"] if self.memory else []
        device, rate = self.write_bps or ("", 0)
        return [*cpus, *memory, *([f"--device-write-bps={device}:{rate}"] if device else ())]

    def resources(self) -> dict[str, Any]:
        """In those of the OCI."""
        found: dict[str, Any] = {}
        if self.cpus:
            found["cpu"] = {"quota": round(self.cpus * 100_000), "period": 100_000}
        if self.memory:
            found["memory"] = {"limit": self.memory}
        if self.write_bps:
            device, rate = self.write_bps
            number = os.stat(device).st_rdev
            rule = {"major": os.major(number), "minor": os.minor(number), "rate": rate}
            found["blockIO"] = {"throttleWriteBpsDevice": [rule]}
        return found


class Host(Runtime):
    """No container at all: what the others are compared with, and through the same calls, so it has their cost.

    With a network it is a program in a network namespace on the bridge, which is isolated in nothing else.
    """

    can = frozenset((NETWORK,))

    def absent(self) -> str:
        return ""

    def version(self) -> str:
        host = os.uname()
        return f"{host.sysname} {host.release}"

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        self._directory = workspace.directory("host")
        self._commands: dict[str, Sequence[str]] = {}
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def has(self, program: str, image: Image) -> bool:
        return shutil.which(program, path=PATH) is not None

    def run(self, command: Sequence[str], limits: Limits | None = None) -> str:
        return self.call("env", f"--chdir={self._directory}", *command)

    def _inside(self, name: str, *command: str) -> list[str]:
        return ["nsenter", f"--net={self.network.path(name)}", "env", f"--chdir={self._directory}", *command]

    def create(self, command: Sequence[str], limits: Limits | None = None, network: bool = False) -> str:
        name = self.new_name()
        self.network.add(name)
        self._commands[name] = command
        return name

    def start(self, name: str) -> None:
        ending_with_us = ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child"]
        words = self._inside(name, *ending_with_us, *self._commands[name])
        null = subprocess.DEVNULL
        self._started[name] = subprocess.Popen(
            words, stdin=null, stdout=null, stderr=null, env=self.environment, start_new_session=True
        )

    def exec(self, name: str, command: Sequence[str]) -> str:
        return self.call(*self._inside(name, *command))

    def destroy(self, name: str) -> None:
        if process := self._started.pop(name, None):
            process.kill()
            process.wait()
        self.network.remove(name)


_ADDRESSES = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}"


class Engine(Runtime):
    """Whoever has docker's command line. ``command`` is how it is called; `options` go to every container."""

    def __init__(self, name: str, program: str) -> None:
        super().__init__(name)
        self.program = program
        self.command = [program]
        self.options: list[str] = []

    def absent(self) -> str:
        return "" if shutil.which(self.program) else f"{self.program} is not installed"

    def __call__(self, *words: str) -> str:
        return self.call(*self.command, *words)

    def _container(self, name: str, command: Sequence[str], limits: Limits | None, network: str = "none") -> list[str]:
        options = [*self.options, f"--network={network}", f"--name={name}"]
        return [*options, *(limits.flags() if limits else ()), self.reference, *command]

    def _joined(self, name: str) -> str:
        """The network that a container of that name is going to be on."""
        raise NotImplementedError

    @property
    def reference(self) -> str:
        """What the image is called there."""
        return self.tag

    def run(self, command: Sequence[str], limits: Limits | None = None) -> str:
        return self("run", "--rm", *self._container(self.new_name(), command, limits))

    def create(self, command: Sequence[str], limits: Limits | None = None, network: bool = False) -> str:
        name = self.new_name()
        self("create", *self._container(name, command, limits, self._joined(name) if network else "none"))
        return name

    def start(self, name: str) -> None:
        self("start", name)

    def exec(self, name: str, command: Sequence[str]) -> str:
        return self("exec", name, *command)

    def addresses(self, name: str) -> tuple[str, str]:
        own, host = self("inspect", "--format", _ADDRESSES, name).split()
        return own, host

    def pause(self, name: str) -> None:
        self("pause", name)

    def unpause(self, name: str) -> None:
        self("unpause", name)

    def update(self, name: str, limits: Limits) -> None:
        self("update", *limits.flags(), name)

    def logs(self, name: str) -> str:
        return self("logs", name)

    def destroy(self, name: str) -> None:
        self("rm", "-f", name)


def first_line(*command: str) -> str:
    """What a program says of its version, "" if it can't be called."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines and not done.returncode else ""


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _shown(words: Sequence[str]) -> str:
    """A command line without what is long in it."""
    short = [word for word in words if len(word) < 40 and not word.startswith("/")]
    return " ".join(short[:8])
