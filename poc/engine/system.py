"""What docker's info, version and system df say: of this host, of poc, and of what a store holds. Changes nothing."""

from __future__ import annotations

import os
import sys

from poc import _fs, cgroups
from poc.engine.config import OWN_RUNTIME
from poc.engine.sizes import tree_size
from poc.errors import ContainerNotFound, VolumeNotFound
from poc.images.store import architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from poc.engine import Engine
    from poc.images.store import Image


_VERSION: str = sys.modules["poc"].__version__  # of whom the engine knows nothing


def info(engine: Engine) -> dict[str, Any]:
    """docker's ``GET /info``, as far as there is something to say."""
    host = os.uname()
    return {
        "ID": _machine_id(),
        **_counts(engine),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", filesystem(engine.paths.data)], ["Supports d_type", "true"]],
        "Plugins": {
            **{"Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": None},
            "Log": ["journald", "json-file", "none", "syslog"],
        },
        **_limits(),
        "IPv4Forwarding": _sysctl("net/ipv4/ip_forward") == "1",
        "BridgeNfIptables": _sysctl("net/bridge/bridge-nf-call-iptables") == "1",
        "BridgeNfIp6tables": _sysctl("net/bridge/bridge-nf-call-ip6tables") == "1",
        **{"Debug": False, "LoggingDriver": "json-file", "CgroupDriver": _cgroup_driver()},
        "CgroupVersion": "2" if cgroups.host().v2("memory") else "1",
        "KernelVersion": host.release,
        "OperatingSystem": _os_release().get("PRETTY_NAME", "Linux"),
        "OSVersion": _os_release().get("VERSION_ID", ""),
        **{"OSType": "linux", "Architecture": host.machine, "IndexServerAddress": "https://index.docker.io/v1/"},
        "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "DockerRootDir": engine.paths.data,
        **{f"{name}Proxy": _proxy(name) for name in ("Http", "Https", "No")},
        **{"Name": host.nodename, "Labels": [], "ExperimentalBuild": False, "ServerVersion": _VERSION},
        **_runtimes(),
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False},
        **{"LiveRestoreEnabled": True, "Isolation": "", "InitBinary": "poc"},
        "SecurityOptions": _security(),
        "Warnings": None,
    }


def _counts(engine: Engine) -> dict[str, int]:
    states = [container.status for container in engine.containers.list(all=True)]
    return {
        "Containers": len(states),
        "ContainersRunning": sum(state in ("running", "restarting") for state in states),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(state in ("created", "exited") for state in states),
        "Images": len(engine.images.list()),
    }


def _limits() -> dict[str, bool]:
    """Which limits this host can keep."""
    known = cgroups.host()
    has = known.controllers.__contains__
    return {
        **{"MemoryLimit": has("memory"), "SwapLimit": has("memory") and bool(known.fact("swap"))},
        **{"CpuCfsPeriod": has("cpu"), "CpuCfsQuota": has("cpu"), "CPUShares": has("cpu"), "CPUSet": has("cpuset")},
        **{"PidsLimit": has("pids"), "OomKillDisable": has("memory") and not known.v2("memory")},
    }


def _cgroup_driver() -> str:
    return "systemd" if os.path.isdir("/run/systemd/system") and cgroups.host().mode == "v2" else "cgroupfs"


def _runtimes() -> dict[str, Any]:
    from poc.engine import foreign

    settings = foreign.settings()
    named = settings.get("runtimes", {}).items()
    others = {name: {"path": command if isinstance(command, str) else command[0]} for name, command in named}
    default = settings.get("default-runtime", OWN_RUNTIME)
    return {"Runtimes": {OWN_RUNTIME: {"path": "poc-runtime"}, **others}, "DefaultRuntime": default}


def _security() -> list[str]:
    options = []
    if _sysctl("kernel/seccomp/actions_avail"):
        options.append("name=seccomp,profile=builtin")
    if cgroups.host().mode == "v2":
        options.append("name=cgroupns")
    return options


def _sysctl(name: str) -> str:
    """The value of a kernel parameter, "" where this kernel has none of that name."""
    try:
        return _fs.read_text(f"/proc/sys/{name}")
    except OSError:
        return ""


def _machine_id() -> str:
    try:
        return _fs.read_text("/etc/machine-id")
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    from poc.images.content import os_release

    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return os_release(_fs.read_text(path))
        except OSError:
            continue
    return {}


def _proxy(name: str) -> str:
    return os.environ.get(f"{name.upper()}_PROXY") or os.environ.get(f"{name.lower()}_proxy") or ""


def filesystem(path: str) -> str:
    """The type of the file system that a directory, or the first above it that there is, lies on (mountinfo)."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _fs.read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if left.split(" ")[2] == wanted:
            return right.split(" ")[0]
    return "unknown"


def version() -> dict[str, Any]:
    """docker's ``version --format json``. There is no daemon: client and server are this one program."""
    host = os.uname()
    python = sys.version.split()[0]
    common = {
        **{"Version": _VERSION, "ApiVersion": "1.41", "GitCommit": "", "GoVersion": "", "PythonVersion": python},
        **{"Os": "linux", "Arch": architecture(), "BuildTime": ""},
    }
    components = [
        {"Name": "Engine", "Version": _VERSION, "Details": {**common, "KernelVersion": host.release}},
        {"Name": "Python", "Version": python, "Details": {}},
    ]
    return {
        "Client": {"Platform": {"Name": "poc"}, **common, "DefaultAPIVersion": "1.41", "Context": "default"},
        "Server": {
            **{"Platform": {"Name": "poc"}, "Components": components, **common},
            **{"MinAPIVersion": "1.12", "KernelVersion": host.release, "Experimental": False},
        },
    }


def df(engine: Engine) -> dict[str, Any]:
    """docker's ``GET /system/df``: LayersSize, Images, Containers, Volumes and an empty BuildCache; sizes in bytes."""
    containers = [found for container in engine.containers.list(all=True) if (found := _measured(container))]
    images = engine.images.list()
    users = [attrs["Image"] for attrs in containers]
    return {
        "LayersSize": _layers_size(images),
        "Images": [{**image.attrs, "SharedSize": -1, "Containers": users.count(image.id)} for image in images],
        "Containers": containers,
        "Volumes": [found for volume in engine.volumes.list() if (found := _used(volume))],
        "BuildCache": [],
    }


def _measured(container: Any) -> dict[str, Any]:
    try:
        own, whole = container.sizes()
        return {**container.attrs, "SizeRw": own, "SizeRootFs": whole}
    except ContainerNotFound:
        return {}  # removed since it was listed


def _used(volume: Any) -> dict[str, Any]:
    try:
        return {**volume.attrs, "UsageData": volume.usage()}
    except (VolumeNotFound, FileNotFoundError):
        return {}


def _layers_size(images: Iterable[Image]) -> int:
    """Bytes of all layers, one that several images have once."""
    sizes: dict[str, int] = {}
    several: set[str] = set()
    for image in images:
        if len(image.layers) == 1:
            sizes[image.layers[0]] = image.size
        else:
            several.update(image.layers)
    return sum({**{layer: tree_size(layer) for layer in several - sizes.keys()}, **sizes}.values())
