"""What `poc-runtime` does with containers: create, start, kill, pause, resume, update, delete (runtime.md, Operations).

    create ──▶ created ── start ──▶ running ── the program ends ──▶ stopped ── delete ──▶ nothing left
    a failed create, and what `delete --force` ends, come to the last state at once

Each returns when it has taken effect. Nothing here prints. What a command line has to do with terminals and exit
statuses is in `poc.runtime.commands`; processes that come later are in `poc.runtime.joining`.
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc.errors import Conflict, InvalidArgument, NotFound, SetupError
from poc.oci import validate
from poc.oci.generate import device_rules
from poc.runtime.state import CREATED, CREATING, PAUSED, RUNNING, STOPPED, State, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.cgroups import Cgroup
    from poc.oci.types import Spec
    from poc.runtime.create import Created
    from poc.runtime.hooks import Hooks

_NO_LIMIT = (1 << 63) - 1
_PATIENCE = 10.0  # seconds for a killed process to be gone


def create(root: str, id: str, bundle: str, *, preserved: int = 0, keyring: bool = True) -> tuple[State, Created]:
    """Make the container that ``bundle`` describes, its program not yet started. Raises PocError and OSError.

    The result's console, where there is one, and its channel are the caller's to close (`Created.leave`).
    """
    bundle = os.path.abspath(bundle)
    config = f"{bundle}/config.json"
    data = _fs.read_bytes(config)
    spec = validate.check(validate.parse(data, config))
    _complete(spec, id, bundle)
    _require_free(spec["linux"]["cgroupsPath"])
    state = State.new(root, id, {**_values(spec, id, bundle), "keyring": f"_ses.{id}" if keyring else None})
    created = None
    try:
        _fs.write_atomic(f"{state.directory}/config.json", data, 0o600)
        created = _create(state, spec, preserved)
        state.values["ready"] = True
        state.save()
    except BaseException:
        if created is not None:
            created.abandon()
        _forget(state, spec.get("hooks"))
        raise
    return state, created


def _require_free(cgroup: str) -> None:
    """What is in the container's cgroup ends with the container: it must not be somebody else's."""
    from poc.cgroups import Cgroup

    group = Cgroup(cgroup)
    if group.exists() and (pids := group.pids()):
        raise Conflict(
            f"/linux/cgroupsPath: {cgroup} is not empty: {len(pids)} process(es) found, the first is {pids[0]}"
        )


def _create(state: State, spec: Spec, preserved: int) -> Created:
    from poc.runtime.create import create as make
    from poc.runtime.gate import Gate

    joined = _open_namespaces(spec)
    gate = Gate(
        state.directory,
        hooks=_hooks(state, spec["hooks"]) if state.values["hooks"] else None,
        joined=joined,
    )
    try:
        cache = f"{state.root}/.seccomp"
        return make(
            spec,
            state.values["bundle"],
            cache=cache,
            gate=gate,
            preserved=preserved,
            keyring=state.values["keyring"],
            while_mounting=state.note_process,
        )
    finally:
        gate.close()
        for fd in joined.values():
            os.close(fd)


def _values(spec: Spec, id: str, bundle: str) -> dict[str, Any]:
    from poc.cgroups import Cgroup

    return {
        "ociVersion": spec["ociVersion"],
        "id": id,
        "bundle": bundle,
        "rootfs": spec["root"]["path"],
        "annotations": spec.get("annotations", {}),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09}Z",
        "cgroup": spec["linux"]["cgroupsPath"],
        "freezer": Cgroup(spec["linux"]["cgroupsPath"]).freezer(),
        "hooks": any(spec.get("hooks", {}).values()),
    }


def _complete(spec: Spec, id: str, bundle: str) -> None:
    """Say what the configuration leaves to the runtime, in the way `poc.runtime.create` wants it said."""
    spec["root"]["path"] = os.path.realpath(os.path.join(bundle, spec["root"]["path"]))
    if not os.path.isdir(spec["root"]["path"]):
        raise InvalidArgument(f"/root/path: {spec['root']['path']} is no directory")
    linux, process = spec["linux"], spec["process"]
    path = linux.get("cgroupsPath") or f"poc-runtime-{id}"
    if not path.strip("/") or "" in path.strip("/").split("/") or {".", ".."} & set(path.split("/")):
        raise InvalidArgument(f"/linux/cgroupsPath: {path!r} is no path below the root of the hierarchies")
    linux["cgroupsPath"] = path.strip("/")
    resources = linux.setdefault("resources", {})
    resources["devices"] = _device_rules(resources.get("devices", []))
    complete_process(process)
    for mount in spec.get("mounts", ()):
        source = mount.get("source", "")
        if mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", ())):
            mount["source"] = os.path.join(bundle, source)


def _device_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As in runc, on which engines rely: nothing is allowed at first, and what every container has is at last."""
    deny_all, *defaults = device_rules()
    return [deny_all, *rules, *defaults]


