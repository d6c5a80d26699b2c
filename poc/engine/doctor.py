"""What this host offers to containers and what it lacks, what stops working for want of it, and how to mend it.

Changes nothing on the host: links are tried in a network namespace that goes away again.
"""

from __future__ import annotations

import os
import shutil

from poc import _fs, _libc, cgroups
from poc.engine.networks import Helper, bridge_names
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from poc.engine.store import Paths

_CLONE_NEWNET = 0x40000000
_OLDEST = (5, 9)  # Linux with clone3 into a cgroup, openat2 and close_range
_LITTLE_ROOM = 1 << 30  # bytes
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"
# controller: its limits, and whether much is lost without it
_CONTROLLERS = {
    "cpu": "--cpus, --cpu-shares and --cpu-quota",
    "cpuset": "--cpuset-cpus and --cpuset-mems",
    "memory": "--memory and what belongs to it",
    "pids": "--pids-limit",
    "io": "--blkio-weight and --device-read-bps and its kind",
    "devices": "which devices a container may use",
    "freezer": "pause and unpause",
}
_V2_ALWAYS = ("devices", "freezer")  # an eBPF program, and cgroup.freeze
_PROGRAMS = {
    "tar": ("images can't be imported or exported", "install tar", True),
    "du": ("images can't be measured, so not be made", "install coreutils", True),
    "ps": ("top", "install procps", False),
    "mkfs.ext4": ("--storage-opt size", "install e2fsprogs", False),
}


class Finding:
    """One thing that was looked at.

    ``ok``: it is there; ``detail`` is what was seen. Where it lacks: ``effect`` is what stops working, ``remedy`` how
    to mend it, and ``essential`` whether there are no containers without it.
    """

    __slots__ = ("detail", "effect", "essential", "name", "ok", "remedy")

    def __init__(
        self, name: str, ok: bool, detail: str, effect: str = "", remedy: str = "", essential: bool = False
    ) -> None:
        self.name = name
        self.ok = ok
        self.detail = detail
        self.effect = "" if ok else effect
        self.remedy = "" if ok else remedy
        self.essential = essential

    def as_dict(self) -> dict[str, Any]:
        """Docker has nothing like it, but docker's kind of keys."""
        found = {name.capitalize(): getattr(self, name) for name in self.__slots__ if name != "ok"}
        return {"Ok": self.ok, **found}

    def __repr__(self) -> str:
        return f"<Finding {self.name}: {'ok' if self.ok else 'lacks'}, {self.detail}>"


def examine(paths: Paths) -> list[Finding]:
    """Everything, what is essential first."""
    found: list[Finding] = []
    for look in _LOOKS:
        found += look(paths)
    return sorted(found, key=lambda finding: not finding.essential)


def failed(findings: Iterable[Finding]) -> bool:
    """Is something missing without which there are no containers?"""
    return any(finding.essential and not finding.ok for finding in findings)


def _kernel(_: Paths) -> list[Finding]:
    release = os.uname().release
    numbers = release.replace("-", ".").split(".")[:2]
    new = all(part.isdecimal() for part in numbers) and tuple(map(int, numbers)) >= _OLDEST
    oldest = ".".join(map(str, _OLDEST))
    needed = f"containers: they need system calls of Linux {oldest}"
    return [Finding("kernel", new, f"Linux {release}", needed, f"boot Linux {oldest} or later", True)]


def _namespaces(_: Paths) -> list[Finding]:
    wanted = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    lacking = [name for name in wanted if not os.path.exists(f"/proc/self/ns/{name}")]
    detail = f"the kernel has no {', '.join(lacking)}" if lacking else " ".join(wanted)
    found = [Finding("namespaces", not lacking, detail, "containers", "use a kernel with CONFIG_NAMESPACES", True)]
    most = _number("/proc/sys/user/max_user_namespaces")
    has = os.path.exists("/proc/self/ns/user") and most > 0
    detail = f"at most {most} per user" if has else "none can be made"
    remedy = "sysctl -w user.max_user_namespaces=15000"
    return [*found, Finding("user namespaces", has, detail, "--userns and bundles with uid mappings", remedy)]


def _cgroups(_: Paths) -> list[Finding]:
    known = cgroups.host()
    remedy = "mount cgroup2: mount -t cgroup2 none /sys/fs/cgroup"
    found = [Finding("cgroups", bool(known.directories()), known.mode, "containers", remedy, True)]
    for name, limits in _CONTROLLERS.items():
        found.append(_controller(known, name, limits))
    swap = "memory" in known.controllers and bool(known.fact("swap"))
    detail = "counted" if swap else "not counted"
    remedy = "boot with swapaccount=1"
    return [*found, Finding("cgroup swap", swap, detail, "--memory-swap", remedy)]


def _controller(known: cgroups.Hierarchies, name: str, limits: str) -> Finding:
    v1_name = "blkio" if name == "io" else name
    if known.v2(name) or (name in _V2_ALWAYS and known.mode == "v2"):
        return Finding(f"cgroup {name}", True, "on v2")
    if v1_name in known.controllers:
        return Finding(f"cgroup {name}", True, "on v1")
    remedy = f"check /proc/cgroups; boot with cgroup_enable={v1_name}, or a kernel that has it"
    return Finding(f"cgroup {name}", False, "this host does not offer it", limits, remedy)


