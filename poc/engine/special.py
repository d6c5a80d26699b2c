"""What few containers ask for, put into their OCI configuration; loaded only for those who do.

Every function here takes the wishes (`poc.engine.config`) as they were checked. Raises InvalidArgument.
"""

from __future__ import annotations

from poc.engine import devices
from poc.engine.sharing import shm_of
from poc.oci.seccomp import default_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.config import ContainerConfig
    from poc.oci.types import Spec


def put_into(spec: Spec, config: ContainerConfig) -> None:
    """Limits of the process, sysctls, devices, annotations and what protects it."""
    process: Any = spec["process"]
    if config.ulimits:
        process["rlimits"] = [_rlimit(limit) for limit in config.ulimits]
    if config.oom_score_adj is not None:
        process["oomScoreAdj"] = config.oom_score_adj
    if config.annotations:
        spec["annotations"] = dict(config.annotations)
    sysctls: dict[str, str] = spec["linux"].setdefault("sysctl", {})
    sysctls.update(config.sysctls)
    _put_shm_into(spec, config)
    if config.domainname:
        sysctls["kernel.domainname"] = config.domainname  # the runtime specification has a field for it since 1.1 only
    devices.put_into(spec, config)
    for option in config.security_opt:
        _put_security_into(spec, option)


def _put_shm_into(spec: Spec, config: ContainerConfig) -> None:
    """/dev/shm belongs to the IPC namespace; what the user has mounted there stays."""
    mode = config.ipc_mode
    kept = [mount for mount in spec["mounts"] if mount.get("source") != "shm"]
    if mode not in ("", "private", "shareable") and len(kept) < len(spec["mounts"]):
        spec["mounts"] = kept
        if mode != "none":
            source = "/dev/shm" if mode == "host" else shm_of(config)
            options = ["bind", "rprivate", "nosuid", "noexec", "nodev"]
            kept.append({"destination": "/dev/shm", "type": "bind", "source": source, "options": options})


def _rlimit(limit: dict[str, Any]) -> dict[str, Any]:
    soft, hard = (limit[key] % (1 << 64) for key in ("Soft", "Hard"))  # no limit is the largest there is
    return {"type": f"RLIMIT_{limit['Name'].upper()}", "soft": soft, "hard": hard}


# ── security ──


def _put_security_into(spec: Spec, option: str) -> None:
    key, _, value = option.partition("=")
    process: Any = spec["process"]
    linux: Any = spec["linux"]
    if key == "no-new-privileges":
        process["noNewPrivileges"] = value != "false"
    elif key == "seccomp":
        linux.pop("seccomp", None)
        if profile := _profile(value, process["capabilities"]["bounding"]):
            linux["seccomp"] = profile
    elif key == "apparmor" and value != "unconfined":
        process["apparmorProfile"] = value
    elif key == "systempaths":
        linux.pop("maskedPaths", None)
        linux.pop("readonlyPaths", None)


def _profile(value: str, capabilities: list[str]) -> dict[str, Any] | None:
    if value == "unconfined":
        return None
    if value == "builtin":
        return default_profile(capabilities)
    import json

    from poc.engine.profiles import to_oci

    return to_oci(json.loads(value), capabilities)
