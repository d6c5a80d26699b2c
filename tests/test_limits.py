"""Every limit of `run`, by its effect on a container: what it gets is measured, inside it or on its cgroup.

The same tests run on a mixed host, and on pure v1 and pure v2 (scripts/vm-test). Bounds are such that a slow or a
busy machine can't break them: a limit's upper bound holds whatever else runs, and CPU time is the cgroup's own.
That the mechanism writes what it is told is shown by test_cgroups.py and test_cgroups_real.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, needs, wait_until

from poc import _fs
from poc.cgroups import Cgroup, host
from poc.cli.container_options import ENGINE_OPTIONS
from poc.engine import recovery
from poc.errors import InvalidArgument, PocError, SetupError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    import poc
    from poc.engine.container import Container
    from poc.engine.results import RunResult

pytestmark = needs("root", "overlay", "program:busybox")

MB = 1 << 20
IN_A_VM = "POC_TEST_VM" in os.environ
needs_io = pytest.mark.skipif(not {"blkio", "io"} & set(host().controllers), reason="needs blkio or io")


def run(engine: poc.Engine, script: str, **options: Any) -> RunResult:
    """A shell script in a container, to its end."""
    return engine.containers.run("busybox", ["sh", "-c", script], network="none", remove=True, **options)  # type: ignore[no-any-return]


def start(engine: poc.Engine, script: str, **options: Any) -> Container:
    """A shell script in a container that runs on; the engine's fixture prunes it."""
    return engine.containers.run("busybox", ["sh", "-c", script], network="none", detach=True, **options)  # type: ignore[no-any-return]


def group(container: Container) -> Cgroup:
    return Cgroup(recovery.cgroup_path(container.id))


def has_swap() -> bool:
    return bool(_fs.read_text("/proc/swaps").splitlines()[1:])


def use(megabytes: int) -> str:
    """Have so much memory, in a process of its own."""
    return f"dd if=/dev/zero of=/dev/null bs={megabytes}M count=1 2>/dev/null"


# CPU

BUSY = "while :; do :; done"


@needs("cgroup:cpu")
@pytest.mark.parametrize("limit", [{"cpus": 0.2}, {"cpu_quota": 10000, "cpu_period": 50000}])
def test_cpu_time_is_bounded_for_all_processes_together(engine: poc.Engine, limit: dict[str, Any]) -> None:
    container = start(engine, f"{BUSY} & {BUSY}", **limit)

    def figures() -> dict[str, int]:
        return group(container).stats()["cpu"]  # type: ignore[no-any-return]

    wait_until(lambda: figures()["throttled_periods"] > 2, 60)
    began, before = time.monotonic(), figures()
    wait_until(lambda: figures()["throttled_periods"] > before["throttled_periods"] + 5, 60)
    time.sleep(1.5)
    used = figures()["usage"] - before["usage"]
    assert 0 < used / 1e9 < 0.3 * (time.monotonic() - began)


@needs("cgroup:cpu", "cgroup:cpuset")
def test_shares_divide_the_cpu_they_meet_on(engine: poc.Engine) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    low, high = (start(engine, BUSY, cpu_shares=shares, cpuset_cpus=cpu) for shares in (512, 2048))

    def used(container: Container) -> int:
        return group(container).stats()["cpu"]["usage"]  # type: ignore[no-any-return]

    before = used(low), used(high)
    wait_until(lambda: used(low) + used(high) - sum(before) > 2e9, 60)
    assert 2.2 < (used(high) - before[1]) / (used(low) - before[0]) < 6.5


@needs("cgroup:cpuset")
def test_cpuset_says_where_it_runs(engine: poc.Engine) -> None:
    last = max(os.sched_getaffinity(0))
    script = "nproc; cut -d' ' -f39 /proc/self/stat; grep -E '^(Cpu|Mem)s_allowed_list' /proc/self/status"
    result = run(engine, script, cpuset_cpus=str(last), cpuset_mems="0")
    assert result.output.split() == ["1", str(last), "Cpus_allowed_list:", str(last), "Mems_allowed_list:", "0"]


