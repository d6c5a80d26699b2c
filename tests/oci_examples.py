"""A plain config.json, and small additions to it that between them use every property that the specification knows.

What `docs/oci.md` says of a property is tried on them, and what `hypothesis` mutates begins with them.
"""

from __future__ import annotations

import copy
from typing import Any

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BASE: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "hostname": "bundle",
    "process": {"cwd": "/", "args": ["true"], "env": [PATH], "user": {"uid": 0, "gid": 0}},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
    ],
    "linux": {
        "cgroupsPath": "/poc-example",
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "mount", "uts", "network", "cgroup")],
    },
}
_MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
_HOOK = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 5}
_ALL = ("bounding", "effective", "inheritable", "permitted", "ambient")
_RATE = [{"major": 7, "minor": 0, "rate": 1 << 20}]


def _linux(**properties: Any) -> dict[str, Any]:
    return {"linux": properties}


def _resources(**controllers: Any) -> dict[str, Any]:
    return _linux(resources=controllers)


def _process(**properties: Any) -> dict[str, Any]:
    return {"process": properties}


# Each is laid over `BASE` by `merge`. What this host lacks, or poc refuses, stands alone.
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"ociVersion": "1.0.2", "root": {"readonly": True}, "annotations": {"org.example": "value"}, "domainname": "local"},
    {"mounts": [{"destination": "/mnt", "type": "none", "source": "/usr", "options": ["rbind", "rro", "rslave"]}]},
    {"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}]},
    {"mounts": [{"destination": "/home", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "size=64k"]}]},
    {
        "mounts": [
            {
                **{"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["idmap"]},
                **{"uidMappings": _MAPPING, "gidMappings": _MAPPING},
            }
        ]
    },
    _process(terminal=True, consoleSize={"height": 24, "width": 80}),
    _process(cwd="/tmp", user={"uid": 1000, "gid": 50, "umask": 0o77, "additionalGids": [5, 6], "username": "me"}),
    _process(rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 1 << 20}], oomScoreAdj=100),
    _process(capabilities={name: ["CAP_CHOWN", "CAP_SYS_ADMIN"] for name in _ALL}, noNewPrivileges=True),
    _process(commandLine="true"),
    _process(apparmorProfile="poc-no-such-profile"),
    _process(selinuxLabel="system_u:system_r:container_t:s0"),
    _process(scheduler={"policy": "SCHED_BATCH", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    _process(scheduler={"policy": "SCHED_FIFO", "priority": 1}),
    _process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1 << 20, "deadline": 1 << 24, "period": 1 << 25}),
    _process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 4}),
    _process(execCPUAffinity={"initial": "0", "final": "0"}),
    *({"hooks": {kind: [_HOOK]}} for kind in ("prestart", "createRuntime", "createContainer", "startContainer")),
    {"hooks": {"poststart": [_HOOK], "poststop": [_HOOK]}},
    _linux(namespaces=[{"type": "user"}], uidMappings=_MAPPING, gidMappings=_MAPPING, devices=[]),
    _linux(namespaces=[{"type": "time", "path": "/proc/self/ns/time"}]),
    _linux(namespaces=[{"type": "time"}], timeOffsets={"boottime": {"secs": 1, "nanosecs": 2}}),
    _linux(namespaces=[{"type": "time"}], timeOffsets={"monotonic": {"secs": 1, "nanosecs": 2}}),
    _linux(
        devices=[{"path": "/dev/a", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3, "gid": 4}],
        maskedPaths=["/proc/interrupts", "/proc/bus"],
        readonlyPaths=["/proc/sys"],
        rootfsPropagation="slave",
        sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"},
    ),
    _linux(netDevices={"nosuch0": {"name": "eth0"}}),
    _linux(intelRdt={"closID": "guaranteed", "l3CacheSchema": "L3:0=f"}),
    _linux(intelRdt={"memBwSchema": "MB:0=20", "schemata": ["L3:0=f"], "enableMonitoring": True}),
    _linux(intelRdt={"enableCMT": True}),
    _linux(intelRdt={"enableMBM": True}),
    _linux(mountLabel="system_u:object_r:container_file_t:s0"),
    _linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
    _linux(personality={"domain": "LINUX32"}),
    _linux(personality={"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
    _linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["acct", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_KILL_PROCESS",
                    "args": [{"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}],
                },
            ],
        }
    ),
    _linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
        }
    ),
    _linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/no/such/agent",
            "listenerMetadata": "x",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}],
        }
    ),
    _resources(devices=[{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}]),
    _resources(memory={"limit": 1 << 28, "reservation": 1 << 27}, pids={"limit": 100}),
    _resources(memory={"limit": 1 << 28, "swap": 1 << 29}),
    _resources(memory={"limit": 1 << 28, "kernelTCP": 1 << 26, "swappiness": 50}),
    _resources(memory={"limit": 1 << 28, "disableOOMKiller": True}),
    _resources(memory={"kernel": 1 << 28}),
    _resources(memory={"useHierarchy": False}),
    _resources(memory={"limit": 1 << 28, "checkBeforeUpdate": True}),
    _resources(cpu={"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0", "mems": "0"}),
    _resources(cpu={"idle": 1}),
    _resources(cpu={"realtimeRuntime": 1000, "realtimePeriod": 1000000}),
    _resources(blockIO={"weight": 100, "weightDevice": [{"major": 7, "minor": 0, "weight": 100}]}),
    _resources(blockIO={"weightDevice": [{"major": 7, "minor": 0, "weight": 100}]}),
    _resources(blockIO={"leafWeight": 100}),
    _resources(blockIO={"weightDevice": [{"major": 7, "minor": 0, "leafWeight": 100}]}),
    _resources(blockIO={"throttleReadBpsDevice": _RATE, "throttleWriteBpsDevice": _RATE}),
    _resources(blockIO={"throttleReadIOPSDevice": _RATE, "throttleWriteIOPSDevice": _RATE}),
    _resources(hugepageLimits=[{"pageSize": "2MB", "limit": 1 << 21}]),
    _resources(network={"classID": 0x100001, "priorities": [{"name": "lo", "priority": 5}]}),
    _resources(rdma={"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10}}),
    _resources(unified={"cgroup.max.descendants": "10"}),
    {"solaris": {"milestone": "x"}},
    {"windows": {"layerFolders": ["x"]}},
    {"vm": {"kernel": {"path": "/x"}}},
    {"zos": {"namespaces": []}},
    {"freebsd": {"jail": {"parent": "x"}}},
)


def merge(addition: Any, base: Any = BASE) -> Any:
    """``addition`` laid over ``base``: objects property by property, arrays of objects one after the other."""
    if isinstance(base, dict) and isinstance(addition, dict):
        both = {name: merge(addition[name], base[name]) for name in base.keys() & addition.keys()}
        return copy.deepcopy({**base, **addition, **both})
    if isinstance(base, list) and base and isinstance(base[0], dict):
        return copy.deepcopy([*base, *addition])
    return copy.deepcopy(addition)
