"""Make a container's process from its OCI configuration and stop it right before its program.

::

    create ── cgroup made and limited ── clone3 ── (while_mounting) ── READY ──▶ Created
    Created.start ── START ──▶ the program runs, or the error that kept it from running

Whatever fails, nothing of it is left: the process is gone and so is its cgroup.
"""

from __future__ import annotations

import os

from poc import _libc, cgroups, rootfs
from poc._fs import read_text, write_text
from poc._lean.contextlib import ExitStack
from poc.errors import InvalidArgument, SetupError, Unsupported
from poc.namespaces import clone, enter, shift_clocks
from poc.runtime import phases
from poc.runtime.channel import CONSOLE, MAPPED, MOUNTED, PROCEED, READY, START, Channel, pair
from poc.runtime.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from poc.cgroups import Cgroup
    from poc.namespaces import Process
    from poc.oci.types import Linux, Spec, TimeOffsets
    from poc.oci.types import Process as OCIProcess
    from poc.rootfs import Overlay
    from poc.runtime.gate import Gate
    from poc.runtime.traits import Trait


class Created:
    """A container's process, waiting to execute its program. ``console`` is the pty's master, or None.

    ``on_listener`` is for `Channel.await_program`.
    """

    __slots__ = ("_held", "cgroup", "channel", "console", "on_listener", "process")

    def __init__(self, process: Process, channel: Channel, cgroup: Cgroup, console: int | None, held: bool) -> None:
        self.process = process
        self.cgroup = cgroup
        self.console = console
        self.on_listener: Callable[[int], None] | None = None
        self.channel = channel
        self._held = held

    def start(self) -> None:
        """Let it execute its program. Raises SetupError, CommandNotFound or CommandNotExecutable."""
        try:
            if self._held:
                _tell(self.channel, START)
            self.channel.await_program(self.on_listener)
        finally:
            self.channel.close()

    def leave(self) -> None:
        """Leave it waiting at its gate."""
        self.channel.close()

    def abandon(self) -> None:
        """End it and take its cgroup away, whether it was started or not."""
        self.channel.close()
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
    pivot: bool = True,
    group: Cgroup | None = None,
    joined: Mapping[str, int] | None = None,
    trees: Mapping[str, int] | None = None,
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
    None leaves it the caller's. Without ``pivot`` the old root stays below the new one (`rootfs.move_to_root`).
    ``group`` is its cgroup when that is not simply the one at ``linux.cgroupsPath``. ``joined`` are the namespaces it
    enters, {OCI name: descriptor}, and ``trees`` detached mounts for what has such a source.
    Raises OSError, and PocError with the step that failed.
    """
    resources = spec["linux"].get("resources", {})
    with ExitStack() as undo:
        group = group or cgroups.Cgroup(spec["linux"]["cgroupsPath"])
        undo.callback(group.remove)
        group.create()
        group.apply(resources)
        group.allow_devices(resources.get("devices", ()))
        phases.mark("cgroup")
        parent, child = pair()
        undo.callback(parent.close)
        init = _init(spec, bundle, child, group, cache, gate)
        init.overlay, init.stdio, init.reaper = overlay, stdio, reaper
        init.gate, init.preserved, init.keyring, init.pivot = gate, preserved, keyring, pivot
        init.joined, init.trees = (gate.joined if gate is not None else joined) or {}, trees or {}
        init.mapped = "user" in _new_namespaces(spec) or "user" in init.joined
        process = _clone(init, parent, group, tied_to_parent, withheld)
        undo.callback(_end, process)
        child.close()
        phases.mark("clone")
        console = _see_through(parent, process, init, while_mounting, hold)
        undo.pop_all()
    phases.mark("mounts")
    return Created(process, parent, group, console, hold)


def _see_through(
    parent: Channel, process: Process, init: Init, while_mounting: Callable[[Process], None] | None, hold: bool
) -> int | None:
    """From the clone until the child is ready. Returns the master of its terminal, if it has one."""
    try:
        if while_mounting is not None:
            while_mounting(process)
        _serve(parent, process, init)
        if not hold:
            _tell(parent, START)
        return _await_ready(parent, process, init)
    except (OSError, SetupError):
        if init.cgroup.oom_kills():
            raise SetupError("the memory limit is too low: there was an OOM kill before the program ran") from None
        raise


def _serve(parent: Channel, process: Process, init: Init) -> None:
    """Do for the child what it waits for and could not do itself."""
    spec = init.spec
    adjust_oom_score(process.pid, spec["process"])
    if init.mapped:
        if "user" in _new_namespaces(spec):
            map_ids(process.pid, spec["linux"])
        else:
            _compare_ids(process.pid, spec["linux"])
        _tell(parent, MAPPED)
    if spec["linux"].get("netDevices"):
        _move_devices(process.pid, spec["linux"]["netDevices"])
        _tell(parent, PROCEED)


def _init(spec: Spec, bundle: str, channel: Channel, group: Cgroup, cache: str, gate: Gate | None) -> Init:
    init = Init(
        spec,
        os.path.join(bundle, spec["root"]["path"]),
        channel,
        group,
        rootfs.plan(spec, _cgroup_mounts(group.path)),
        rootfs.plan_protection(spec),
        late_namespaces=_late(spec),
        traits=plan_traits(spec["process"], spec["linux"]),
    )
    init.use_profile(spec["linux"].get("seccomp"), cache)
    if init.handover is not None and gate is None:
        raise Unsupported(
            "/linux/seccomp: SCMP_ACT_NOTIFY is for containers of poc-runtime, which tells an agent of them"
        )
    return init


def plan_traits(process: OCIProcess, linux: Linux) -> Sequence[Trait]:
    """`poc.runtime.traits.plan`, loaded only when there is something to plan."""
    if not (_TRAITS & process.keys() or _TRAITS & linux.keys()):
        return ()
    from poc.runtime import traits

    return traits.plan(process, linux)


_TRAITS = {"scheduler", "ioPriority", "apparmorProfile", "selinuxLabel", "personality", "memoryPolicy"}


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
        _open_sources(init, opened)
        birthplace = group.fd()
        if birthplace is not None:
            opened.callback(os.close, birthplace)
        if tied:
            init.parent = os.pidfd_open(os.getpid())
            opened.callback(os.close, init.parent)
        if init.overlay is not None:
            opened.callback(init.overlay.close)
            init.overlay.open()  # by us, who may open loop devices
        for trait in init.traits:
            opened.callback(trait.close)
        names = _new_namespaces(init.spec) - set(init.late_namespaces)
        if offsets := init.spec["linux"].get("timeOffsets"):
            names.remove("time")
        return clone(names, child, birthplace, _joining(init.joined, offsets))


def _open_sources(init: Init, opened: ExitStack) -> None:
    # Of mounts: those with mapped ids, as nobody maps them from within a user namespace, and those below directories
    # where not everybody may pass: to those a process that is root in a user namespace only has no way. (A mount that
    # we open is not locked as it was on the host; so the others are its own.)
    mounts = [step for step in init.plan if isinstance(step, rootfs.Mount)]
    for mount in mounts:
        opened.callback(mount.close_source)
        if tree := init.trees.get(mount.source or ""):
            mount.tree = os.dup(tree)
        if init.mapped and mount.idmap is None and not mount.is_public():
            mount.open_source(private=True)
    if mapped := [mount for mount in mounts if mount.idmap is not None]:
        from poc.runtime.idmap import map_mounts

        map_mounts(mapped, init.spec["linux"], init.joined)


def _joining(joined: Mapping[str, int], offsets: TimeOffsets | None) -> Callable[[], None] | None:
    """What is to be entered before the clone, as `clone` takes it."""

    def join() -> None:
        # Who is in there already must not trace us, nor read our descriptors (CVE-2016-9962).
        _libc.prctl(_libc.PR_SET_DUMPABLE, 0)
        if offsets:
            shift_clocks(offsets)
        enter(joined)

    return join if joined or offsets else None


def map_ids(pid: int, linux: Linux) -> None:
    """user_namespaces(7): one write each."""
    for _, file, lines in _mappings(linux):
        write_text(f"/proc/{pid}/{file}", "".join(f"{line}\n" for line in lines))


def _compare_ids(pid: int, linux: Linux) -> None:
    """Engines repeat the mappings of a namespace that is joined; with others nobody could tell who is who."""
    for name, file, lines in _mappings(linux):
        there = [" ".join(line.split()) for line in read_text(f"/proc/{pid}/{file}").splitlines()]
        if sorted(lines) != sorted(there):
            raise InvalidArgument(f"/linux/{name}: not those of the user namespace that is joined")


def _mappings(linux: Linux) -> Iterator[tuple[str, str, list[str]]]:
    for name, file, mappings in (
        ("uidMappings", "uid_map", linux.get("uidMappings", ())),
        ("gidMappings", "gid_map", linux.get("gidMappings", ())),
    ):
        if mappings:
            yield name, file, [f"{entry['containerID']} {entry['hostID']} {entry['size']}" for entry in mappings]


def _move_devices(pid: int, devices: Mapping[str, Mapping[str, str]]) -> None:
    from poc.net.devices import move

    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        move({name: device.get("name") or name for name, device in devices.items()}, namespace)
    finally:
        os.close(namespace)


def adjust_oom_score(pid: int, process: OCIProcess) -> None:
    """In our /proc: the container's may be none, or a false one (CVE-2025-52881)."""
    if "oomScoreAdj" in process:
        try:
            write_text(f"/proc/{pid}/oom_score_adj", str(process["oomScoreAdj"]))
        except PermissionError as error:
            what = f"set oom_score_adj to {process['oomScoreAdj']}: {os.strerror(error.errno or 0)}"
            raise OSError(error.errno, f"{what}; to lower it takes CAP_SYS_RESOURCE") from None


def _await_ready(channel: Channel, process: Process, init: Init) -> int | None:
    console = None
    if init.spec["process"].get("terminal", False):
        channel.expect(CONSOLE)
        console = channel.received_fds.pop()
    if init.gate is not None and init.gate.hooks is not None:
        channel.expect(MOUNTED)
        # runtime.md, Lifecycle: what is created is so before prestart. As in crun; runc says "creating".
        init.gate.hooks.run("prestart", "created", process.pid)
        init.gate.hooks.run("createRuntime", "creating", process.pid)
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