def _files(paths: Paths) -> list[Finding]:
    with open("/proc/filesystems") as file:
        overlay = any(line.split()[-1] == "overlay" for line in file)
    detail = "in the kernel" if overlay else "not in the kernel"
    found = [Finding("overlay", overlay, detail, "containers", "modprobe overlay", True), _directory(paths.data)]
    loop = os.path.exists("/dev/loop-control")
    detail = "/dev/loop-control" if loop else "no /dev/loop-control"
    return [*found, Finding("loop devices", loop, detail, "--storage-opt size", "modprobe loop"), _room(paths.data)]


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _directory(data: str) -> Finding:
    from poc.engine.system import filesystem

    kind = filesystem(_existing(data))
    fits = kind not in ("overlay", "nfs", "nfs4", "vfat", "fuse.sshfs")
    remedy = "use a directory on ext4, xfs, btrfs or tmpfs: poc --root DIR, or POC_ROOT=DIR"
    return Finding("data directory", fits, f"{data} on {kind}", "containers: overlayfs can't write there", remedy, True)


def _room(data: str) -> Finding:
    found = os.statvfs(_existing(data))
    free = found.f_bavail * found.f_frsize
    detail = f"{free / 1e9:.1f} GB free in {data}"
    return Finding("disk", free >= _LITTLE_ROOM, detail, "images and what containers write", "make room there")


def _security(_: Paths) -> list[Finding]:
    actions = os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
    found = [
        Finding("seccomp", actions, "in the kernel" if actions else "not in the kernel",
                "the default seccomp profile, and with it containers but for --security-opt seccomp=unconfined",
                "use a kernel with CONFIG_SECCOMP_FILTER"),
    ]  # fmt: skip
    for module, effect in (("pyseccomp", "seccomp profiles"), ("prctl", "containers"), ("pyroute2", "networks")):
        found.append(_module(module, effect))
    return found


def _module(name: str, effect: str) -> Finding:
    try:
        __import__(name)
    except Exception as error:  # a library that it loads may be missing too
        package = {"prctl": "python-prctl"}.get(name, name)
        return Finding(f"Python {name}", False, str(error), effect, f"pip install {package}", name == "prctl")
    return Finding(f"Python {name}", True, "can be loaded", essential=name == "prctl")


def _programs(_: Paths) -> list[Finding]:
    found = []
    for name, (effect, remedy, essential) in _PROGRAMS.items():
        path = shutil.which(name, path=_PATH)
        found.append(Finding(name, path is not None, path or "not in PATH", effect, remedy, essential))
    return found


_BRIDGED = "networks other than none and host"


def _network(paths: Paths) -> list[Finding]:
    lacks = dict(line.split("\t", 1) for line in _helped(_try_network))
    found = [
        Finding("bridge", "bridge" not in lacks, lacks.get("bridge", "can be made"), _BRIDGED, "modprobe bridge"),
        Finding("veth", "veth" not in lacks, lacks.get("veth", "can be made"), _BRIDGED, "modprobe veth"),
        Finding("nftables", "nftables" not in lacks, lacks.get("nftables", "answers"), _BRIDGED, "modprobe nf_tables"),
    ]
    return [*found, _forwarding(), *_firewall(paths)]


def _helped(work: Callable[[str], list[str]]) -> list[str]:
    """What a forked child says, which alone loads what it takes."""
    try:
        return Helper(work).wait()
    except PocError as error:
        return [f"{name}\t{error}" for name in ("bridge", "veth", "nftables")]


def _try_network(_: str) -> list[str]:
    from poc.net.bridge import errors, rtnetlink
    from poc.net.nftables import Nftables

    _libc.unshare(_CLONE_NEWNET)
    lacks = []
    with rtnetlink() as ip:
        for kind, more in (("bridge", {}), ("veth", {"peer": "poc-peer"})):
            try:
                with errors(f"create {kind}"):
                    ip.link("add", ifname=f"poc-{kind}", kind=kind, **more)
            except OSError as error:
                lacks.append(f"{kind}\t{error.strerror}")
    try:
        with errors("ask nftables"), Nftables() as netlink:
            netlink.chains()
    except OSError as error:
        lacks.append(f"nftables\t{error.strerror or error}")
    return lacks


def _forwarding() -> Finding:
    path = "/proc/sys/net/ipv4/ip_forward"
    on, can = _number(path) == 1, os.access(path, os.W_OK)
    detail = "on" if on else "off; poc turns it on where its bridge needs it" if can else "off, and can't be changed"
    effect = "containers can't reach the outside"
    return Finding("IPv4 forwarding", on or can, detail, effect, "sysctl -w net.ipv4.ip_forward=1")


def _firewall(paths: Paths) -> list[Finding]:
    """Who else drops forwarded packets. poc's get past docker's chains; whether past others', a start tells."""
    from poc import net

    name, table = bridge_names(paths)
    try:
        others = Helper(lambda _: net.Bridge(name, table).blocked_by()).wait()
    except PocError as error:
        return [Finding("firewall", False, str(error), _BRIDGED, "see nftables")]
    dropping = [other for other in others if other.endswith("(policy drop)")]
    if not dropping:
        return [
            Finding("firewall", True, f"{len(others)} others filter, none drops by default" if others else "no other")
        ]
    if all("ip filter chain FORWARD" in other for other in dropping) and shutil.which("iptables", path=_PATH):
        return [Finding("firewall", True, f"{dropping[0]}: passed by rules in DOCKER-USER, where docker made it")]
    remedy = "let the bridge pass there, such as: nft insert rule ip filter FORWARD iifname poc* accept"
    return [Finding("firewall", False, "; ".join(dropping), "containers may not reach the outside", remedy)]


def _number(path: str) -> int:
    try:
        return int(_fs.read_text(path))
    except (OSError, ValueError):
        return 0


_LOOKS: tuple[Callable[[Paths], list[Finding]], ...] = (
    *(_kernel, _namespaces, _cgroups, _files, _security, _programs, _network),
)
