"""The plans of poc.cgroups: the files a limit means on v1, on v2 and on a mixed host, and what is refused. No root."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poc.cgroups import Cgroup, Hierarchies, Setting, devices, plan
from poc.cgroups.hierarchies import parse_mountinfo
from poc.cgroups.settings import cpu_weight, io_weight, parse_list
from poc.errors import InvalidArgument, Unsupported

FACTS: dict[str, Any] = {"cpus": "0-3", "mems": "0", "swap": True, "bfq": (), "cost": ()}
V1_NAMES = (
    *("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer"),
    *("net_cls", "net_prio", "hugetlb", "rdma"),
)
V2_NAMES = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")


def v1(**facts: Any) -> Hierarchies:
    return Hierarchies({name: f"/cg/{name}" for name in V1_NAMES}, None, facts=FACTS | facts)


def v2(**facts: Any) -> Hierarchies:
    return Hierarchies({}, "/cg", V2_NAMES, FACTS | facts)


def files(resources: dict[str, Any], hierarchies: Hierarchies) -> list[tuple[str, str]]:
    return [(setting.file, setting.value) for setting in plan(resources, hierarchies)]


# fmt: off
SAME_WISH = [  # OCI resources, what v1 is told, what v2 is told
    ({"cpu": {"quota": 50000, "period": 100000}},
     [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")], [("cpu.max", "50000 100000")]),
    ({"cpu": {"quota": 50000}}, [("cpu.cfs_quota_us", "50000")], [("cpu.max", "50000")]),
    ({"cpu": {"quota": -1, "period": 20000}},
     [("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "-1")], [("cpu.max", "max 20000")]),
    ({"cpu": {"shares": 1024, "burst": 5000, "idle": 1}},
     [("cpu.shares", "1024"), ("cpu.cfs_burst_us", "5000"), ("cpu.idle", "1")],
     [("cpu.weight", "100"), ("cpu.max.burst", "5000"), ("cpu.idle", "1")]),
    ({"cpu": {"cpus": "0,2-3", "mems": "0"}},
     [("cpuset.cpus", "0,2-3"), ("cpuset.mems", "0")], [("cpuset.cpus", "0,2-3"), ("cpuset.mems", "0")]),
    ({"memory": {"limit": 1000, "swap": 3000, "reservation": 500}},
     [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "3000"),
      ("memory.soft_limit_in_bytes", "500")],
     [("memory.max", "1000"), ("memory.swap.max", "2000"), ("memory.low", "500")]),
    ({"memory": {"limit": 1000, "swap": 1000}},
     [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "1000")],
     [("memory.max", "1000"), ("memory.swap.max", "0")]),
    ({"memory": {"limit": 1000, "swap": -1}},
     [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "-1")],
     [("memory.max", "1000"), ("memory.swap.max", "max")]),
    ({"memory": {"limit": -1}},
     [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
     [("memory.max", "max"), ("memory.swap.max", "max")]),
    ({"pids": {"limit": 7}}, [("pids.max", "7")], [("pids.max", "7")]),
    ({"pids": {"limit": 0}}, [("pids.max", "0")], [("pids.max", "0")]),
    ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
    ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 99}],
                  "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5},
                                              {"major": 7, "minor": 0, "rate": 0}]}},
     [("blkio.throttle.read_bps_device", "8:16 99"),
      ("blkio.throttle.write_iops_device", "8:0 5"), ("blkio.throttle.write_iops_device", "7:0 0")],
     [("io.max", "8:16 rbps=99"), ("io.max", "8:0 wiops=5"), ("io.max", "7:0 wiops=max")]),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
     [("hugetlb.2MB.limit_in_bytes", "4194304"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304")],
     [("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")]),
    ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}},
     [("rdma.max", "mlx5_1 hca_handle=3"), ("rdma.max", "mlx5_1 hca_object=10")],
     [("rdma.max", "mlx5_1 hca_handle=3"), ("rdma.max", "mlx5_1 hca_object=10")]),
    ({}, [], []),
    ({"cpu": {}, "memory": {"limit": 0, "swap": 0}, "pids": {"limit": None}, "blockIO": {"weight": 0}}, [], []),
]
# fmt: on


@pytest.mark.parametrize(("resources", "on_v1", "on_v2"), SAME_WISH)
def test_one_wish_on_both_versions(
    resources: dict[str, Any], on_v1: list[tuple[str, str]], on_v2: list[tuple[str, str]]
) -> None:
    assert files(resources, v1()) == on_v1
    assert files(resources, v2()) == on_v2


def test_what_only_one_version_has() -> None:
    memory = {"disableOOMKiller": True, "swappiness": 0, "kernelTCP": 4096}
    assert files(
        {"memory": memory, "network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 2}]}}, v1()
    ) == [
        ("memory.kmem.tcp.limit_in_bytes", "4096"),
        ("memory.oom_control", "1"),
        ("memory.swappiness", "0"),
        ("net_cls.classid", "5"),
        ("net_prio.ifpriomap", "eth0 2"),
    ]
    assert files({"cpu": {"realtimePeriod": 9000, "realtimeRuntime": 800}}, v1()) == [
        ("cpu.rt_period_us", "9000"),
        ("cpu.rt_runtime_us", "800"),
    ]
    assert plan({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2", "cgroup.max.depth": "3"}}, v2()) == [
        Setting("io", "io.max", "8:0 rbps=1"),
        Setting("io", "io.max", "8:16 rbps=2"),
        Setting("cgroup", "cgroup.max.depth", 3),
    ]


def test_a_mixed_host_takes_each_controller_where_it_is() -> None:
    mixed = Hierarchies({"memory": "/cg/memory", "name=systemd": "/cg/systemd"}, "/cg/unified", ("pids", "io"), FACTS)
    assert (mixed.mode, v1().mode, v2().mode) == ("hybrid", "v1", "v2")
    assert mixed.directories() == ["/cg/unified", "/cg/memory", "/cg/systemd"]
    resources = {"memory": {"limit": 5}, "pids": {"limit": 5}, "unified": {"pids.max": "6"}}
    assert [(mixed.controllers[s.controller], s.file) for s in plan(resources, mixed)] == [
        ("/cg/memory", "memory.limit_in_bytes"),
        ("/cg/unified", "pids.max"),
        ("/cg/unified", "pids.max"),
    ]
    with pytest.raises(Unsupported, match=r"unified: memory.high needs the controller memory on cgroup v2"):
        plan({"unified": {"memory.high": "5"}}, mixed)


def test_block_weights_only_where_they_have_an_effect() -> None:
    wish = {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}
    assert files(wish, v1(bfq=("8:0",))) == [("blkio.bfq.weight", "500"), ("blkio.bfq.weight_device", "8:0 10")]
    assert files(wish, v2(bfq=("8:0",))) == [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 10")]
    assert files(wish, v2(cost=("8:0",))) == [("io.weight", "4950"), ("io.weight", "8:0 1")]
    for host in (v1(), v2(), v1(cost=("8:0",))):
        with pytest.raises(Unsupported, match=r"bfq.weight would have no effect, because no disk here uses the bfq"):
            plan(wish, host)
    with pytest.raises(Unsupported, match="because disk 8:0 does not use the bfq"):
        plan(wish, v1(bfq=("7:0",)))


REFUSED_ANYWHERE = [
    ({"cpu": {"shares": 1}}, InvalidArgument, "cpu.shares: 1 is not between 2 and 262144"),
    ({"cpu": {"period": 999}}, InvalidArgument, "cpu.period: 999 is not between"),
    ({"cpu": {"quota": 999}}, InvalidArgument, "cpu.quota: 999 µs is less than 1000"),
    (
        {"cpu": {"cpus": "1-4"}},
        InvalidArgument,
        "cpuset.cpus: 1-4 asks for a CPU that this host does not have; it has 0-3",
    ),
    ({"cpu": {"mems": "1"}}, InvalidArgument, "cpuset.mems: 1 asks for a memory node"),
    ({"cpu": {"cpus": "2-1"}}, InvalidArgument, "ends before it begins"),
    ({"cpu": {"cpus": "0-99999999999999999999"}}, InvalidArgument, "does not have"),
    ({"memory": {"swap": 5}}, InvalidArgument, "needs memory.limit too"),
    ({"memory": {"limit": -1, "swap": 5}}, InvalidArgument, "needs memory.limit too"),
    ({"memory": {"limit": 6, "swap": 5}}, InvalidArgument, "5 is less than memory.limit, 6"),
    ({"memory": {"kernel": 5}}, Unsupported, "memory.kernel: Linux no longer limits"),
    ({"blockIO": {"weight": 9}}, InvalidArgument, "blockIO.weight: 9 is not between 10 and 1000"),
    ({"blockIO": {"leafWeight": 10}}, Unsupported, "blockIO.leafWeight: went with the CFQ scheduler"),
    ({"unified": {"../x.y": "1"}}, InvalidArgument, "is no name of a cgroup v2 file"),
    ({"unified": {"misc.max": "1"}}, Unsupported, "unified: misc.max needs the controller misc"),
]


@pytest.mark.parametrize(("resources", "error", "text"), REFUSED_ANYWHERE)
def test_refused_anywhere(resources: dict[str, Any], error: type[Exception], text: str) -> None:
    for host in (v1(), v2()):
        with pytest.raises(error, match=text):
            plan(resources, host)


def test_refused_where_the_host_lacks_it() -> None:
    for resources, host, text in (
        ({"memory": {"limit": 5, "swap": 5}}, v1(swap=False), "memory.swap: this kernel does not account for swap"),
        ({"memory": {"limit": 5, "swap": 5}}, v2(swap=False), "memory.swap: this kernel does not account for swap"),
        ({"memory": {"disableOOMKiller": True}}, v2(), "memory.disableOOMKiller: cgroup v2 always kills"),
        ({"memory": {"swappiness": 0}}, v2(), "memory.swappiness: on cgroup v2"),
        ({"memory": {"kernelTCP": 5}}, v2(), "memory.kernelTCP: cgroup v2"),
        ({"cpu": {"realtimeRuntime": 5}}, v2(), "cgroup v2 has no real-time budget"),
        ({"network": {"classID": 5}}, v2(), "net_cls: this host has no such cgroup controller"),
        (
            {"pids": {"limit": 5}},
            Hierarchies({}, "/cg", (), FACTS),
            "pids: this host has no such .* /cg/cgroup.controllers",
        ),
        (
            {"pids": {"limit": 5}},
            Hierarchies({}, None, (), FACTS),
            "pids: this host has no such .* /proc/self/mountinfo",
        ),
    ):
        with pytest.raises(Unsupported, match=text):
            plan(resources, host)
    # No limit on swap is what a kernel that does not account for it gives anyway.
    assert files({"memory": {"limit": 5, "swap": -1}}, v1(swap=False)) == [("memory.limit_in_bytes", "5")]
    with pytest.raises(InvalidArgument, match=r"memory.swappiness: 101 is not between 0 and 100"):
        plan({"memory": {"swappiness": 101}}, v1())


def test_conversions_keep_ends_default_and_order() -> None:
    assert [cpu_weight(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    assert [io_weight(weight) for weight in (10, 1000)] == [1, 10000]
    weights = [cpu_weight(1 << n) for n in range(1, 19)]
    assert weights == sorted(weights) and len(set(weights)) == 18


@given(st.sets(st.integers(0, 300), min_size=1))
def test_list_of_cpus_is_read_back(numbers: set[int]) -> None:
    ranges = parse_list(",".join(map(str, sorted(numbers, reverse=True))))
    assert {n for first, last in ranges for n in range(first, last + 1)} == numbers
    assert parse_list(",".join(f"{first}-{last}" for first, last in ranges)) == ranges


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "1--2", "1,,2", "٣", "1.5", "0x1"])
def test_no_list_of_cpus(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no list"):
        parse_list(text)


# A mixed host with co-mounted controllers, a hierarchy mounted twice (first a part of it, as in a container), a
# named one, a space in a path, options that are no controllers, and other file systems.
MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
25 22 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
28 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct
29 25 0:27 /docker/1f /mnt/part rw - cgroup cgroup rw,memory
30 25 0:27 / /sys/fs/cgroup/a\040b rw - cgroup cgroup rw,memory
31 25 0:28 /docker/1f /sys/fs/cgroup/pids rw - cgroup cgroup rw,clone_children,favordynmods,pids
"""