@needs("cgroup:cpuset", "cgroup:memory")
@pytest.mark.skipif(not os.path.exists("/sys/devices/system/node/node1"), reason="needs two memory nodes")
@pytest.mark.parametrize("node", [0, 1])
def test_cpuset_mems_says_where_its_memory_comes_from(engine: poc.Engine, node: int) -> None:
    container = start(engine, "dd if=/dev/zero of=/tmp/file bs=1M count=16; sleep 1000", cpuset_mems=str(node))
    file = f"{host().controllers['memory']}/{group(container).path}/memory.numa_stat"

    def cache() -> dict[str, int]:
        words = next(line for line in _fs.read_text(file).splitlines() if line.startswith("file")).split()
        return {name: int(count) for name, _, count in (word.partition("=") for word in words) if name[0] == "N"}

    wait_until(lambda: sum(cache().values()) >= (16 * MB if host().v2("memory") else 16 * MB // 4096), 60)
    there = cache()[f"N{node}"]
    assert there > 0.95 * sum(cache().values())


# Memory


def outcome(result: RunResult) -> tuple[int, bool]:
    return result.exit_code, result.oom_killed


@needs("cgroup:memory")
def test_more_memory_than_the_limit_is_an_oom_kill_and_called_so(engine: poc.Engine) -> None:
    limit = {"mem_limit": "32m", "memswap_limit": "32m"}
    assert outcome(run(engine, use(16), **limit)) == (0, False)
    assert outcome(run(engine, f"exec {use(64)}", **limit)) == (137, True)
    assert outcome(run(engine, f"{use(64)}; echo $? >&2", **limit)) == (0, True), "only a child was killed"
    assert outcome(run(engine, f"exec {use(64)}", init=True, **limit)) == (137, True)
    assert outcome(run(engine, "kill -9 $$; exec sleep 60", init=True, **limit)) == (137, False), (
        "137 for another reason"
    )
    assert outcome(run(engine, f"exec {use(64)}")) == (0, False)


@needs("cgroup:memory")
def test_an_oom_kill_is_in_inspect_from_then_on(engine: poc.Engine) -> None:
    script = f"{use(64)}; echo killed; while [ ! -e /tmp/go ]; do sleep 0.1; done; exec {use(64)}"
    container = start(engine, script, mem_limit="32m", memswap_limit="32m")

    def state() -> list[Any]:
        return [container.attrs["State"][key] for key in ("Running", "OOMKilled", "ExitCode")]

    wait_until(lambda: any(data == b"killed\n" for _, data in container.logs()), 60)
    assert state() == [True, True, 0]
    os.mkdir(f"/proc/{container.attrs['State']['Pid']}/root/tmp/go")
    assert container.wait(timeout=60) == 137
    assert state() == [False, True, 137]
    container.start()
    wait_until(lambda: state()[0], 60)
    container.remove(force=True)


@needs("cgroup:memory")
def test_the_command_line_tells_of_an_oom_kill_in_one_line(cli: CommandLine) -> None:
    def command(script: str) -> tuple[str, str, int]:
        words = ("run", "--rm", "--network", "none", "-m", "32m", "--memory-swap", "32m", "busybox", "sh", "-c", script)
        return cli(*words)

    line = "out of memory: the container reached its limit, and the kernel killed a process of it\n"
    assert command(f"exec {use(64)}") == ("", f"Error: {line}", 137)
    assert command(f"exec 2>/dev/null; {use(64)}; echo went on") == ("went on\n", f"Warning: {line}", 0)
    assert command(use(16)) == ("", "", 0)


@needs("cgroup:memory")
def test_a_start_fits_into_the_least_memory(engine: poc.Engine, cli: CommandLine) -> None:
    """The forked interpreter's own pages must not get the container killed, however large the caller is."""
    ballast = [[number] for number in range(300_000)]
    for turn in range(20):
        assert outcome(run(engine, "true", mem_limit="6m", init=turn % 2 == 1)) == (0, False), turn
    assert len(ballast) == 300_000
    for words in ((), ("--init",), ("-t",), ("-t", "--init")):
        assert cli("run", "--rm", "--network", "none", "--memory", "6m", *words, "busybox", "true") == ("", "", 0)
    with pytest.raises(InvalidArgument, match="the minimum is 6m"):
        run(engine, "true", mem_limit="5m")


@needs("cgroup:memory")
@pytest.mark.parametrize("tty", [False, True])
def test_an_oom_kill_before_the_program_runs_is_an_error_that_says_so(engine: poc.Engine, tty: bool) -> None:
    container = engine.containers.create("busybox", ["true"], network="none", mem_limit="6m", tty=tty)
    path = engine.paths.container(container.id, "config.json")
    spec = _fs.read_json(path)
    spec["linux"]["resources"]["memory"] = {"limit": 256 << 10, "swap": 256 << 10}
    _fs.write_json(path, spec)
    with pytest.raises(SetupError, match="the memory limit is too low: there was an OOM kill before the program ran"):
        engine.containers.get(container.id).start()
    assert container.status == "created"


@needs("cgroup:memory")
def test_limits_hold_at_the_second_start_and_in_a_program_with_threads(engine: poc.Engine) -> None:
    container = engine.containers.create(
        "busybox", ["sh", "-c", f"exec {use(64)}"], network="none", mem_limit="32m", memswap_limit="32m"
    )
    waiting = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    waiting.start()
    for _ in range(2):
        container.start()
        assert container.wait(timeout=60) == 137
        assert container.attrs["State"]["OOMKilled"]


@needs("cgroup:memory")
@pytest.mark.skipif(not has_swap(), reason="needs swap space in use")
@pytest.mark.parametrize(
    ("swap", "fits", "too_much"),
    [("32m", 24, 48), ("96m", 72, 128), (None, 48, 96), ("-1", 128, None)],
    ids=["none", "64m", "as-much-again", "no-limit"],
)
def test_swap_adds_to_memory_what_was_asked(
    engine: poc.Engine, swap: str | None, fits: int, too_much: int | None
) -> None:
    assert outcome(run(engine, f"exec {use(fits)}", mem_limit="32m", memswap_limit=swap)) == (0, False)
    if too_much is not None:
        assert outcome(run(engine, f"exec {use(too_much)}", mem_limit="32m", memswap_limit=swap)) == (137, True)


@needs("cgroup:memory")
@pytest.mark.skipif(not IN_A_VM, reason="needs a machine of its own to run out of memory on")
def test_under_pressure_a_reservation_is_kept_and_what_is_above_goes_first(engine: poc.Engine) -> None:
    """On v1 the kernel reclaims first from those above theirs, on v2 last from those within theirs."""
    fill = "dd if=/dev/zero of=/tmp/file bs=1M count=96; sync; echo; sleep 1000"
    above, within = (start(engine, fill, mem_reservation=reservation) for reservation in ("8m", "160m"))
    for container in (above, within):
        wait_until(lambda container=container: any(container.logs(stderr=False)), 60)  # type: ignore[misc]

    def used(container: Container) -> int:
        return group(container).stats()["memory"]["usage"]  # type: ignore[no-any-return]

    before = used(above), used(within)
    free = int(_fs.read_text("/proc/meminfo").partition("MemFree:")[2].split()[0]) >> 10
    run(engine, f"exec {use(free + 96)}")
    taken, spared = before[0] - used(above), before[1] - used(within)
    assert taken > 8 * MB and spared < taken / 3, (taken, spared)


@needs("cgroup1:memory")
def test_with_oom_kill_disabled_a_process_waits_and_can_be_killed(engine: poc.Engine) -> None:
    # Grown by the shell's own hands: a fault inside a system call would not wait, but end in EFAULT.
    grow = "x=0123456789; while :; do x=$x$x; done"
    container = start(engine, grow, mem_limit="16m", memswap_limit="16m", oom_kill_disable=True)
    control = f"{host().controllers['memory']}/{group(container).path}/memory.oom_control"
    wait_until(lambda: "under_oom 1" in _fs.read_text(control), 60)
    assert (container.status, container.attrs["State"]["OOMKilled"]) == ("running", False)
    container.kill()
    assert container.wait(timeout=60) == 137
    assert not container.attrs["State"]["OOMKilled"]


@needs("cgroup2:memory")
def test_on_v2_oom_kill_can_not_be_disabled(cli: CommandLine) -> None:
    result = cli("run", "--network", "none", "-m", "16m", "--oom-kill-disable", "busybox", "true")
    reason = "memory.disableOOMKiller: cgroup v2 always kills in a group out of memory; only v1 can wait"
    assert result == ("", f"Error: {reason}\n", 125)
    assert cli("ps", "-aq").stdout == ""


# Processes


@needs("cgroup:pids")
def test_a_process_too_many_is_not_started(engine: poc.Engine) -> None:
    script = "sleep 60 & sleep 60 & echo three; sleep 60 & echo four"
    refused = run(engine, script, pids_limit=3)
    assert (refused.output, refused.exit_code) == ("three\n", 2)
    assert b"Resource temporarily unavailable" in refused.stderr
    for limit in (4, -1, 0, None):
        assert run(engine, script, pids_limit=limit).output == "three\nfour\n", limit
    assert run(engine, "sleep 60 & echo two; sleep 60 & echo three", pids_limit=3, init=True).output == "two\n"
    container = start(engine, f"{BUSY} & wait", pids_limit=3)
    assert group(container).stats()["pids"]["limit"] == 3


# Under all of them


@needs("cgroup:cpu", "cgroup:memory", "cgroup:pids")
def test_a_container_comes_up_under_the_tightest_limits(engine: poc.Engine) -> None:
    cpus = 0.05 if IN_A_VM else 0.01  # its processor is emulated
    tight = {"cpus": cpus, "mem_limit": "6m", "memswap_limit": "6m"}
    assert outcome(run(engine, "true", pids_limit=1, **tight)) == (0, False)
    assert outcome(run(engine, "true", pids_limit=2, init=True, **tight)) == (0, False)
    with pytest.raises(InvalidArgument, match="--pids-limit must be 2 or more with --init"):
        run(engine, "true", pids_limit=1, init=True)


# Block devices


class Disk:
    """A loop device of our own, 64 MB: its path, its numbers, and the directory of the host it is mounted on."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "image"
        self.image.write_bytes(os.urandom(MB) * 64)
        command = ["losetup", "--find", "--show", "--direct-io=off", str(self.image)]
        self.path = subprocess.check_output(command, text=True).strip()
        number = os.stat(self.path).st_rdev
        self.number = f"{os.major(number)}:{os.minor(number)}"
        self.mount = str(directory / "mount")

    def format(self) -> None:
        subprocess.check_call(["mke2fs", "-q", "-F", "-t", "ext4", self.path])
        os.mkdir(self.mount)
        subprocess.check_call(["mount", self.path, self.mount])

    def close(self) -> None:
        """Once nobody uses it any more."""
        if os.path.ismount(self.mount):
            subprocess.check_call(["umount", self.mount])
        subprocess.check_call(["losetup", "--detach", self.path])


@pytest.fixture
def disk(tmp_path: Path, engine: poc.Engine) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    try:
        yield disk
    finally:
        engine.prune()
        disk.close()


def seconds(engine: poc.Engine, transfer: str, **options: Any) -> float:
    """How long one command of a privileged container takes, by the clock inside."""
    script = (
        f"read before _ </proc/uptime; {transfer} 2>/dev/null || exit; read after _ </proc/uptime; echo $before $after"
    )
    result = run(engine, script, privileged=True, **options)
    assert result.exit_code == 0
    before, after = map(float, result.output.split())
    return after - before


@needs_io
@needs("program:losetup")
@pytest.mark.parametrize(
    ("option", "rate", "size", "count"),
    [
        ("device_read_bps", "2m", "256k", 12),
        ("device_write_bps", "2mb", "256k", 12),
        ("device_read_iops", "40", "4k", 60),
        ("device_write_iops", "40", "4k", 60),
    ],
)
def test_direct_io_takes_the_time_of_its_rate(
    engine: poc.Engine, disk: Disk, option: str, rate: str, size: str, count: int
) -> None:
    ends = (
        f"if={disk.path} of=/dev/null iflag=direct" if "read" in option else f"if=/dev/zero of={disk.path} oflag=direct"
    )

    def took(blocks: int, **limit: Any) -> float:
        return seconds(engine, f"dd {ends} bs={size} count={blocks}", **limit)

    assert took(count, **{option: [f"{disk.path}:{rate}"]}) > 1.0  # 1.5 s less what it may take at once
    assert took(count * 20) < 20  # at the limit: 30 s


@needs_io
@needs("program:losetup", "program:mke2fs")
def test_buffered_writes_are_throttled_as_the_help_says(engine: poc.Engine, cli: CommandLine, disk: Disk) -> None:
    """On v2 the kernel charges write-back to who wrote; on v1 it is carried out in nobody's name."""
    disk.format()
    option = {"device_write_bps": [{"Path": disk.path, "Rate": MB}], "volumes": [f"{disk.mount}:/mnt"]}
    script = "dd if=/dev/zero of=/mnt/file bs=1M count=24 2>/dev/null; echo; exec sleep 1000"
    container = start(engine, script, **option)
    wait_until(lambda: any(container.logs(stderr=False)), 60)
    began = time.monotonic()
    subprocess.check_call(["sync", "--file-system", disk.mount])
    took = time.monotonic() - began
    if host().v2("io"):
        assert took > 4
    else:
        assert took < 12  # at the limit: 24 s
    helped = " ".join(cli("run", "--help").stdout.split())
    assert "On cgroup v1 the kernel throttles direct I/O only: buffered writes are carried out later" in helped


@needs_io
@needs("program:losetup")
def test_weights_divide_a_disk_that_heeds_them_and_are_refused_elsewhere(
    engine: poc.Engine, cli: CommandLine, disk: Disk
) -> None:
    scheduler = f"/sys/dev/block/{disk.number}/queue/scheduler"
    if not host().fact("bfq"):
        result = cli("run", "--network", "none", "--blkio-weight", "100", "busybox", "true")
        assert (result.stdout, result.exit_code, result.stderr.count("\n")) == ("", 125, 1)
        controller = "io" if host().v2("io") else "blkio"
        assert result.stderr.startswith(
            f"Error: {controller}: {controller}.bfq.weight would have no effect, because no"
        )
        assert cli("ps", "-aq").stdout == ""
    try:
        _fs.write_text(scheduler, "bfq")
    except OSError:
        pytest.skip("needs the bfq I/O scheduler in the kernel")
    # The weights alone decide, also where a reader waits for a CPU.
    for name, value in (("low_latency", "0"), ("strict_guarantees", "1")):
        _fs.write_text(f"{os.path.dirname(scheduler)}/iosched/{name}", value)
    read = f"while :; do dd if={disk.path} of=/dev/null bs=1M iflag=direct 2>/dev/null; done"
    light, heavy = (
        start(engine, f"{read} & {read} & {read} & {read}", blkio_weight=weight, cpu_shares=262144, privileged=True)
        for weight in (10, 1000)
    )

    def bytes_read(container: Container) -> int:
        figures = group(container).stats()["io"]
        return sum(line["read_bytes"] for line in figures if line["device"] == disk.number)

    def ratio() -> float:
        before = bytes_read(light), bytes_read(heavy)
        time.sleep(1)
        wait_until(lambda: bytes_read(light) > before[0] + 8 * MB, 60)
        return (bytes_read(heavy) - before[1]) / (bytes_read(light) - before[0])

    # On a busy machine the readers may not come to ask for more, and then there is nothing to divide; hence the shares,
    # and more than one attempt. Without weights it is about 1.
    wait_until(lambda: ratio() > 2.5, 60)


@needs_io
@needs("program:losetup")
def test_weight_on_one_disk(engine: poc.Engine, disk: Disk) -> None:
    scheduler = f"/sys/dev/block/{disk.number}/queue/scheduler"
    _fs.write_text(scheduler, "none")
    with pytest.raises(Unsupported, match=f"disk {disk.number} does not use the bfq I/O scheduler"):
        start(engine, "true", blkio_weight_device=[f"{disk.path}:300"])
    try:
        _fs.write_text(scheduler, "bfq")
    except OSError:
        pytest.skip("needs the bfq I/O scheduler in the kernel")
    container = start(engine, "sleep 1000", blkio_weight_device=[f"{disk.path}:300"])
    controller, file = ("io", "io.bfq.weight") if host().v2("io") else ("blkio", "blkio.bfq.weight_device")
    text = _fs.read_text(f"{host().controllers[controller]}/{group(container).path}/{file}")
    assert f"{disk.number} 300" in text.splitlines()
    assert container.attrs["HostConfig"]["BlkioWeightDevice"] == [{"Path": disk.path, "Weight": 300}]


# Sizes of file systems


@needs("program:mkfs.ext4")
@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("/dev/shm", {"shm_size": "1m"}),
        ("/mnt", {"tmpfs": ["/mnt:size=1m"]}),
        ("/var", {"storage_opt": {"size": "12m"}}),
    ],
)
def test_the_end_of_a_size_is_enospc(engine: poc.Engine, place: str, option: dict[str, Any]) -> None:
    script = f"dd if=/dev/zero of={place}/file bs=64k count=4 && dd if=/dev/zero of={place}/file bs=64k count=256"
    result = run(engine, script, **option)
    assert result.exit_code == 1 and b"No space left on device" in result.stderr
    assert b"4+0 records out" in result.stderr


