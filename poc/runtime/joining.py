"""Another process in a running container: `poc-runtime exec`.

It is born inside: a process in between enters the container's cgroup and namespaces, and has the child there, which
then takes the same last steps as the container's first (`poc.runtime.init`). As long as it is our program it can't
be traced from within the container (CVE-2016-9962).
"""

from __future__ import annotations

import os

from poc import _libc, cgroups
from poc.errors import Conflict, NotFound
from poc.namespaces import NAMESPACES, clone, enter
from poc.runtime import seccomp
from poc.runtime.channel import CONSOLE, READY, pair
from poc.runtime.create import Created, adjust_oom_score
from poc.runtime.init import JOINING_STEPS, Init
from poc.runtime.state import CREATED, PAUSED, RUNNING, State, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.oci.types import Process, Spec
    from poc.runtime.channel import Channel

_PR_SET_DUMPABLE = 4


def join(root: str, id: str, process: Process, *, ignore_paused: bool = False, preserved: int = 0) -> Created:
    """A process in the container, waiting to execute its program. Raises Conflict when the container does not run."""
    state = State.load(root, id)
    status = state.status()
    if status == PAUSED and not ignore_paused:
        raise Conflict(f"cannot exec in container {id}: it is paused (--ignore-paused to do so nevertheless)")
    if status not in (CREATED, RUNNING, PAUSED):
        raise Conflict(f"cannot exec in container {id}: it is {status}")
    group = cgroups.Cgroup(state.values["cgroup"])
    namespaces = _open_namespaces(state)
    parent, child = pair()
    try:
        init = _init(state.spec(), process, child, group, f"{root}/.seccomp")
        init.preserved, init.keyring = preserved, state.values["keyring"]
        init.mapped = "user" in namespaces
        created = _clone(init, parent, namespaces)
    except BaseException:
        parent.close()
        raise
    finally:
        child.close()
        for fd in namespaces.values():
            os.close(fd)
    return created


def _open_namespaces(state: State) -> dict[str, int]:
    """Those of the first process that are not ours as well."""
    pid = state.values["pid"]
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
        if identity(pid) != [pid, state.values["started"]]:
            raise NotFound(f"container {state.id} has ended meanwhile")
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def _init(config: Spec, process: Process, channel: Channel, group: cgroups.Cgroup, cache: str) -> Init:
    filter_ = config["linux"].get("seccomp")
    init = Init(
        {"process": process, "linux": {}},
        "/",
        channel,
        group,
        (),
        (),
        program=None if filter_ is None else seccomp.program(filter_, cache),
        filter_flags=() if filter_ is None else seccomp.filter_flags(filter_),
    )
    init.steps = JOINING_STEPS
    return init


def _clone(init: Init, parent: Channel, namespaces: dict[str, int]) -> Created:
    def joining() -> None:
        parent.close()
        _libc.prctl(_PR_SET_DUMPABLE, 0)
        init.cgroup.join()
        enter(namespaces)

    process = clone((), init.run, joining=joining)
    try:
        if init.mapped:
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