def test_mounts_of_all_shapes_are_found() -> None:
    assert parse_mountinfo(MOUNTINFO.strip()) == (
        {
            "name=systemd": "/sys/fs/cgroup/systemd",
            "cpu": "/sys/fs/cgroup/cpu,cpuacct",
            "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
            "memory": "/sys/fs/cgroup/a b",
            "pids": "/sys/fs/cgroup/pids",
        },
        "/sys/fs/cgroup/unified",
    )


@pytest.mark.parametrize("path", ["", "/", "..", "poc/../x", "poc//x", "poc/./x", "../poc"])
def test_no_path_of_a_group(path: str) -> None:
    with pytest.raises(InvalidArgument, match="is no path below the root"):
        Cgroup(path, v2())


DENY_ALL: dict[str, Any] = {"allow": False, "access": "rwm"}
ALLOW_ALL: dict[str, Any] = {"allow": True, "type": "a", "access": "rwm"}
NULL: dict[str, Any] = {"type": "c", "major": 1, "minor": 3}


def test_device_rules_are_folded_in_order() -> None:
    rules = [
        {"allow": True, **NULL, "access": "rw"},  # forgotten: the next one starts anew
        DENY_ALL,
        {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rwm"},
        {"allow": True, "access": "m"},
        {"allow": True, **NULL, "access": "wr"},
        {"allow": True, **NULL, "access": "m"},
        {"allow": False, **NULL, "access": "w"},
        {"allow": True, "type": "b", "major": 8, "minor": 0},
        {"allow": False, "type": "b", "major": 8, "access": "rw"},
    ]
    default, exceptions = devices.fold(rules)
    assert devices.lines(default, exceptions) == [
        ("devices.deny", ["a"]),
        ("devices.allow", ["c 136:* rwm", "b *:* m", "c *:* m", "c 1:3 rm", "b 8:0 m"]),
    ]
    banned = devices.fold([ALLOW_ALL, {"allow": False, **NULL, "access": "w"}])
    assert devices.lines(*banned) == [("devices.allow", ["a"]), ("devices.deny", ["c 1:3 w"])]
    assert devices.fold([]) == (True, {})


def test_device_rules_that_cannot_be_said() -> None:
    for rule, text in (
        ({"allow": False, **NULL, "access": "w"}, r"c 1:3 w contradicts a part of that on c 1:\* rw"),
        ({"allow": True, **NULL, "access": "rx"}, "'rx' is no access"),
        ({"allow": True, "type": "p"}, "'p' is no type of device"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            devices.fold([DENY_ALL, {"allow": True, "type": "c", "major": 1, "access": "rw"}, rule])


def run(program: bytes, kind: str, access: str, major: int, minor: int) -> bool:
    """The eBPF program's verdict, from an interpreter of the ten instructions it is made of."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = struct.pack("=III", bits << 16 | {"b": 1, "c": 2}[kind], major, minor)
    register = [0] * 11
    position = 0
    while True:
        code, registers, offset, value = struct.unpack_from("<BBhi", program, position * 8)
        to, source = registers & 15, registers >> 4
        position += 1
        match code:
            case 0x61:
                assert source == 1
                (register[to],) = struct.unpack_from("=I", context, offset)
            case 0xB4:
                register[to] = value
            case 0xBC:
                register[to] = register[source]
            case 0x54:
                register[to] &= value
            case 0x74:
                register[to] >>= value
            case 0x16:
                position += offset if register[to] == value else 0
            case 0x56:
                position += offset if register[to] != value else 0
            case 0x5E:
                position += offset if register[to] != register[source] else 0
            case 0x95:
                return bool(register[0])
            case _:
                raise AssertionError(f"instruction {code:#x}")


accesses = st.sets(st.sampled_from("rwm"), min_size=1).map("".join)
rules = st.fixed_dictionaries(
    {"allow": st.booleans(), "type": st.sampled_from("abc"), "access": accesses},
    optional={"major": st.integers(-1, 2), "minor": st.integers(-1, 2)},
)


@given(st.lists(rules, max_size=8), st.sampled_from("bc"), accesses, st.integers(0, 2), st.integers(0, 2))
def test_the_program_says_what_the_last_matching_rule_says(
    rules: list[dict[str, Any]], kind: str, access: str, major: int, minor: int
) -> None:
    try:
        default, exceptions = devices.fold(rules)
    except InvalidArgument:
        return
    allowed = dict.fromkeys("rwm", True)
    for rule in rules:
        if (
            rule["type"] in ("a", kind)
            and rule.get("major", -1) in (-1, major)
            and rule.get("minor", -1) in (-1, minor)
        ):
            allowed.update(dict.fromkeys(rule["access"], rule["allow"]))
    expected = all(allowed[letter] for letter in access)
    assert run(devices.program(default, exceptions), kind, access, major, minor) == expected