# Enforced or refused

V1 = ("cpu_rt_period", "cpu_rt_runtime", "mem_swappiness") if host().mode == "v2" else ()
ACCEPTED: dict[str, Any] = {
    "cpus": "0.5",
    "cpu_quota": "20000",
    "cpu_period": "20000",
    "cpu_shares": "100",
    "cpuset_cpus": "0",
    "cpuset_mems": "0",
    "mem_limit": "64m",
    "memswap_limit": "96m",
    "mem_reservation": "32m",
    "oom_kill_disable": True,
    "pids_limit": "100",
    "blkio_weight": "500",
    "blkio_weight_device": ["/dev/disk:500"],
    "cpu_rt_period": "500000",
    "cpu_rt_runtime": "10000",
    "mem_swappiness": "7",
    **{f"device_{way}_bps": ["/dev/disk:1m"] for way in ("read", "write")},
    **{f"device_{way}_iops": ["/dev/disk:100"] for way in ("read", "write")},
}
COMPANIONS: dict[str, Any] = {"memswap_limit": {"mem_limit": "64m"}, "oom_kill_disable": {"mem_limit": "64m"}}


@needs("program:losetup")
def test_no_limit_is_accepted_and_dropped(engine: poc.Engine, disk: Disk) -> None:
    limits = {option.key for option in ENGINE_OPTIONS[first_limit() :]}
    assert limits == set(ACCEPTED), "a new limit needs its test"
    for key, value in ACCEPTED.items():
        if isinstance(value, list):
            value = [entry.replace("/dev/disk", disk.path) for entry in value]
        others = COMPANIONS.get(key, {})
        try:
            made = engine.containers.create("busybox", ["true"], network="none", **{key: value}, **others)
        except Unsupported as error:
            assert key in ("blkio_weight", "blkio_weight_device", "oom_kill_disable", *V1), error
            continue
        plain = engine.containers.create("busybox", ["true"], network="none", **others)
        assert made.spec()["linux"]["resources"] != plain.spec()["linux"]["resources"], key


