"""What `poc-runtime` tells about itself and its containers: `features`, `spec`, and the figures of `events`."""

from __future__ import annotations

from poc import rootfs
from poc.cgroups import Cgroup, host
from poc.oci import defaults, validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
                "systemd": False,
                "systemdUser": False,
                "rdma": "rdma" in host().controllers,
            },
            "seccomp": {
                "enabled": True,
                "actions": list(compiler.ACTIONS),
                "operators": list(compiler.OPERATORS),
                "archs": list(compiler.ARCHITECTURES),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
    }


def example() -> dict[str, Any]:
    """A config.json to begin with, as `runc spec` writes one: a shell on the bundle's ``rootfs``, read-only."""
    from poc.oci import generate

    capabilities = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    env = [f"PATH={defaults.DEFAULT_PATH}", "TERM=xterm"]
    process = generate.process(["sh"], env, capabilities=capabilities, terminal=True)
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    process["noNewPrivileges"] = True
    spec: dict[str, Any] = dict(generate.spec(process, "rootfs", "poc-runtime", "", {}, readonly=True))
    del spec["linux"]["cgroupsPath"]
    del spec["linux"]["seccomp"]
    return spec


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
