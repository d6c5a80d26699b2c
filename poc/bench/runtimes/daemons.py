"""Docker and containerd: the daemon that runs here, or one of the benchmark's own, in a box; and Podman, without one.

::

    setpriv --pdeathsig ─▶ unshare (mounts, processes) ─▶ sh, pid 1 ─▶ dockerd or containerd ─▶ shims, containers

A box ends with whoever started it, and everything in it with its first process, however that comes about.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

from poc.bench.image import REFERENCE
from poc.bench.runtimes.base import ALL, LOGS, UPDATE, CallFailed, Engine, Limits, Runtime, first_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc.bench.image import Image
    from poc.bench.workspace import Workspace

_UP_SECONDS = 60.0
_DOWN_SECONDS = 20.0
# The first process has to reap what the shims leave behind, and to pass the end on.
_INIT = '"$@" & child=$!; trap "kill -TERM $child" TERM; while kill -0 $child 2>/dev/null; do wait; done'
_REMOVE_OURS = '"$@" ps -aq --filter name={tag} | xargs -r "$@" rm -f; "$@" rmi -f {tag}; "$@" network rm {tag}'


class Box:
    """A daemon in mount and process namespaces of its own; what it says goes to ``log``."""

    def __init__(self, log: str, environment: dict[str, str], *program: str) -> None:
        namespaces = ("--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc")
        words = ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "sh", "-c", _INIT, "box", *program]
        self._log = log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, *probe: str) -> None:
        """Wait until the daemon answers. Raises CallFailed."""
        deadline = time.monotonic() + _UP_SECONDS
        while subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CallFailed(f"{probe[0]}: the daemon did not come up: {self._last_line()}")
            time.sleep(0.05)

    def _last_line(self) -> str:
        with open(self._log, errors="replace") as file:
            return (file.read().strip().splitlines() or ["it said nothing"])[-1]

    def close(self) -> None:
        if first := self._first():
            subprocess.run(["kill", "-TERM", str(first)], check=False)
            try:
                self._process.wait(_DOWN_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        self._process.kill()
        self._process.wait()

    def _first(self) -> str:
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
                return (file.read().split() or [""])[0]
        except OSError:
            return ""


def is_box(words: Sequence[str]) -> bool:
    """Is this command line a box's own, and not the daemon's in it?"""
    return _INIT in words


class Docker(Engine):
    """`docker`, or `docker:RUNTIME` with another runtime that its daemon knows."""

    needs_mounts = True

    def __init__(self, name: str, runtime: str = "") -> None:
        super().__init__(name, "docker")
        self.runtime = runtime
        self._box: Box | None = None
        self._has_network = False

    def absent(self) -> str:
        if reason := super().absent():
            return reason
        if first_line("docker", "info", "--format", "{{.ServerVersion}}"):
            known = first_line("docker", "info", "--format", "{{json .Runtimes}}")
            unknown = self.runtime and "." not in self.runtime and f'"{self.runtime}"' not in known
            return f"its daemon knows no runtime {self.runtime}" if unknown else ""
        if not shutil.which("dockerd"):
            return "no daemon answers, and dockerd is not installed"
        if self.runtime and not self._program():
            return f"the runtime {self.runtime} is not installed"
        return ""

    def _program(self) -> str | None:
        """The file of a runtime that is named as Docker names them: io.containerd.kata.v2 is a shim."""
        match = re.fullmatch(r"io\.containerd\.(\w+)\.(v\d+)", self.runtime)
        return shutil.which(f"containerd-shim-{match[1]}-{match[2]}" if match else self.runtime)

    def version(self) -> str:
        client = first_line("docker", "--version").removeprefix("Docker version ").partition(",")[0]
        return f"docker {client}" + (f" with {self.runtime}" if self.runtime else "")

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        own = not first_line("docker", "info", "--format", "{{.ServerVersion}}")
        if own:
            self._start_daemon(workspace)
        else:
            workspace.undo("sh", "-c", _REMOVE_OURS.format(tag=self.tag), "-", *self.command)
        if self.runtime:
            self.options = [*self.options, f"--runtime={self.runtime}"]
        self("import", image.tar, self.reference)

    def _start_daemon(self, workspace: Workspace) -> None:
        at = workspace.directory(f"docker-{len(os.listdir(workspace.path))}")
        socket = f"unix://{at}/s"
        program = ["dockerd", f"--host={socket}", f"--pidfile={at}/pid", f"--data-root={at}/data"]
        program += [f"--exec-root={at}/exec", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        program += ["--bridge=none", f"--cgroup-parent=/{workspace.tag}"]
        if self.runtime and "." not in self.runtime and self.runtime != "runc":  # which it has, and has reserved
            program.append(f"--add-runtime={self.runtime}={self._program()}")
        self.environment["DOCKER_CONFIG"] = at
        self._box = Box(f"{at}/log", self.environment, *program)
        self.command = ["docker", f"--host={socket}"]
        self._box.until(*self.command, "version")

    def _joined(self, name: str) -> str:
        """One of the driver `bridge` of its own: the default one of a daemon of this machine's may be in use."""
        if not self._has_network:
            link = f"pb{os.urandom(6).hex()}"
            if self._box:  # a daemon leaves its bridges behind
                self.workspace.undo("ip", "link", "delete", link)
            self("network", "create", f"--opt=com.docker.network.bridge.name={link}", self.tag)
            self._has_network = True
        return self.tag

    @property
    def note(self) -> str:  # type: ignore[override]
        return "" if self._box else "every dockerd, containerd and shim of this machine is counted"

    def keeps(self, words: Sequence[str], mark: str) -> bool:
        if self._box:
            return super().keeps(words, mark) and not is_box(words)
        # The daemon of this machine, with all its shims: nothing tells whose they are.
        return os.path.basename(words[0]) in ("dockerd", "containerd", "containerd-shim-runc-v2")

    def close(self) -> None:
        if self._box:
            self._box.close()
            self._box = None


