"""Make a container's process from its OCI configuration and stop it right before its program.

::

    create ── cgroup made and limited ── clone3 ── (while_mounting) ── READY ──▶ Created
    Created.start ── START ──▶ the program runs, or the error that kept it from running

Whatever fails, nothing of it is left: the process is gone and so is its cgroup.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from poc import _libc, cgroups, rootfs
from poc._fs import write_text
from poc.errors import SetupError
from poc.namespaces import clone, enter
from poc.runtime import seccomp
from poc.runtime.channel import CONSOLE, MAPPED, MOUNTED, PROCEED, READY, START, Channel, pair
from poc.runtime.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poc.cgroups import Cgroup
    from poc.namespaces import Process
    from poc.oci.types import Linux, Spec
    from poc.oci.types import Process as OCIProcess
    from poc.rootfs import Overlay
    from poc.runtime.gate import Gate


class Created:
    """A container's process, waiting to execute its program. ``console`` is the pty's master, or None."""

    __slots__ = ("_channel", "_held", "cgroup", "console", "process")

    def __init__(self, process: Process, channel: Channel, cgroup: Cgroup, console: int | None, held: bool) -> None:
        self.process = process
        self.cgroup = cgroup
        self.console = console
        self._channel = channel
        self._held = held

    def start(self) -> None:
        """Let it execute its program. Raises SetupError, CommandNotFound or CommandNotExecutable."""
        try:
            if self._held:
                _tell(self._channel, START)
            self._channel.receive()
        finally:
            self._channel.close()

    def leave(self) -> None:
        """Leave it waiting at its gate."""
        self._channel.close()

    def abandon(self) -> None:
        """End it and take its cgroup away, whether it was started or not."""
        self._channel.close()
        _end(self.process)
        self.cgroup.remove()


def create(
    spec: Spec,
    bundle: str,
    *,
    cache: str,
    overlay: Overlay | None = None,
    stdio: tuple[int, int, int] | None = None,
    reaper: bool = False,
    tied_to_parent: bool = False,
    withheld: Sequence[int] = (),
    hold: bool = True,
    while_mounting: Callable[[Process], None] | None = None,
    gate: Gate | None = None,
    preserved: int = 0,
    keyring: str | None = None,
) -> Created:
    """Create the container that ``spec`` describes; ``root.path`` may be relative to ``bundle``.

    ``overlay`` is mounted on the root inside the container's mount namespace. ``stdio`` are its three
    standard descriptors when it has no terminal. ``cache`` is a directory for compiled seccomp filters.
    With ``reaper`` poc itself is process 1 and the program its child; with ``tied_to_parent`` it is
    killed when the caller dies. ``withheld`` are descriptors of the caller's that the process closes at once, not
    only when it executes its program: whoever waits for their end waits for the caller's. ``while_mounting`` is
    called in the parent while the child mounts. Without ``hold`` the program may run before `Created.start` is
    called, which then only waits for it. With ``gate`` the program waits there for its start, and outlives the
    caller. ``preserved`` is how many descriptors above 2 it keeps, ``keyring`` the name of its session keyring;
    None leaves it the caller's.
    Raises OSError, and PocError with the step that failed.
    """
    resources = spec["linux"].get("resources", {})
    with ExitStack() as undo:
        group = cgroups.Cgroup(spec["linux"]["cgroupsPath"])
        undo.callback(group.remove)
        group.create()
        group.apply(resources)
        group.allow_devices(resources.get("devices", ()))
        parent, child = pair()
        undo.callback(parent.close)
        init = _init(spec, bundle, child, group, cache)
        init.overlay, init.stdio, init.reaper = overlay, stdio, reaper
        init.gate, init.preserved, init.keyring = gate, preserved, keyring
        init.mapped = "user" in _new_namespaces(spec) or (gate is not None and "user" in gate.joined)
        process = _clone(init, parent, group, tied_to_parent, withheld)
        undo.callback(_end, process)
        child.close()
        try:
            if while_mounting is not None:
                while_mounting(process)
            if init.mapped:
                _map_ids(process.pid, spec["linux"])
                adjust_oom_score(process.pid, spec["process"])
                _tell(parent, MAPPED)
            if not hold:
                _tell(parent, START)
            console = _await_ready(parent, process, init)
        except (OSError, SetupError):
            if group.oom_kills():
                raise SetupError("the memory limit is too low: there was an OOM kill before the program ran") from None
            raise
        undo.pop_all()
    return Created(process, parent, group, console, hold)


def _init(spec: Spec, bundle: str, channel: Channel, group: Cgroup, cache: str) -> Init:
    filter_ = spec["linux"].get("seccomp")
    return Init(
        spec,
        os.path.join(bundle, spec["root"]["path"]),
        channel,
        group,
        rootfs.plan(spec, _cgroup_mounts(group.path)),
        rootfs.plan_protection(spec),
        program=None if filter_ is None else seccomp.program(filter_, cache),
        filter_flags=() if filter_ is None else seccomp.filter_flags(filter_),
        late_namespaces=_late(spec),
    )


# A cgroup namespace is rooted where its maker is: the child makes it once it is in its cgroups. In the clone
# itself the maker would be the parent, even with CLONE_INTO_CGROUP.
# An IPC namespace's message queues belong to who makes it: in a user namespace that has to be its root.
def _late(spec: Spec) -> set[str]:
    new = _new_namespaces(spec)
    user = any(entry["type"] == "user" for entry in spec["linux"].get("namespaces", ()))
    return new & ({"cgroup", "ipc"} if user else {"cgroup"})


def _new_namespaces(spec: Spec) -> set[str]:
    return {entry["type"] for entry in spec["linux"].get("namespaces", ()) if not entry.get("path")}


def _cgroup_mounts(path: str) -> list[tuple[str, str, str]]:
    """What a container sees below /sys/fs/cgroup, as `rootfs.plan` takes it."""
    host = cgroups.host()
    mounts = [("unified", "", f"{host.unified}/{path}")] if host.unified is not None else []
    for root in host.v1():
        names = [name for name, directory in host.controllers.items() if directory == root]
        data = ",".join(names)
        label = data.removeprefix("name=")
        mounts.append((label, f"none,{data}" if data.startswith("name=") else data, f"{root}/{path}"))
    return mounts


def _clone(init: Init, parent: Channel, group: Cgroup, tied: bool, withheld: Sequence[int]) -> Process:
    def child() -> None:
        parent.close()
        for fd in withheld:
            os.close(fd)
        init.run()

    with ExitStack() as opened:
        birthplace = group.fd()
        if birthplace is not None:
            opened.callback(os.close, birthplace)
        if tied:
            init.parent = os.pidfd_open(os.getpid())
            opened.callback(os.close, init.parent)
        if init.overlay is not None:
            opened.callback(init.overlay.close)
            init.overlay.open()  # by us, who may open loop devices
        joining = _joining(init.gate) if init.gate is not None and init.gate.joined else None
        return clone(_new_namespaces(init.spec) - set(init.late_namespaces), child, birthplace, joining)


def _joining(gate: Gate) -> Callable[[], None]:
    def join() -> None:
        # Who is in there already must not trace us, nor read our descriptors (CVE-2016-9962).
        _libc.prctl(_PR_SET_DUMPABLE, 0)
        enter(gate.joined)

    return join


_PR_SET_DUMPABLE = 4


def _map_ids(pid: int, linux: Linux) -> None:
    """user_namespaces(7): one write each. Nothing to do for a namespace that is joined."""
    for file, mappings in (("uid_map", linux.get("uidMappings")), ("gid_map", linux.get("gidMappings"))):
        if mappings:
            lines = [f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in mappings]
            write_text(f"/proc/{pid}/{file}", "".join(lines))


def adjust_oom_score(pid: int, process: OCIProcess) -> None:
    """For a process that can't do so itself: in a user namespace it does not own its files in /proc."""
    if "oomScoreAdj" in process:
        write_text(f"/proc/{pid}/oom_score_adj", str(process["oomScoreAdj"]))


def _await_ready(channel: Channel, process: Process, init: Init) -> int | None:
    console = None
    if init.spec["process"].get("terminal", False):
        channel.expect(CONSOLE)
        console = channel.received_fds.pop()
    if init.gate is not None and init.gate.hooks is not None:
        channel.expect(MOUNTED)
        for kind in ("prestart", "createRuntime"):
            init.gate.hooks.run(kind, "creating", process.pid)
        _tell(channel, PROCEED)
    channel.expect(READY)
    return console


def _tell(channel: Channel, kind: str) -> None:
    try:
        channel.send(kind)
    except BrokenPipeError:
        pass  # it has failed, and said so, or was killed: who receives next learns of it


def _end(process: Process) -> None:
    process.kill()
    process.wait()
