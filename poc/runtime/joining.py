"""Another process in a running container: `poc-runtime exec`.

It is born inside: a process in between enters the container's cgroup and namespaces, and has the child there, which
then takes the same last steps as the container's first (`poc.runtime.init`). As long as it is our program it can't
be traced from within the container (CVE-2016-9962).
"""

from __future__ import annotations

import os

from poc import _libc, cgroups
from poc._fs import identity
from poc.errors import Conflict, NotFound
from poc.namespaces import NAMESPACES, clone, enter
from poc.oci.validate import numbers
from poc.rootfs import confine
from poc.runtime.channel import CONSOLE, READY, pair
from poc.runtime.create import Created, adjust_oom_score, plan_traits
from poc.runtime.init import JOINING_STEPS, Init
from poc.runtime.state import CREATED, PAUSED, RUNNING, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from poc.oci.types import Process, Spec
    from poc.runtime.channel import Channel

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def join(
    root: str,
    id: str,
    process: Process,
    *,
    ignore_paused: bool = False,
    preserved: int = 0,
    below: Mapping[str, str] | None = None,
) -> Created:
    """A process in the container, waiting to execute its program. Raises Conflict when the container does not run.

    ``below`` are cgroups inside the container's (`poc.cgroups.Cgroup.directories_below`).
    """
    state = State.load(root, id)
    status = state.status()
    if status == PAUSED and not ignore_paused:
        raise Conflict(f"cannot exec in container {id}: it is paused (--ignore-paused to do so nevertheless)")
    if status not in (CREATED, RUNNING, PAUSED):
        raise Conflict(f"cannot exec in container {id}: it is {status}")
    first = (state.values["pid"], state.values["started"])
    created = enter_running(
        first,
        cgroups.Cgroup(state.values["cgroup"]),
        state.spec(),
        process,
        cache=f"{root}/.seccomp",
        preserved=preserved,
        keyring=state.values["keyring"],
        below=below,
    )
    created.on_listener = lambda number: _take_listener(state, created, number)
    if state.values.get("resctrl"):
        _share_class(state, created)
    return created


def enter_running(
    first: tuple[int, int],
    group: cgroups.Cgroup,
    config: Spec,
    process: Process,
    *,
    cache: str,
    stdio: tuple[int, int, int] | None = None,
    preserved: int = 0,
    keyring: str | None = None,
    below: Mapping[str, str] | None = None,
) -> Created:
    """A process beside the one that ``first`` is, (pid, start time), waiting to execute its program.

    ``config`` is the container's; the rest as for `poc.runtime.create.create`. Raises NotFound when it has ended.
    """
    namespaces = _open_namespaces(first)
    root = namespaces.pop("root")
    parent, child = pair()
    try:
        _inherit(process, config["process"])
        init = _init(config, process, child, group, cache)
        init.preserved, init.keyring, init.stdio = preserved, keyring, stdio
        init.mapped = "user" in namespaces
        place = _Place(first[0], group, below or {}, process.get("execCPUAffinity", {}))
        return _clone(init, parent, child, namespaces, place, root)
    except BaseException:
        parent.close()
        raise
    finally:
        child.close()
        for fd in namespaces.values():
            os.close(fd)
        os.close(root)


def _inherit(process: Any, first: Any) -> None:
    """As in runc: what is not said of these is the first process's. A label above all must not be lost by silence."""
    for name in ("apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity"):
        if first.get(name) and not process.get(name):
            process[name] = first[name]


def _take_listener(state: State, created: Created, number: int) -> None:
    from poc.runtime import notify

    profile = state.spec()["linux"]["seccomp"]
    notify.take_over(created.channel, number, created.process.pid, profile, state.as_json())


def _open_namespaces(first: tuple[int, int]) -> dict[str, int]:
    """Those of the first process that are not ours as well, and as "root" its root directory."""
    pid = first[0]
    opened: dict[str, int] = {}
    try:
        for name, proc, _ in NAMESPACES:
            try:
                theirs = os.stat(f"/proc/{pid}/ns/{proc}")
            except FileNotFoundError:
                continue  # a kernel without time namespaces
            ours = os.stat(f"/proc/self/ns/{proc}")
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                opened[name] = os.open(f"/proc/{pid}/ns/{proc}", os.O_RDONLY | os.O_CLOEXEC)
        opened["root"] = os.open(f"/proc/{pid}/root", _DIRECTORY)
        if identity(pid) != list(first):
            raise NotFound("the container has ended meanwhile")
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def _init(config: Spec, process: Process, channel: Channel, group: cgroups.Cgroup, cache: str) -> Init:
    init = Init(
        {"process": process, "linux": {}},
        "/",
        channel,
        group,
        (),
        (),
        traits=plan_traits(process, config["linux"]),
    )
    init.use_profile(config["linux"].get("seccomp"), cache)
    init.steps = JOINING_STEPS
    return init


def _share_class(state: State, created: Created) -> None:
    from poc.runtime import resctrl

    try:
        resctrl.add(state.values["resctrl"], created.process.pid)
    except BaseException:
        created.process.kill()
        created.process.wait()
        raise


class _Place:
    """Where the process runs: the cgroups it enters, and its processors before and after (config.md)."""

    __slots__ = ("_below", "_final", "_group", "_initial", "_pid")

    def __init__(self, pid: int, group: cgroups.Cgroup, below: Mapping[str, str], affinity: Mapping[str, str]) -> None:
        self._pid = pid
        self._group = group
        self._below = below
        self._initial, self._final = (
            numbers(affinity.get(name, ""), f"/process/execCPUAffinity/{name}") for name in ("initial", "final")
        )
        for _, directory in group.directories_below(below) if below else ():
            if not os.path.isdir(directory):
                raise NotFound(f"--cgroup: there is no {directory}")

    def enter(self) -> None:
        """Take the calling process there."""
        _run_on(self._initial, "initial")
        self._group.join_running(self._pid, self._below)
        _run_on(self._final, "final")


def _run_on(processors: set[int], name: str) -> None:
    try:
        if processors:
            os.sched_setaffinity(0, processors)
    except OSError as error:
        raise OSError(error.errno, f"/process/execCPUAffinity/{name}: {error.strerror}") from None


def _clone(
    init: Init, parent: Channel, child: Channel, namespaces: dict[str, int], place: _Place, root: int
) -> Created:
    def joining() -> None:
        parent.close()
        _libc.prctl(_libc.PR_SET_DUMPABLE, 0)
        place.enter()
        enter(namespaces)
        # A container without a mount namespace of its own is held by chroot(2) alone.
        if not os.path.samestat(os.stat("/"), os.fstat(root)):
            confine(root)

    process = clone((), init.run, joining=joining)
    # Or we would not hear of its end, which the container's may bring about at any time; and that is not over before
    # all in its PID namespace have been reaped, this one by us.
    child.close()
    for trait in init.traits:
        trait.close()
    try:
        adjust_oom_score(process.pid, init.spec["process"])
        console = None
        if init.spec["process"].get("terminal", False):
            parent.expect(CONSOLE)
            console = parent.received_fds.pop()
        parent.expect(READY)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Created(process, parent, init.cgroup, console, held=True)