_CONTAINERS_CONF = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
# Its own defaults are higher than what a caller without CAP_SYS_RESOURCE may give; root is not held to nproc.
_LOW_LIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]


class Podman(Engine):
    """With a store of its own."""

    needs_mounts = True

    def __init__(self, name: str) -> None:
        super().__init__(name, "podman")

    def version(self) -> str:
        return first_line("podman", "--version")

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        at = workspace.directory("podman")
        with open(f"{at}/containers.conf", "w") as file:
            file.write(_CONTAINERS_CONF)
        self.environment["CONTAINERS_CONF"] = f"{at}/containers.conf"
        places = ["--root", f"{at}/data", "--runroot", f"{at}/run", "--tmpdir", f"{at}/tmp"]
        self.command = ["podman", "--storage-driver=overlay", *places]
        self.options = [*self.options, f"--cgroup-parent=/{workspace.tag}"]
        self.options += _LOW_LIMITS
        configured = ["env", f"CONTAINERS_CONF={at}/containers.conf", *self.command]
        workspace.undo(*configured, "rm", "--all", "--force", "--time=0")
        self("import", image.tar, self.reference)

    def _joined(self, name: str) -> str:
        return f"ns:{self.network.add(name)}"

    addresses = Runtime.addresses

    def destroy(self, name: str) -> None:
        self("rm", "--force", "--time=0", name)
        self.network.remove(name)


_CONTAINERD_CONFIG = """version = 2
root = "{at}/data"
state = "{at}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/s"
[ttrpc]
address = "{at}/t"
"""


class Containerd(Engine):
    """A daemon of its own, through ctr; `create` makes no process yet, as Docker's does not."""

    can = ALL - {LOGS, UPDATE}
    addresses = Runtime.addresses
    limits = frozenset(("cpus", "memory"))
    needs_mounts = True

    def __init__(self, name: str) -> None:
        super().__init__(name, "ctr")
        self._box: Box | None = None

    def absent(self) -> str:
        lacking = [program for program in ("containerd", "ctr") if not shutil.which(program)]
        return f"{' and '.join(lacking)} not installed" if lacking else ""

    def version(self) -> str:
        return " ".join(first_line("containerd", "--version").replace("github.com/containerd/", "").split()[1:3])

    @property
    def reference(self) -> str:
        return REFERENCE

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        at = workspace.directory("containerd")
        with open(f"{at}/config", "w") as file:
            file.write(_CONTAINERD_CONFIG.format(at=at))
        self._box = Box(f"{at}/log", self.environment, "containerd", "--config", f"{at}/config")
        self.command = ["ctr", f"--address={at}/s", f"--namespace={workspace.tag}"]  # also the name of the cgroup
        self._box.until(*self.command, "version")
        self("image", "import", image.archive)

    def _flags(self, name: str, command: Sequence[str], limits: Limits | None) -> list[str]:
        cpus = [f"--cpus={limits.cpus:g}"] if limits and limits.cpus else []
        memory = [f"--memory-limit={limits.memory}"] if limits and limits.memory else []
        return [*cpus, *memory, "--", self.reference, name, *command]  # or it takes the command's options for its own

    def run(self, command: Sequence[str], limits: Limits | None = None) -> str:
        return self("run", "--rm", *self._flags(self.new_name(), command, limits))

    def create(self, command: Sequence[str], limits: Limits | None = None, network: bool = False) -> str:
        name = self.new_name()
        joined = [f"--with-ns=network:{self.network.add(name)}"] if network else []
        self("container", "create", *joined, *self._flags(name, command, limits))
        return name

    def start(self, name: str) -> None:
        self("task", "start", "--detach", name)

    def exec(self, name: str, command: Sequence[str]) -> str:
        return self("task", "exec", "--exec-id", self.new_name(), name, *command)

    def pause(self, name: str) -> None:
        self("task", "pause", name)

    def unpause(self, name: str) -> None:
        self("task", "resume", name)

    def destroy(self, name: str) -> None:
        try:
            self("task", "rm", "--force", name)
        except CallFailed as error:
            if "not found" not in str(error):  # it was never started
                raise
        self("container", "rm", name)
        self.network.remove(name)

    def keeps(self, words: Sequence[str], mark: str) -> bool:
        return super().keeps(words, mark) and not is_box(words)

    def close(self) -> None:
        if self._box:
            self._box.close()
            self._box = None
