"""Reads a ``config.json`` that somebody else wrote: what is wrong with it, as one line that names the JSON pointer.

Three passes: the JSON itself, the shape (`_SPEC`, types of everything that is used), and what must hold between
properties (`_RULES`). A property that the specification knows and that is not carried out is an error as well, never
passed over; one that the specification does not know is ignored, as it demands. ``null`` is the same as absent.
Does not know this host: whether the kernel can do what is asked for shows when it is done.
"""

from __future__ import annotations

from poc import _fs
from poc._lean import json
from poc.errors import InvalidArgument, Unsupported
from poc.oci.defaults import ALL_CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from poc.oci.types import Process, Spec

NAMESPACES = ("user", "cgroup", "ipc", "uts", "network", "pid", "time", "mount")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
RLIMITS = tuple(
    f"RLIMIT_{name}"
    for name in (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS"),
        *("RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)
# In the kernel's order: a name's place is its number, or its bit (linux/sched.h, ioprio.h and mempolicy.h).
SCHEDULERS = tuple(f"SCHED_{name}" for name in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"))
SCHEDULER_FLAGS = tuple(
    f"SCHED_FLAG_{name}"
    for name in (
        *("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS"),
        *("UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"),
    )
)
IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
MEMORY_POLICIES = tuple(
    f"MPOL_{name}"
    for name in ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE")
)
MEMORY_POLICY_FLAGS = ("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")
CLOCKS = ("monotonic", "boottime")


class _Refused:
    """In place of a schema: a property that is known and not carried out. An empty value asks for nothing."""

    __slots__ = ("why",)

    def __init__(self, why: str = "poc does not carry this out yet") -> None:
        self.why = why


# A schema is a type, a range of integers, a tuple of strings to choose from, [schema of the items], or a dict of the
# properties' schemas: those that end in "!" are required, "*" stands for any name.
_UINT16, _UINT32, _UINT64, _INT32 = range(1 << 16), range(1 << 32), range(1 << 64), range(-(1 << 31), 1 << 31)
_INT64 = range(-(1 << 63), 1 << 63)
_ID = range((1 << 32) - 1)  # the largest uint32 means "unchanged" to setresuid(2)
_STRINGS = [str]
_DEADLINE = ("runtime", "deadline", "period")
_LONGEST_NAME = 64  # __NEW_UTS_LEN
_MAPPINGS = [{"containerID!": _ID, "hostID!": _ID, "size!": _UINT32}]
_THROTTLE = [{"major!": _INT64, "minor!": _INT64, "rate!": _UINT64}]
_HOOK = {"path!": str, "args": _STRINGS, "env": _STRINGS, "timeout": range(1, 1 << 31)}

_PROCESS = {
    "terminal": bool,
    "consoleSize": {"height!": _UINT16, "width!": _UINT16},
    "cwd!": str,
    "env": _STRINGS,
    "args!": _STRINGS,
    "commandLine": _Refused("it is Windows's"),
    "rlimits": [{"type!": RLIMITS, "soft!": _UINT64, "hard!": _UINT64}],
    "apparmorProfile": str,
    "selinuxLabel": str,
    "capabilities": {
        name: [ALL_CAPABILITIES] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
    },
    "noNewPrivileges": bool,
    "oomScoreAdj": range(-1000, 1001),
    "scheduler": {
        "policy!": SCHEDULERS,
        "nice": range(-20, 20),
        "priority": range(100),
        "flags": [SCHEDULER_FLAGS],
        **dict.fromkeys(_DEADLINE, _UINT64),
    },
    "ioPriority": {"class!": IO_CLASSES, "priority": range(8)},
    "execCPUAffinity": {"initial": str, "final": str},
    "user": {"uid": _ID, "gid": _ID, "umask": range(0o1000), "additionalGids": [_ID]},
}
_CPU = {
    **dict.fromkeys(("shares", "burst", "period", "realtimePeriod"), _UINT64),
    **dict.fromkeys(("quota", "realtimeRuntime", "idle"), _INT64),
    **dict.fromkeys(("cpus", "mems"), str),
}
_MEMORY = {
    **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), _INT64),
    "swappiness": range(101),
    **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
}
_BLOCK_IO = {
    **dict.fromkeys(("weight", "leafWeight"), _UINT16),
    "weightDevice": [{"major!": _INT64, "minor!": _INT64, "weight": _UINT16, "leafWeight": _UINT16}],
    **dict.fromkeys((f"throttle{way}Device" for way in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")), _THROTTLE),
}
_RESOURCES = {
    "devices": [
        {"allow!": bool, "type": ("a", "b", "c", "u", ""), "major": _INT64, "minor": _INT64, "access": str},
    ],
    "memory": _MEMORY,
    "cpu": _CPU,
    "pids": {"limit": _INT64},
    "blockIO": _BLOCK_IO,
    "hugepageLimits": [{"pageSize!": str, "limit!": _UINT64}],
    "network": {"classID": _UINT32, "priorities": [{"name!": str, "priority!": _UINT32}]},
    "rdma": {"*": {"hcaHandles": _UINT32, "hcaObjects": _UINT32}},
    "unified": {"*": str},
}
_LINUX = {
    "namespaces": [{"type!": NAMESPACES, "path": str}],
    "uidMappings": _MAPPINGS,
    "gidMappings": _MAPPINGS,
    "devices": [
        {
            "path!": str,
            "type!": ("b", "c", "u", "p"),
            "major": range(1 << 12),
            "minor": range(1 << 20),
            "fileMode": _UINT32,
            "uid": _ID,
            "gid": _ID,
        }
    ],
    "netDevices": {"*": {"name": str}},
    "cgroupsPath": str,
    "resources": _RESOURCES,
    "intelRdt": {
        **dict.fromkeys(("closID", "l3CacheSchema", "memBwSchema"), str),
        "schemata": _STRINGS,
        "enableMonitoring": bool,
        **dict.fromkeys(("enableCMT", "enableMBM"), _Refused("enableMonitoring is in its place since version 1.3")),
    },
    "sysctl": {"*": str},
    "seccomp": {"listenerPath": str, "listenerMetadata": str, "*": object},
    "rootfsPropagation": tuple(
        f"{recursive}{kind}" for kind in ("shared", "slave", "private", "unbindable") for recursive in ("", "r")
    )
    + ("",),
    "maskedPaths": _STRINGS,
    "readonlyPaths": _STRINGS,
    "mountLabel": str,
    "memoryPolicy": {"mode!": MEMORY_POLICIES, "nodes": str, "flags": [MEMORY_POLICY_FLAGS]},
    "personality": {"domain!": ("LINUX", "LINUX32"), "flags": _Refused("the specification knows none yet")},
    "timeOffsets": {clock: {"secs": _INT64, "nanosecs": range(10**9)} for clock in CLOCKS},
}
_SPEC = {
    "ociVersion!": str,
    "root!": {"path!": str, "readonly": bool},
    "mounts": [
        {
            "destination!": str,
            "type": str,
            "source": str,
            "options": _STRINGS,
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        }
    ],
    "process": _PROCESS,
    "hostname": str,
    "domainname": str,
    "hooks": {kind: [_HOOK] for kind in HOOKS},
    "annotations": {"*": str},
    "linux!": _LINUX,
    **dict.fromkeys(("solaris", "windows", "vm", "zos", "freebsd"), _Refused("this is Linux")),
}
_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}


def read(path: str) -> Any:
    """The JSON value in a file. Raises OSError, and InvalidArgument when it is no JSON."""
    return parse(_fs.read_bytes(path), path)


def parse(data: bytes, name: str) -> Any:
    """The JSON value that ``data`` is; ``name`` says where from. Raises InvalidArgument."""
    try:
        return json.loads(data)
    except RecursionError:
        raise InvalidArgument(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"{name}: not JSON: {error}") from None


def check(spec: Any) -> Spec:
    """``spec`` itself, without its nulls. Raises InvalidArgument and Unsupported with the JSON pointer."""
    _shape(spec, _SPEC, "")
    spec.setdefault("process", {"cwd": "/", "args": [""]})  # config.md: it is only `start` that needs one
    for rule in _RULES:
        rule(spec)
    checked: Spec = spec
    return checked


def check_process(process: Any) -> Process:
    """The same for a ``process`` alone, whose pointers then begin with "/process"."""
    _shape(process, _PROCESS, "/process")
    _process_rules({"process": process})
    checked: Process = process
    return checked


def check_resources(resources: Any) -> dict[str, Any]:
    """The same for ``linux.resources`` alone."""
    _shape(resources, _RESOURCES, "/linux/resources")
    checked: dict[str, Any] = resources
    return checked


def _shape(value: Any, schema: Any, pointer: str) -> None:
    if isinstance(schema, dict):
        _object(value, schema, pointer)
    elif isinstance(schema, list):
        _expect(value, list, pointer)
        for position, item in enumerate(value):
            _shape(item, schema[0], f"{pointer}/{position}")
    elif isinstance(schema, range):
        if not isinstance(value, int) or isinstance(value, bool) or value not in schema:
            raise InvalidArgument(f"{pointer}: {value!r:.60} is no integer from {schema[0]} to {schema[-1]}")
    elif isinstance(schema, tuple):
        if not isinstance(value, str) or value not in schema:
            known = ", ".join(filter(None, schema)) if len(schema) < 20 else f"the {len(schema)} known"
            raise InvalidArgument(f"{pointer}: {value!r:.60} is none of {known}")
    elif isinstance(schema, _Refused):
        if value:
            raise Unsupported(f"{pointer}: {schema.why}")
    else:
        _expect(value, schema, pointer)


def _expect(value: Any, kind: Any, pointer: str) -> None:
    if not isinstance(value, kind):
        raise InvalidArgument(f"{pointer or '/'}: {value!r:.60} is not {_TYPES[kind]}")
    if kind is str and ("\0" in value or not (value.isascii() or _encodes(value))):
        raise InvalidArgument(f"{pointer}: {value!r:.60} holds a character that no C string can")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(value: Any, schema: dict[str, Any], pointer: str) -> None:
    _expect(value, dict, pointer)
    for name in [name for name, item in value.items() if item is None]:
        del value[name]
    for name, inner in schema.items():
        if name == "*":
            continue
        key = name.removesuffix("!")
        if key in value:
            _shape(value[key], inner, f"{pointer}/{key}")
        elif key != name:
            raise InvalidArgument(f"{pointer}/{key}: missing")
    if "*" in schema:
        for key in value.keys() - schema.keys():
            _shape(value[key], schema["*"], f"{pointer}/{escape(key)}")


def escape(key: str) -> str:
    """A property's name as part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


# ── what must hold between properties ────────────────────────────────────────────────────────────────────


def _process_rules(spec: Any) -> None:
    process = spec["process"]
    if not process["args"]:
        raise InvalidArgument("/process/args: empty")
    if not process["cwd"].startswith("/"):
        raise InvalidArgument(f"/process/cwd: {process['cwd']!r} is no absolute path")
    for position, entry in enumerate(process.get("env", ())):
        if "=" not in entry.lstrip("="):
            raise InvalidArgument(f"/process/env/{position}: {entry!r:.60} is not NAME=VALUE")
    _unique((limit["type"] for limit in process.get("rlimits", ())), "/process/rlimits")
    for position, limit in enumerate(process.get("rlimits", ())):
        if limit["soft"] > limit["hard"]:
            raise InvalidArgument(f"/process/rlimits/{position}: soft is more than hard")
    _scheduler_rules(process.get("scheduler", {}))
    for name, text in process.get("execCPUAffinity", {}).items():
        numbers(text, f"/process/execCPUAffinity/{name}")


def _scheduler_rules(scheduler: Any) -> None:
    policy = scheduler.get("policy")
    if scheduler.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgument(f"/process/scheduler/priority: is for SCHED_FIFO and SCHED_RR, not for {policy}")
    for name in _DEADLINE:
        if scheduler.get(name) and policy != "SCHED_DEADLINE":
            raise InvalidArgument(f"/process/scheduler/{name}: is for SCHED_DEADLINE, not for {policy}")


def numbers(text: str, pointer: str) -> set[int]:
    """The members of a list of CPUs or memory nodes such as "0-3,7"; empty for an empty one. Raises InvalidArgument."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() and len(end) < 5 for end in ends) or int(ends[1]) < int(ends[0]):
            raise InvalidArgument(f"{pointer}: {text!r:.60} is no list of numbers and ranges such as 0-3,7")
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return found


def _namespace_rules(spec: Any) -> None:
    namespaces = spec["linux"].get("namespaces", [])
    _unique((entry["type"] for entry in namespaces), "/linux/namespaces")
    for position, entry in enumerate(namespaces):
        if entry.get("path") and not entry["path"].startswith("/"):
            raise InvalidArgument(f"/linux/namespaces/{position}/path: {entry['path']!r} is no absolute path")
    kinds = {entry["type"] for entry in namespaces}
    if "mount" not in kinds and "user" in kinds:
        raise InvalidArgument("/linux/namespaces: no mount namespace, and with a user namespace the host's is closed")
    for name in ("hostname", "domainname"):
        if spec.get(name) and "uts" not in kinds:
            raise InvalidArgument(f"/{name}: would be the host's; /linux/namespaces has no uts namespace")
        if len(spec.get(name, "").encode()) > _LONGEST_NAME:
            raise InvalidArgument(f"/{name}: longer than the {_LONGEST_NAME} bytes that the kernel takes")


def _unique(values: Iterable[str], pointer: str) -> None:
    seen: set[str] = set()
    for position, value in enumerate(values):
        if value in seen:
            raise InvalidArgument(f"{pointer}/{position}/type: {value} comes twice")
        seen.add(value)


def _mapping_rules(spec: Any) -> None:
    linux = spec["linux"]
    user = next((entry for entry in linux.get("namespaces", ()) if entry["type"] == "user"), None)
    new = user is not None and not user.get("path")
    for name, other in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        if bool(linux.get(name)) == new:
            continue
        if new and not linux.get(other):
            continue  # neither: everybody is mapped to themselves, as in crun
        if new:
            raise InvalidArgument(f"/linux/{name}: missing, though /linux/{other} is there")
        if user is None:
            raise InvalidArgument(f"/linux/{name}: there is no user namespace in /linux/namespaces")
    if new and linux.get("uidMappings"):
        wanted = spec["process"].get("user", {})
        _check_mapping(linux["uidMappings"], "/linux/uidMappings", [("uid", wanted.get("uid", 0))])
        groups = [("gid", wanted.get("gid", 0))]
        groups += [(f"additionalGids/{position}", gid) for position, gid in enumerate(wanted.get("additionalGids", ()))]
        _check_mapping(linux["gidMappings"], "/linux/gidMappings", groups)


def _check_mapping(mappings: Any, pointer: str, wanted: list[tuple[str, int]]) -> None:
    """user_namespaces(7): no id twice, on either side, and all who are to be in there have one."""
    for side in ("containerID", "hostID"):
        ranges = sorted((entry[side], entry[side] + entry["size"], at) for at, entry in enumerate(mappings))
        for first, end, position in ranges:
            if end == first:
                raise InvalidArgument(f"{pointer}/{position}/size: 0 maps nobody")
            if end > len(_ID):
                raise InvalidArgument(f"{pointer}/{position}/size: {side} would go beyond {_ID[-1]}")
        for before, (first, _, position) in enumerate(ranges[1:]):
            if first < ranges[before][1]:
                other = f"{pointer}/{ranges[before][2]}"
                raise InvalidArgument(f"{pointer}/{position}/{side}: {first} is mapped by {other} too")
    inside = [range(entry["containerID"], entry["containerID"] + entry["size"]) for entry in mappings]
    if not any(0 in ids for ids in inside):
        raise InvalidArgument(f"{pointer}: nobody is root, who has to make the container; 0 is not mapped")
    for name, id in wanted:
        if not any(id in ids for ids in inside):
            raise InvalidArgument(f"/process/user/{name}: {id} is not mapped by {pointer}")


# Of kernel.* those that the IPC namespace holds (ipc_namespaces(7)); fs.mqueue.* as well.
IPC_SYSCTLS = tuple(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_UTS_SYSCTLS = ("kernel.hostname", "kernel.domainname")


def _sysctl_rules(spec: Any) -> None:
    kinds = {entry["type"] for entry in spec["linux"].get("namespaces", ())}
    for key, value in spec["linux"].get("sysctl", {}).items():
        pointer = f"/linux/sysctl/{escape(key)}"
        parts = key.replace("/", ".").split(".")
        if "" in parts:
            raise InvalidArgument(f"{pointer}: is no name such as net.ipv4.ip_forward")
        if ".".join(parts) == "kernel.hostname":
            raise InvalidArgument(f"{pointer}: belongs into /hostname")
        if ".".join(parts) == "kernel.domainname" and spec.get("domainname", value) != value:
            raise InvalidArgument(f"{pointer}: is /domainname already")
        needed = _namespace_of(".".join(parts))
        if needed is None:
            raise InvalidArgument(f"{pointer}: belongs to the whole host, not to a namespace")
        if needed not in kinds:
            raise InvalidArgument(f"{pointer}: would be the host's; /linux/namespaces has no {needed} namespace")


def _mount_rules(spec: Any) -> None:
    user = [entry for entry in spec["linux"].get("namespaces", ()) if entry["type"] == "user"]
    container_s = bool(user and (user[0].get("path") or spec["linux"].get("uidMappings")))
    for position, mount in enumerate(spec.get("mounts", ())):
        mapped = [bool(mount.get(name)) for name in ("uidMappings", "gidMappings")]
        if any(mapped) and not all(mapped):
            raise InvalidArgument(f"/mounts/{position}: of uidMappings and gidMappings there is only one")
        if {"idmap", "ridmap"} & set(mount.get("options", ())) and not any(mapped) and not container_s:
            raise InvalidArgument(
                f"/mounts/{position}/uidMappings: missing, and there is no user namespace whose mapping it could be"
            )


def _seccomp_rules(spec: Any) -> None:
    profile = spec["linux"].get("seccomp", {})
    if profile.get("listenerPath"):
        return
    if profile.get("listenerMetadata"):
        raise InvalidArgument("/linux/seccomp/listenerMetadata: there is no listenerPath, so nobody to get it")
    rules = profile.get("syscalls", ())
    actions = [rule.get("action") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    if "SCMP_ACT_NOTIFY" in (*actions, profile.get("defaultAction")):
        raise InvalidArgument("/linux/seccomp/listenerPath: missing, and nobody would answer a SCMP_ACT_NOTIFY")


def _memory_rules(spec: Any) -> None:
    if spec["linux"].get("resources", {}).get("memory", {}).get("useHierarchy") is False:
        raise Unsupported("/linux/resources/memory/useHierarchy: since Linux 5.11 all groups are hierarchical")


def _time_rules(spec: Any) -> None:
    offsets = spec["linux"].get("timeOffsets", {})
    time = next((entry for entry in spec["linux"].get("namespaces", ()) if entry["type"] == "time"), None)
    for clock in offsets:
        if clock not in CLOCKS:
            raise InvalidArgument(f"/linux/timeOffsets/{escape(clock)}: is none of {', '.join(CLOCKS)}")
    if offsets and (time is None or time.get("path")):
        raise InvalidArgument("/linux/timeOffsets: there is no new time namespace in /linux/namespaces")


_LONGEST_INTERFACE = 15  # linux/if.h: IFNAMSIZ, with the null byte


def _device_rules(spec: Any) -> None:
    devices = spec["linux"].get("netDevices", {})
    if devices and "network" not in {entry["type"] for entry in spec["linux"].get("namespaces", ())}:
        raise InvalidArgument("/linux/netDevices: there is no network namespace in /linux/namespaces")
    for name, device in devices.items():
        for wish in (name, device.get("name") or name):
            good = wish.isprintable() and 0 < len(wish.encode()) <= _LONGEST_INTERFACE
            if not good or wish in (".", "..") or set(wish) & set("/: "):
                raise InvalidArgument(f"/linux/netDevices/{escape(name)}: {wish!r:.60} is no interface's name")


def _rdt_rules(spec: Any) -> None:
    rdt = spec["linux"].get("intelRdt", {})
    if "/" in rdt.get("closID", "").removeprefix("/") or rdt.get("closID") in (".", ".."):
        raise InvalidArgument(f"/linux/intelRdt/closID: {rdt['closID']!r:.60} is no name of a class")
    for line in (rdt.get("l3CacheSchema", ""), rdt.get("memBwSchema", ""), *rdt.get("schemata", ())):
        if "\n" in line:
            raise InvalidArgument(f"/linux/intelRdt: {line!r:.60} is more than one line")
    if not rdt.get("memBwSchema", "MB:").startswith("MB:"):
        raise InvalidArgument(f"/linux/intelRdt/memBwSchema: {rdt['memBwSchema']!r:.60} does not begin with MB:")


def _policy_rules(spec: Any) -> None:
    policy = spec["linux"].get("memoryPolicy", {})
    nodes = numbers(policy.get("nodes", ""), "/linux/memoryPolicy/nodes")
    if nodes and policy["mode"] in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        raise InvalidArgument(f"/linux/memoryPolicy/nodes: {policy['mode']} takes none")
    if policy and not nodes and policy["mode"] not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        raise InvalidArgument(f"/linux/memoryPolicy/nodes: {policy['mode']} needs at least one")


def _namespace_of(key: str) -> str | None:
    if key in IPC_SYSCTLS or key.startswith("fs.mqueue."):
        return "ipc"
    if key in _UTS_SYSCTLS:
        return "uts"
    return "network" if key.startswith("net.") else None


def _path_rules(spec: Any) -> None:
    for pointer, path in _absolute_paths(spec):
        if not path.startswith("/"):
            raise InvalidArgument(f"{pointer}: {path!r} is no absolute path")
    if not spec["root"]["path"]:
        raise InvalidArgument("/root/path: empty")


def _absolute_paths(spec: Any) -> Iterator[tuple[str, str]]:
    linux = spec["linux"]
    for name in ("maskedPaths", "readonlyPaths"):
        yield from ((f"/linux/{name}/{position}", path) for position, path in enumerate(linux.get(name, ())))
    for position, device in enumerate(linux.get("devices", ())):
        yield f"/linux/devices/{position}/path", device["path"]
    for kind in HOOKS:
        for position, hook in enumerate(spec.get("hooks", {}).get(kind, ())):
            yield f"/hooks/{kind}/{position}/path", hook["path"]


_RULES = (
    *(_process_rules, _namespace_rules, _mapping_rules, _sysctl_rules, _memory_rules, _path_rules),
    *(_mount_rules, _seccomp_rules, _time_rules, _device_rules, _rdt_rules, _policy_rules),
)
