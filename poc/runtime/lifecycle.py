"""What `poc-runtime` does with a container that `poc.runtime.creation` made: start, kill, pause, update, delete …

    create ──▶ created ── start ──▶ running ── the program ends ──▶ stopped ── delete ──▶ nothing left
    a failed create, and what `delete --force` ends, come to the last state at once

Each returns when it has taken effect. Nothing here prints. What a command line has to do with terminals and exit
statuses is in `poc.runtime.commands`; processes that come later are in `poc.runtime.joining`.
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc.errors import Conflict, InvalidArgument, NotFound, PocError, SetupError, Unsupported
from poc.runtime import phases
from poc.runtime.state import CREATED, CREATING, PAUSED, RUNNING, STOPPED, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.cgroups import Cgroup
    from poc.runtime.channel import Channel
    from poc.runtime.hooks import Hooks

_FATAL = ("startContainer hooks", "poststart hook")  # runtime.md, Lifecycle: the container is then destroyed
_PATIENCE, _THAW_AFTER = 10.0, 0.1  # seconds for a killed process to be gone


def pointed(error: PocError) -> PocError:
    """The mechanisms know nothing of JSON pointers: what they refuse gets that of the object they were given."""
    text = str(error)
    if text.startswith("/"):
        return error
    return type(error)(f"{'/mounts' if text.startswith('mount ') else '/linux/resources'}: {text}")


def hooks_of(state: State, hooks: Any) -> Hooks:
    from poc.runtime.hooks import Hooks

    return Hooks(hooks or {}, {key: value for key, value in state.as_json(CREATING).items() if key != "owner"})


def start(root: str, id: str) -> None:
    """Run the program of a created container. Raises Conflict when it is in another state, SetupError."""
    from poc.runtime import gate

    with State.locked(root, id) as state:
        if (status := state.status()) != CREATED:
            raise Conflict(f"cannot start container {id}: it is {status}, not created")
        if not state.values["program"]:
            raise Conflict(f"cannot start container {id}: its configuration names no program in /process")
        phases.mark("state")
        hooks = state.spec().get("hooks") if state.values["hooks"] else None
        try:
            gate.start(state.directory, lambda channel, number: _take_listener(state, channel, number))
            phases.mark("exec")
            if hooks:
                hooks_of(state, hooks).run("poststart", RUNNING, state.values["pid"])
        except SetupError as error:
            if error.step in _FATAL:
                _end(state)
                forget(state, hooks)
            raise


def _take_listener(state: State, channel: Channel, number: int) -> None:
    from poc.runtime import notify

    try:
        notify.take_over(
            channel, number, state.values["pid"], state.spec()["linux"]["seccomp"], state.as_json(CREATING)
        )
    except BaseException:
        _end(state)
        raise


def kill(root: str, id: str, signum: int, everybody: bool = False) -> None:
    """Send a signal to the first process, or to every process. Raises Conflict ("container not running")."""
    state = State.load(root, id)
    if everybody:
        _signal_all(state, signum)
    elif state.status() not in (CREATED, RUNNING, PAUSED) or not _signal_first(state, signum):
        raise Conflict(f"container not running: {id}")


def _signal_first(state: State, signum: int) -> bool:
    """Send the first process a signal; False when it has ended, or is not there yet."""
    from poc._processes import send_signal

    values = state.values
    return send_signal([values["pid"], values["started"]] if values["pid"] else None, signum)


def _signal_all(state: State, signum: int) -> None:
    from poc.cgroups import Cgroup

    for pid in Cgroup(state.values["cgroup"]).pids():
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue  # it has ended since


def pause(root: str, id: str) -> None:
    """Stop all of a running container's processes where they are."""
    state = State.load(root, id)
    if (status := state.status()) not in (RUNNING, CREATED):
        raise Conflict(f"cannot pause container {id}: it is {status}")
    group_of(state).freeze()


def resume(root: str, id: str) -> None:
    """Let a paused container go on."""
    state = State.load(root, id)
    if (status := state.status()) != PAUSED:
        raise Conflict(f"cannot resume container {id}: it is {status}, not paused")
    group_of(state).thaw()


def update(root: str, id: str, resources: dict[str, Any], schemata: Sequence[str] = ()) -> None:
    """Put other limits into force on a container that runs; ``schemata`` are lines for its class (intelRdt)."""
    state = State.load(root, id)
    if (status := state.status()) == STOPPED:
        raise Conflict(f"cannot update container {id}: it is {status}")
    if schemata:
        _share_out(state, schemata)
    group = group_of(state)
    try:
        group.apply(resources)
        group.allow_devices(resources.get("devices", ()))
    except (InvalidArgument, Unsupported) as error:
        raise pointed(error) from None


def _share_out(state: State, schemata: Sequence[str]) -> None:
    from poc.runtime import resctrl

    resctrl.mount_point()
    if not state.values.get("resctrl"):
        raise Conflict(f"container {state.id} has no class of its own (/linux/intelRdt) to change")
    resctrl.write(state.values["resctrl"], schemata)


def processes(root: str, id: str) -> list[int]:
    """The pids, as seen from here, of all that runs in a container."""
    return group_of(State.load(root, id)).pids()


def group_of(state: State) -> Cgroup:
    if state.values.get("systemd"):
        from poc.cgroups.systemd import Scope

        return Scope(state.values["cgroup"], state.values["annotations"])
    from poc.cgroups import Cgroup

    return Cgroup(state.values["cgroup"])


def delete(root: str, id: str, force: bool = False) -> list[str]:
    """Undo `create`. Raises Conflict while it runs, unless ``force`` ends it. Returns what poststop hooks did wrong."""
    try:
        with State.locked(root, id) as state:
            status = state.status()
            if status not in (STOPPED, CREATED) and not force:
                raise Conflict(f"cannot delete container {id} that is not stopped: {status}")
            hooks = state.spec().get("hooks") if state.values["hooks"] else None
            _end(state)
            return forget(state, hooks)
    except NotFound:
        if not force:
            raise
        _fs.remove_tree(f"{root}/{id}")  # of a `create` that was killed before it wrote a word
        return []


def _end(state: State) -> None:
    """Kill the first process, and wait until it is gone."""
    began = time.monotonic()
    while state.status() != STOPPED:
        _signal_first(state, 9)
        if time.monotonic() > began + _PATIENCE:
            raise Conflict(f"container {state.id} does not end: process {state.values['pid']} is stuck in the kernel")
        if time.monotonic() > began + _THAW_AFTER:
            _thaw(state)
        time.sleep(0.001)


def _thaw(state: State) -> None:
    """On cgroup v1 a frozen process does not die, and somebody may have frozen it in a cgroup of their own."""
    group = group_of(state)
    try:
        group.add(state.values["pid"])
        group.thaw()
    except OSError:
        pass  # it has died meanwhile


def forget(state: State, hooks: Any) -> list[str]:
    group_of(state).end()
    if state.values.get("resctrl"):
        from poc.runtime import resctrl

        resctrl.remove(state.values["resctrl"])
    if state.values.get("mount"):
        from poc import rootfs

        rootfs.unmount_from_host(state.values["rootfs"], state.values["mount"])
    state.remove()
    return hooks_of(state, hooks).run_all("poststop", STOPPED) if hooks else []