def complete_process(process: Any) -> None:
    """The same for a ``process`` alone."""
    process.setdefault("capabilities", {})  # none at all, where nothing is said
    process.setdefault("user", {})
    for limit in process.get("rlimits", ()):
        for name in ("soft", "hard"):
            limit[name] = limit[name] if limit[name] <= _NO_LIMIT else -1


def _open_namespaces(spec: Spec) -> dict[str, int]:
    """Descriptors of the namespaces to join."""
    opened: dict[str, int] = {}
    try:
        for position, entry in enumerate(spec["linux"].get("namespaces", ())):
            if entry.get("path"):
                opened[entry["type"]] = _open_namespace(entry["path"], entry["type"], f"/linux/namespaces/{position}")
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def _open_namespace(path: str, kind: str, pointer: str) -> int:
    from poc import _libc
    from poc.namespaces import FLAGS

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{pointer}/path: {path}: {error.strerror}") from None
    try:
        if _libc.namespace_type(fd) == FLAGS[kind]:
            return fd
    except OSError:
        pass  # ENOTTY: no namespace at all
    os.close(fd)
    raise InvalidArgument(f"{pointer}/path: {path} is no {kind} namespace")


def _hooks(state: State, hooks: Any) -> Hooks:
    from poc.runtime.hooks import Hooks

    return Hooks(hooks or {}, {key: value for key, value in state.as_json(CREATING).items() if key != "owner"})


def start(root: str, id: str) -> None:
    """Run the program of a created container. Raises Conflict when it is in another state, SetupError."""
    from poc.runtime import gate

    with State.locked(root, id) as state:
        if (status := state.status()) != CREATED:
            raise Conflict(f"cannot start container {id}: it is {status}, not created")
        gate.start(state.directory)
        if not state.values["hooks"]:
            return
        try:
            _hooks(state, state.spec().get("hooks")).run("poststart", RUNNING, state.values["pid"])
        except SetupError:
            _end(state)
            raise


def kill(root: str, id: str, signum: int, everybody: bool = False) -> None:
    """Send a signal to the first process, or to every process. Raises Conflict ("container not running")."""
    from signal import pidfd_send_signal

    state = State.load(root, id)
    alive = state.status() in (CREATED, RUNNING, PAUSED)
    if everybody:
        _signal_all(state, signum)
        return
    if not alive:
        raise Conflict(f"container not running: {id}")
    try:
        pidfd = os.pidfd_open(state.values["pid"])
    except ProcessLookupError:
        raise Conflict(f"container not running: {id}") from None
    try:
        if state.status() == STOPPED:
            raise Conflict(f"container not running: {id}")
        pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        raise Conflict(f"container not running: {id}") from None
    finally:
        os.close(pidfd)


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
    _group(state).freeze()


def resume(root: str, id: str) -> None:
    """Let a paused container go on."""
    state = State.load(root, id)
    if (status := state.status()) != PAUSED:
        raise Conflict(f"cannot resume container {id}: it is {status}, not paused")
    _group(state).thaw()


def update(root: str, id: str, resources: dict[str, Any]) -> None:
    """Put other limits into force on a container that runs."""
    state = State.load(root, id)
    if (status := state.status()) == STOPPED:
        raise Conflict(f"cannot update container {id}: it is {status}")
    group = _group(state)
    group.apply(resources)
    group.allow_devices(resources.get("devices", ()))


def processes(root: str, id: str) -> list[int]:
    """The pids, as seen from here, of all that runs in a container."""
    return _group(State.load(root, id)).pids()


def _group(state: State) -> Cgroup:
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
            return _forget(state, hooks)
    except NotFound:
        if not force:
            raise
        _fs.remove_tree(f"{root}/{id}")  # of a `create` that was killed before it wrote a word
        return []


def _end(state: State) -> None:
    """Kill the first process, and wait until it is gone."""
    pid = state.values["pid"]
    deadline = time.monotonic() + _PATIENCE
    while state.status() != STOPPED:
        if pid and [pid, state.values["started"]] == identity(pid):
            os.kill(pid, 9)
        if time.monotonic() > deadline:
            raise Conflict(f"container {state.id} does not end: process {pid} is stuck in the kernel")
        time.sleep(0.001)


def _forget(state: State, hooks: Any) -> list[str]:
    from poc.cgroups import Cgroup

    group = Cgroup(state.values["cgroup"])
    if group.exists():
        group.kill()
        group.remove()
    state.remove()
    return _hooks(state, hooks).run_all("poststop", STOPPED) if hooks else []