def first_limit() -> int:
    """Where the limits begin in the table of options; they are its end."""
    return [option.key for option in ENGINE_OPTIONS].index("cpus")


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"cpus": "0"}, "--cpus: 0 is out of range; it takes 0.01 to"),
    ({"cpus": "4096"}, "--cpus: 4096 is out of range"),
    ({"cpus": "nan"}, "--cpus: nan is out of range"),
    ({"cpus": "half"}, "--cpus: 'half' is not a number"),
    ({"cpus": "1", "cpu_quota": "5000"}, "--cpus and --cpu-quota or --cpu-period exclude each other"),
    ({"cpu_quota": "999"}, "--cpu-quota: 999 is out of range"),
    ({"cpu_period": "2000000"}, "--cpu-period: 2000000 is out of range; it takes 1000 to 1000000"),
    ({"cpu_shares": "1"}, "--cpu-shares: 1 is out of range"),
    ({"cpuset_cpus": "0-4095"}, "cpuset.cpus: 0-4095 asks for a CPU that this host does not have"),
    ({"cpuset_cpus": "first"}, "cpuset: 'first' is no list of numbers"),
    ({"cpuset_mems": "63"}, "cpuset.mems: 63 asks for a memory node that this host does not have"),
    ({"mem_limit": "1k"}, "--memory: the minimum is 6m"),
    ({"mem_limit": "much"}, "--memory: 'much' is not a size"),
    ({"memswap_limit": "64m"}, "--memory-swap needs --memory beside it"),
    ({"mem_limit": "64m", "memswap_limit": "32m"}, "it must not be smaller than --memory"),
    ({"mem_limit": "64m", "mem_reservation": "65m"}, "--memory-reservation must not be larger than --memory"),
    ({"oom_kill_disable": True}, "--oom-kill-disable needs --memory"),
    ({"pids_limit": "few"}, "--pids-limit: 'few' is not a whole number"),
    ({"shm_size": "0"}, "--shm-size: it must be more than 0"),
    ({"blkio_weight": "1001"}, "--blkio-weight: 1001 is out of range; it takes 10 to 1000"),
    ({"device_read_bps": ["/dev/nowhere:1m"]}, "device /dev/nowhere: No such file or directory"),
    ({"device_write_bps": ["/dev/null:1m"]}, "device /dev/null: not a block device"),
    ({"device_read_iops": ["/dev/null"]}, "--device-read-iops: '/dev/null' is not /dev/DEVICE:RATE"),
    ({"device_write_iops": ["/dev/null:0"]}, "--device-write-iops: 0 is out of range"),
)


def test_what_can_not_be_is_refused_with_the_reason_and_nothing_is_left(engine: poc.Engine) -> None:
    for options, reason in REFUSED:
        with refusal(reason):
            engine.containers.create("busybox", ["true"], network="none", **options)
    assert engine.containers.list(all=True) == []


def refusal(reason: str) -> AbstractContextManager[pytest.ExceptionInfo[PocError]]:
    import re

    return pytest.raises(PocError, match=re.escape(reason))


def test_inspect_shows_the_limits(cli: CommandLine) -> None:
    words = ("--cpus", "0.5", "--cpuset-cpus", "0", "-m", "64m", "--memory-reservation", "32m", "--pids-limit", "9")
    identity = cli("create", "--network", "none", *words, "busybox", "true").stdout.strip()
    [attrs] = json.loads(cli("inspect", identity).stdout)
    expected = {"NanoCpus": 500_000_000, "CpuQuota": 0, "CpusetCpus": "0", "Memory": 64 * MB, "MemorySwap": 128 * MB}
    expected |= {"MemoryReservation": 32 * MB, "PidsLimit": 9, "OomKillDisable": False}
    assert {key: attrs["HostConfig"][key] for key in expected} == expected
