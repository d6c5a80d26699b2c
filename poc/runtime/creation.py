"""What `poc-runtime create` does: from an OCI bundle to a container that waits for its start."""

from __future__ import annotations

import os
import stat
import time

from poc import _fs, _libc, rootfs
from poc.cgroups import Cgroup
from poc.errors import Conflict, InvalidArgument, Unsupported
from poc.namespaces import FLAGS
from poc.oci import validate
from poc.oci.generate import device_rules
from poc.runtime.create import create as make
from poc.runtime.gate import Gate
from poc.runtime.lifecycle import forget, group_of, hooks_of, pointed
from poc.runtime.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.namespaces import Process
    from poc.oci.types import Spec
    from poc.runtime.create import Created

_NO_LIMIT = (1 << 63) - 1


class Bundle:
    """An OCI bundle: its directory, and its configuration, checked (``spec``) and as it was read (``data``).

    Raises OSError, InvalidArgument and Unsupported.
    """

    __slots__ = ("data", "directory", "spec")

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        config = f"{self.directory}/config.json"
        self.data = _read(config)
        self.spec = validate.check(validate.parse(self.data, config))


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # to open a FIFO is to wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{path} is no regular file")
        return _fs.read_all(fd)
    finally:
        os.close(fd)


def create(
    root: str,
    id: str,
    of: Bundle,
    *,
    preserved: int = 0,
    keyring: bool = True,
    pivot: bool = True,
    systemd: bool = False,
) -> tuple[State, Created]:
    """Make the container that a bundle describes, its program not yet started. Raises PocError and OSError.

    With ``systemd`` its cgroup is a scope there, and cgroupsPath means "slice:prefix:name". The result's console,
    where there is one, and its channel are the caller's to close (`Created.leave`).
    """
    spec, bundle = of.spec, of.directory
    _complete(spec, id, bundle, systemd)
    _require_free(spec["linux"]["cgroupsPath"])
    values = {**_values(spec, id, bundle), "keyring": f"_ses.{id}" if keyring else None, "systemd": systemd}
    state = State.new(root, id, values)
    created = None
    try:
        _fs.write_atomic(f"{state.directory}/config.json", of.data, 0o600)
        created = _create(state, spec, preserved, pivot)
        state.values["ready"] = True
        state.save()
    except BaseException:
        if created is not None:
            created.abandon()
        forget(state, spec.get("hooks"))
        raise
    return state, created


def _require_free(cgroup: str) -> None:
    """What is in the container's cgroup ends with the container: it must not be somebody else's."""
    group = Cgroup(cgroup)
    if group.exists() and (pids := group.pids()):
        raise Conflict(
            f"/linux/cgroupsPath: {cgroup} is not empty: {len(pids)} process(es) found, the first is {pids[0]}"
        )


def _create(state: State, spec: Spec, preserved: int, pivot: bool) -> Created:
    group = group_of(state)
    if all(entry["type"] != "mount" for entry in spec["linux"].get("namespaces", ())):
        state.values["mount"] = rootfs.mount_beside(spec["root"]["path"])
        state.save()
    joined = _open_namespaces(spec)
    gate = Gate(
        state.directory,
        hooks=hooks_of(state, spec["hooks"]) if state.values["hooks"] else None,
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
            while_mounting=lambda process: _note(state, group, process),
            pivot=pivot,
            group=group,
        )
    except (InvalidArgument, Unsupported) as error:
        raise pointed(error) from None
    finally:
        gate.close()
        for fd in joined.values():
            os.close(fd)


def _note(state: State, group: Cgroup, process: Process) -> None:
    state.note_process(process)
    group.admit(process.pid)
    if state.values.get("resctrl"):
        from poc.runtime import resctrl

        resctrl.establish(state.values["resctrl"], process.pid)


def _values(spec: Spec, id: str, bundle: str) -> dict[str, Any]:
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
        "program": bool(spec["process"]["args"][0]),
        "resctrl": _class(id, spec["linux"]["intelRdt"]) if "intelRdt" in spec["linux"] else None,
    }


def _class(id: str, rdt: dict[str, Any]) -> dict[str, Any]:
    from poc.runtime import resctrl

    return resctrl.plan(rdt, id)


def _complete(spec: Spec, id: str, bundle: str, systemd: bool) -> None:
    """Say what the configuration leaves to the runtime, in the way `poc.runtime.create` wants it said."""
    spec["root"]["path"] = os.path.realpath(os.path.join(bundle, spec["root"]["path"]))
    if not os.path.isdir(spec["root"]["path"]):
        raise InvalidArgument(f"/root/path: {spec['root']['path']} is no directory")
    linux, process = spec["linux"], spec["process"]
    path = linux.get("cgroupsPath") or ("" if systemd else f"poc-runtime-{id}")
    if systemd:
        from poc.cgroups.systemd import locate

        path = locate(path, id)
    if not path.strip("/") or "" in path.strip("/").split("/") or {".", ".."} & set(path.split("/")):
        raise InvalidArgument(f"/linux/cgroupsPath: {path!r} is no path below the root of the hierarchies")
    linux["cgroupsPath"] = path.strip("/")
    _complete_mappings(linux)
    resources = linux.setdefault("resources", {})
    resources["devices"] = _device_rules(resources.get("devices", []))
    complete_process(process)
    for mount in spec.get("mounts", ()):
        source = mount.get("source", "")
        if mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", ())):
            mount["source"] = os.path.join(bundle, source)
    if label := linux.get("mountLabel"):
        from poc.runtime.traits import label_mounts, require_selinux

        require_selinux("/linux/mountLabel")
        label_mounts(spec.get("mounts", []), label)


def _complete_mappings(linux: Any) -> None:
    """A user namespace without any: everybody there is in ours has the same number in the container's."""
    new = any(entry["type"] == "user" and not entry.get("path") for entry in linux.get("namespaces", ()))
    for name in ("uid", "gid"):
        if new and not linux.get(f"{name}Mappings"):
            lines = [line.split() for line in _fs.read_text(f"/proc/self/{name}_map").splitlines()]
            linux[f"{name}Mappings"] = [
                {"containerID": int(first), "hostID": int(first), "size": int(count)} for first, _, count in lines
            ]


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
