"""An OCI configuration from a few plain values. Pure: reads nothing, asks nothing."""

from __future__ import annotations

from poc.oci import defaults
from poc.oci.seccomp import default_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any

    from poc.oci.types import Mount, Namespace, Process, Spec


def process(
    args: Sequence[str],
    env: Sequence[str],
    cwd: str = "/",
    uid: int = 0,
    gid: int = 0,
    additional_gids: Sequence[int] = (),
    capabilities: Iterable[str] = defaults.CAPABILITIES,
    terminal: bool = False,
) -> Process:
    """``process``: what to run, as whom. Inheritable and ambient capabilities stay empty (CVE-2022-29162)."""
    held = list(capabilities)
    return {
        "terminal": terminal,
        "user": {"uid": uid, "gid": gid, "additionalGids": list(additional_gids)},
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {"bounding": held, "effective": held, "permitted": held},
    }


def spec(
    process: Process,
    rootfs: str,
    hostname: str,
    cgroups_path: str,
    resources: dict[str, Any],
    mounts: Iterable[Mount] = (),
    readonly: bool = False,
    shm_size: int = defaults.DEFAULT_SHM_SIZE,
    shared: Collection[str] = (),
    privileged: bool = False,
) -> Spec:
    """The whole configuration. ``mounts`` come after the default ones and replace those of the same destination.

    ``shared`` are the namespaces that it has none of its own of, but the host's.
    """
    namespaces: list[Namespace] = [{"type": kind} for kind in defaults.NAMESPACES if kind not in shared]
    result: Spec = {
        "ociVersion": defaults.OCI_VERSION,
        "process": process,
        "root": {"path": rootfs, "readonly": readonly},
        "hostname": hostname if "uts" not in shared else "",
        "mounts": _merge(default_mounts(shm_size, writable=privileged), mounts),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": cgroups_path,
            "resources": {**resources, "devices": device_rules(privileged)},
        },
    }
    if not privileged:
        linux = result["linux"]
        linux["maskedPaths"] = list(defaults.MASKED_PATHS)
        linux["readonlyPaths"] = list(defaults.READONLY_PATHS)
        linux["seccomp"] = default_profile(process["capabilities"]["bounding"])
    return result


def default_mounts(shm_size: int, writable: bool = False) -> list[Mount]:
    """Docker's mounts; ``writable`` (privileged) leaves /sys and the cgroups writable."""
    mounts: list[Mount] = []
    for destination, kind, options in defaults.MOUNTS:
        kept = [option for option in options if not (writable and option == "ro")]
        mounts.append({"destination": destination, "type": kind, "source": kind, "options": kept})
    shm = ["nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}"]
    mounts.append({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm})
    return mounts


def device_rules(privileged: bool = False) -> list[dict[str, Any]]:
    """``linux.resources.devices``: everything when privileged, else what `defaults.DEVICE_RULES` lists."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor, access in defaults.DEVICE_RULES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        rule.update((key, number) for key, number in (("major", major), ("minor", minor)) if number >= 0)
        rules.append(rule)
    return rules


def _merge(base: list[Mount], extra: Iterable[Mount]) -> list[Mount]:
    """Shallow paths first among the extra ones, so that a mount never hides one made before it.

    Whoever mounts something on /dev brings all that is below it. /proc stays below what is mounted on it:
    `poc.rootfs` knows by it what must not be hidden.
    """
    added = sorted(extra, key=lambda mount: mount["destination"].rstrip("/").count("/"))
    replaced = {mount["destination"] for mount in added} - {"/proc"}
    below = "/dev/" if "/dev" in replaced else "\0"
    kept = [
        mount for mount in base if mount["destination"] not in replaced and not mount["destination"].startswith(below)
    ]
    return kept + added
