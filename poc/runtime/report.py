"""What `poc-runtime` tells about itself and its containers: `features`, `spec`, and the figures of `events`."""

from __future__ import annotations

import os
import select
import time

from poc import _fs, rootfs
from poc.cgroups import Cgroup, host
from poc.errors import InvalidArgument
from poc.oci import defaults, validate
from poc.runtime.state import STOPPED, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


def list_processes(pids: Sequence[int], arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """What ps(1) says of these processes with ``arguments``: the titles, and a row for each. Raises InvalidArgument."""
    import subprocess

    try:
        done = subprocess.run(["ps", *arguments], capture_output=True, text=True, errors="surrogateescape")
    except FileNotFoundError:
        raise InvalidArgument("ps is not installed here (Debian: procps)") from None
    if done.returncode:
        raise InvalidArgument(f"ps: {done.stderr.strip()}")
    head, *lines = done.stdout.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("ps: there is no column PID in what it prints")
    rows = [line.split(None, len(titles) - 1) for line in lines]
    return titles, [row for row in rows if int(row[titles.index("PID")]) in pids]


def features() -> dict[str, Any]:
    """features.md: what a config.json may ask of this runtime."""
    from poc.runtime import seccomp_compiler as compiler

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": defaults.OCI_VERSION,
        "hooks": list(validate.HOOKS),
        "mountOptions": sorted(rootfs.OPTIONS),
        "linux": {
            "namespaces": sorted(validate.NAMESPACES),
            "capabilities": list(defaults.ALL_CAPABILITIES),
            "cgroup": {
                "v1": bool(host().v1()),
                "v2": host().unified is not None,
                "systemd": True,
                "systemdUser": False,
                "rdma": "rdma" in host().controllers,
            },
            "seccomp": {
                "enabled": True,
                "actions": list(compiler.ACTIONS),
                "operators": list(compiler.OPERATORS),
                "archs": list(compiler.ARCHITECTURES),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": list(validate.MEMORY_POLICIES), "flags": list(validate.MEMORY_POLICY_FLAGS)},
            "netDevices": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }


def example(rootless: bool = False) -> dict[str, Any]:
    """A config.json to begin with, as `runc spec` writes one: a shell on the bundle's ``rootfs``, read-only.

    ``rootless`` makes it one that needs no more rights than the caller's: its root is the caller, and there are no
    limits, and no network of its own.
    """
    from poc.oci import generate

    capabilities = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    env = [f"PATH={defaults.DEFAULT_PATH}", "TERM=xterm"]
    process = generate.process(["sh"], env, capabilities=capabilities, terminal=True)
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    process["noNewPrivileges"] = True
    spec: dict[str, Any] = dict(generate.spec(process, "rootfs", "poc-runtime", "", {}, readonly=True))
    del spec["linux"]["cgroupsPath"]
    del spec["linux"]["seccomp"]
    if rootless:
        _renounce_root(spec)
    return spec


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(option: str, text: str) -> float:
    """A positive duration as Go writes it, "1m30s". Raises InvalidArgument."""
    import re

    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    length: float = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if length <= 0 or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f"{option} {text!r} is no positive duration such as 5s or 1m30s")
    return length


def reading(container: State) -> dict[str, Any]:
    """One of runc's "stats" events."""
    return {"type": "stats", "id": container.id, "data": stats(container.values["cgroup"])}


def watch(container: State, interval: float) -> Iterator[dict[str, Any]]:
    """A reading every ``interval`` seconds, and "oom" when the kernel kills for want of memory, until it ends."""
    group, ended = Cgroup(container.values["cgroup"]), _fs.pidfd_open(container.values["pid"])
    killing = group.oom_descriptor()
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    if killing is not None:
        poller.register(killing, select.POLLPRI if host().v2("memory") else select.POLLIN)
    kills, due = group.oom_kills(), time.monotonic() + interval
    try:
        while container.status() != STOPPED:
            ready = dict(poller.poll(max(0.0, due - time.monotonic()) * 1000))
            if killing in ready and _oom_came(killing, group, kills):
                kills = group.oom_kills()
                yield {"type": "oom", "id": container.id}
            if time.monotonic() >= due:
                yield reading(container)
                due += interval
    finally:
        os.close(ended)
        if killing is not None:
            os.close(killing)


def _oom_came(descriptor: int, group: Cgroup, kills: int) -> bool:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.read(descriptor, 4096)  # or it stays ready
    # v1 tells it before it kills, and when the group goes; v2 tells of other things as well.
    return group.oom_kills() > kills if host().v2("memory") else group.exists()


def _renounce_root(spec: dict[str, Any]) -> None:
    linux = spec["linux"]
    linux.pop("resources", None)
    linux["namespaces"] = [{"type": "user"}, *(ns for ns in linux["namespaces"] if ns["type"] != "network")]
    for name, own in (("uidMappings", os.geteuid()), ("gidMappings", os.getegid())):
        linux[name] = [{"containerID": 0, "hostID": own, "size": 1}]
    for mount in spec["mounts"]:
        mount["options"] = [option for option in mount.get("options", ()) if not option.startswith(("uid=", "gid="))]
        if mount["destination"] == "/sys":  # whose network is not ours must not mount it afresh
            mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])


def stats(cgroup: str) -> dict[str, Any]:
    """A cgroup's figures in the words of runc's events (its package types)."""
    figures = Cgroup(cgroup).stats()
    data: dict[str, Any] = {}
    if cpu := figures.get("cpu"):
        usage = {"total": cpu["usage"], "kernel": cpu["system"], "user": cpu["user"]}
        throttling = {
            "periods": cpu["periods"],
            "throttledPeriods": cpu["throttled_periods"],
            "throttledTime": cpu["throttled"],
        }
        data["cpu"] = {"usage": usage, "throttling": throttling}
    if memory := figures.get("memory"):
        limit = (1 << 64) - 1 if memory["limit"] is None else memory["limit"]
        usage = {"usage": memory["usage"], "max": memory["peak"] or 0, "limit": limit}
        data["memory"] = {"usage": usage, "raw": {"inactive_file": memory["inactive_file"]}}
    if pids := figures.get("pids"):
        data["pids"] = {"current": pids["current"], "limit": pids["limit"] or 0}
    data["blkio"] = _blkio(figures.get("io", []))
    data["hugetlb"], data["intel_rdt"], data["network_interfaces"] = {}, {}, None
    return data


def _blkio(devices: list[dict[str, Any]]) -> dict[str, Any]:
    lists: dict[str, list[dict[str, Any]]] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    for device in devices:
        major, minor = map(int, device["device"].split(":"))
        for name, keys in (
            ("ioServiceBytesRecursive", ("read_bytes", "write_bytes")),
            ("ioServicedRecursive", ("reads", "writes")),
        ):
            for operation, key in zip(("Read", "Write"), keys, strict=True):
                lists[name].append({"major": major, "minor": minor, "op": operation, "value": device[key]})
    return lists
