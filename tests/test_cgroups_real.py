"""The limits of poc.cgroups on this machine's kernel, each by its effect on processes that are started for it.

The same tests run on a mixed host, and on pure v1 and pure v2 (scripts/vm-test); what a limit needs is said by
`needs`. Bounds are such that a slow or a busy machine can't break them: CPU time, not time on the wall.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import stat
import statistics
import subprocess
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest
from conftest import needs, wait_until

from poc import _fs, _libc, namespaces
from poc.cgroups import Cgroup, host
from poc.errors import Conflict, InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

pytestmark = needs("root")

MB = 1 << 20
PARENT = f"poc-test-{os.getpid()}"
serial = count()


@pytest.fixture
def group() -> Iterator[Cgroup]:
    with Cgroup(f"{PARENT}/{next(serial)}") as group:
        yield group


@pytest.fixture
def other() -> Iterator[Cgroup]:
    with Cgroup(f"{PARENT}/{next(serial)}") as group:
        yield group


class Inside:
    """A forked child that joined ``group``; it waits for `go`, calls ``work`` and sends what that returns as JSON."""

    def __init__(self, group: Cgroup, work: Callable[[], Any], go: bool = True) -> None:
        self._report, report = os.pipe()
        gate, self._gate = os.pipe()
        self.exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            status = 1
            try:
                group.join()
                os.write(report, b"\n")
                os.read(gate, 1)
                os.write(report, json.dumps(work()).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(report)
        os.close(gate)
        os.read(self._report, 1)
        if go:
            self.go()

    def go(self) -> None:
        os.write(self._gate, b"x")

    def result(self) -> Any:
        """What it returned. Fails when it died instead."""
        text = _fs.read_all(self._report)
        assert self.wait() == 0
        return json.loads(text)

    def wait(self) -> int:
        """Its exit status, negative for a signal."""
        if self.exit_code is None:
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._report)
            os.close(self._gate)
        return self.exit_code

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


@contextmanager
def inside(group: Cgroup, work: Callable[[], Any], go: bool = True) -> Iterator[Inside]:
    """An `Inside` that does not outlive the block."""
    process = Inside(group, work, go)
    try:
        yield process
    finally:
        if process.exit_code is None:
            process.kill()


def call(group: Cgroup, work: Callable[[], Any]) -> Any:
    with inside(group, work) as process:
        return process.result()


def cpu_seconds(pid: int | str = "self") -> float:
    """CPU time of a process, to the nanosecond."""
    return int(_fs.read_text(f"/proc/{pid}/schedstat").split()[0]) / 1e9


def burn(cpu_limit: float = 1e9, wall_limit: float = 1e9) -> float:
    """Use the CPU until either limit; how much of a CPU it got."""
    start, used = time.monotonic(), cpu_seconds()
    while (spent := cpu_seconds() - used) < cpu_limit and time.monotonic() - start < wall_limit:
        for _ in range(2000):
            pass
    return spent / (time.monotonic() - start)


def touch(megabytes: int, then: Callable[[], Any] = int) -> Any:
    """Have and use so much memory while ``then`` is called."""
    with mmap.mmap(-1, megabytes * MB) as memory:
        for position in range(0, len(memory), mmap.PAGESIZE):
            memory[position] = 1
        return then()


def groups_of(pid: int) -> set[str]:
    """The group in each hierarchy that we use."""
    lines = _fs.read_text(f"/proc/{pid}/cgroup").splitlines()
    ours = {*host().controllers, *([""] if host().unified else [])}
    return {path for _, names, path in (line.split(":", 2) for line in lines) if ours & set(names.split(","))}


# Being in


def test_a_process_is_in_every_hierarchy_by_add_join_and_birth(group: Cgroup) -> None:
    assert group.exists() and group.pids() == []
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        group.add(sleeper.pid)
        assert groups_of(sleeper.pid) == {f"/{group.path}"}
        assert group.pids() == [sleeper.pid]
        sleeper.kill()
    assert call(group, lambda: sorted(groups_of(os.getpid()))) == [f"/{group.path}"]
    fd = group.fd()
    assert (fd is None) == (host().unified is None)
    if fd is not None:
        child = namespaces.clone([], lambda: _fs.read_text("/proc/self/cgroup").endswith(f"0::/{group.path}"), fd)
        os.close(fd)
        assert child.wait() == 1
    group.remove()
    group.remove()
    assert not group.exists() and group.pids() == [] and group.oom_kills() == 0 and not group.frozen()


def test_all_threads_of_a_process_are_added(group: Cgroup) -> None:
    program = "import threading,time\nthreading.Thread(target=time.sleep,args=(60,)).start()\nprint(flush=True)"
    with subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        group.add(process.pid)
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            assert groups_of(int(thread)) == {f"/{group.path}"}
        process.kill()


def test_a_cgroup_namespace_made_after_joining_has_the_group_as_its_root(group: Cgroup) -> None:
    def work() -> list[str]:
        _libc.unshare(namespaces.FLAGS["cgroup"])
        return sorted(groups_of(os.getpid()))

    assert call(group, work) == ["/"]


@needs("cgroup:pids")
def test_a_context_kills_and_removes_all_it_holds() -> None:
    group = Cgroup(f"{PARENT}/a/b", resources={"pids": {"limit": 50}})
    below = Cgroup(f"{group.path}/c")
    with group:
        below.create()
        process = Inside(below, signal.pause)
        assert group.pids() == [process.pid]
        assert group.stats()["pids"] == {"current": 1, "limit": 50}
    assert process.wait() == -signal.SIGKILL
    assert not group.exists() and not Cgroup(PARENT).exists()
    with pytest.raises(InvalidArgument), Cgroup(f"{PARENT}/a", resources={"cpu": {"cpus": "4096"}}):
        pass
    assert not Cgroup(PARENT).exists()


@needs("cgroup:memory", "cgroup:cpu")
@pytest.mark.parametrize("path", [f"{PARENT}-top", f"{PARENT}/below"])
def test_without_any_limit_all_use_is_counted(path: str) -> None:
    with Cgroup(path) as group:
        assert call(group, lambda: touch(4, lambda: group.stats()["memory"]["usage"] > 4 * MB))
        have = {name if name != "blkio" else "io" for name in host().controllers} & {"cpu", "io", "memory", "pids"}
        assert set(group.stats()) == have
        assert group.stats()["cpu"]["usage"] > 0


def test_kill_is_not_for_oneself_and_remove_not_for_the_living(group: Cgroup) -> None:
    def work() -> str:
        with pytest.raises(Conflict, match="the calling process is in this cgroup itself") as caught:
            group.kill()
        return str(caught.value)

    assert call(group, work)
    with inside(group, signal.pause) as process:
        assert group.pids() == [process.pid]
        with pytest.raises(OSError, match=f"still in use by the processes {process.pid}") as caught:
            group.remove()
        assert caught.value.errno == errno.EBUSY


def test_makers_and_removers_of_one_parent_do_not_trip_over_each_other() -> None:
    def work(name: str) -> int:
        for turn in range(60):
            group = Cgroup(f"{PARENT}/race/{name}{turn % 3}")
            group.create()
            group.apply({"memory": {"limit": 64 * MB}, "pids": {"limit": 10}})
            group.remove(parents=True)
        return 0

    children = []
    for name in "abcd":
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = work(name)
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert not Cgroup(PARENT).exists()


# CPU


@needs("cgroup:cpu")
def test_quota_bounds_cpu_time(group: Cgroup) -> None:
    group.apply({"cpu": {"quota": 4000, "period": 20000}})
    assert call(group, lambda: burn(wall_limit=1.5)) < 0.3
    figures = group.stats()["cpu"]
    assert figures["throttled_periods"] > 5 and figures["throttled"] > 0 and 0 < figures["usage"] < 0.6e9
    group.apply({"cpu": {"quota": -1, "period": 20000}})
    before = group.stats()["cpu"]["throttled_periods"]
    call(group, lambda: burn(cpu_limit=0.3))
    assert group.stats()["cpu"]["throttled_periods"] == before


@needs("cgroup:cpu")
def test_shares_divide_one_cpu(group: Cgroup, other: Cgroup) -> None:
    group.apply({"cpu": {"shares": 512}})
    other.apply({"cpu": {"shares": 2048}})

    def work() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        burn()

    with inside(group, work, go=False) as low, inside(other, work, go=False) as high:
        low.go()
        high.go()
        wait_until(lambda: cpu_seconds(low.pid) > 0.05 and cpu_seconds(high.pid) > 0.05)
        before = cpu_seconds(low.pid), cpu_seconds(high.pid)
        wait_until(lambda: cpu_seconds(low.pid) + cpu_seconds(high.pid) - sum(before) > 1.5, 60)
        ratio = (cpu_seconds(high.pid) - before[1]) / (cpu_seconds(low.pid) - before[0])
    assert 2.5 < ratio < 6.5


@needs("cgroup:cpuset")
def test_cpuset_says_where_it_runs(group: Cgroup) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    last = cpus[-1]
    group.apply({"cpu": {"cpus": str(last), "mems": "0"}})

    def work() -> tuple[list[int], str]:
        burn(cpu_limit=0.05)
        fields = _fs.read_text("/proc/self/stat").rpartition(")")[2].split()
        memory = next(line for line in _fs.read_text("/proc/self/status").splitlines() if "Mems_allowed_list" in line)
        return [*os.sched_getaffinity(0), int(fields[36])], memory.split()[1]

    assert call(group, work) == [[last, last], "0"]
    with pytest.raises(InvalidArgument, match=f"cpuset.cpus: {last},9999 asks for a CPU that this host does not have"):
        group.apply({"cpu": {"cpus": f"{last},9999"}})


@needs("cgroup1:cpu")
def test_realtime_budget_of_a_parent_without_one_is_refused_with_the_reason(group: Cgroup) -> None:
    with pytest.raises((InvalidArgument, Unsupported), match=r"cpu\.rt_(runtime|period)_us"):
        group.apply({"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 950_000}})


# Memory


@needs("cgroup:memory")
def test_more_memory_than_the_limit_is_an_oom_kill_and_counted(group: Cgroup) -> None:
    limit = 32 * MB
    group.apply({"memory": {"limit": limit, **({"swap": limit} if host().fact("swap") else {})}})
    assert call(group, lambda: touch(16)) == 0
    assert group.oom_kills() == 0
    with inside(group, lambda: touch(64)) as process:
        assert process.wait() == -signal.SIGKILL
    assert group.oom_kills() == 1
    figures = group.stats()["memory"]
    assert figures["limit"] == limit and figures["oom_kills"] == 1 and figures["usage"] < limit


@needs("cgroup:memory")
def test_memory_limits_are_raised_and_lowered_whatever_stood_before(group: Cgroup) -> None:
    if not host().fact("swap"):
        pytest.skip("needs swap accounting")
    v2 = host().v2("memory")
    for limit, swap in ((64, 128), (256, 512), (16, 16), (128, -1), (-1, 0), (8, 32)):
        in_bytes = [value * MB if value > 0 else value for value in (limit, swap)]
        group.apply({"memory": {"limit": in_bytes[0], "swap": in_bytes[1]}})
        figures = group.stats()["memory"]
        assert figures["limit"] == (in_bytes[0] if limit > 0 else None)
        directory = f"{host().controllers['memory']}/{group.path}"
        if v2:
            expected = str(in_bytes[1] - in_bytes[0]) if swap > 0 else "max"
            assert _fs.read_text(f"{directory}/memory.swap.max") == expected
        elif swap > 0:
            assert _fs.read_text(f"{directory}/memory.memsw.limit_in_bytes") == str(in_bytes[1])
        else:
            assert int(_fs.read_text(f"{directory}/memory.memsw.limit_in_bytes")) > 1 << 60


@needs("cgroup1:memory")
def test_less_memory_than_is_in_use_is_a_conflict(group: Cgroup) -> None:
    with inside(group, lambda: touch(40, signal.pause)):
        wait_until(lambda: group.stats()["memory"]["usage"] > 40 * MB)
        with pytest.raises(Conflict, match=r"memory\..*limit_in_bytes: 4194304 is less than the group uses now"):
            group.apply({"memory": {"limit": 4 * MB, "swap": 4 * MB}})


def has_swap() -> bool:
    return bool(_fs.read_text("/proc/swaps").splitlines()[1:])


@needs("cgroup:memory")
@pytest.mark.skipif(not has_swap(), reason="needs swap space in use")
def test_swap_limit_bounds_what_is_swapped(group: Cgroup) -> None:
    group.apply({"memory": {"limit": 32 * MB, "swap": 96 * MB}})
    assert call(group, lambda: touch(72, lambda: group.stats()["memory"]["swap"])) > 30 * MB
    assert group.oom_kills() == 0
    group.apply({"memory": {"limit": 32 * MB, "swap": 48 * MB}})
    with inside(group, lambda: touch(72)) as process:
        assert process.wait() == -signal.SIGKILL
    assert group.oom_kills() == 1


@needs("cgroup1:memory")
def test_without_oom_killer_the_process_waits_and_can_be_killed(group: Cgroup) -> None:
    group.apply({"memory": {"limit": 16 * MB, "swap": 16 * MB, "disableOOMKiller": True}})
    with inside(group, lambda: touch(64)) as process:
        control = f"{host().controllers['memory']}/{group.path}/memory.oom_control"
        wait_until(lambda: "under_oom 1" in _fs.read_text(control))
        assert not process.has_ended() and group.oom_kills() == 0
        group.kill()
        assert process.wait() == -signal.SIGKILL


@needs("cgroup2:memory")
def test_on_v2_the_oom_killer_cannot_be_switched_off(group: Cgroup) -> None:
    with pytest.raises(Unsupported, match=r"memory\.disableOOMKiller"):
        group.apply({"memory": {"limit": 16 * MB, "disableOOMKiller": True}})


def fill_cache(path: str, megabytes: int) -> None:
    """Have a file of this size in the page cache, on this group's account."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(megabytes):
        os.write(fd, bytes(MB))
    os.fsync(fd)
    os.close(fd)


@needs("cgroup2:memory")
def test_reservation_keeps_memory_from_a_neighbour_under_pressure(tmp_path: Path) -> None:
    """On v2 it is a protection (memory.low): the parent's limit presses, the neighbour has to give."""
    with Cgroup(f"{PARENT}/low/a") as kept, Cgroup(f"{PARENT}/low/b") as pressed:
        Cgroup(f"{PARENT}/low").apply({"memory": {"limit": 96 * MB}})
        kept.apply({"memory": {"reservation": 64 * MB}})
        call(kept, lambda: fill_cache(f"{tmp_path}/kept", 48))
        call(pressed, lambda: fill_cache(f"{tmp_path}/pressed", 128))
        assert kept.stats()["memory"]["usage"] > 44 * MB
        kept.apply({"memory": {"reservation": 1}})
        call(pressed, lambda: fill_cache(f"{tmp_path}/pressed", 128))
        assert kept.stats()["memory"]["usage"] < 36 * MB


@needs("cgroup:memory")
@pytest.mark.skipif("POC_TEST_VM" not in os.environ, reason="needs a machine of its own to run out of memory on")
def test_reservation_counts_when_the_whole_machine_runs_short(tmp_path: Path, group: Cgroup, other: Cgroup) -> None:
    """On v1 who is above it gives first, on v2 who is not below it."""
    v2 = host().v2("memory")
    group.apply({"memory": {"reservation": 72 * MB if v2 else 8 * MB}})
    call(group, lambda: fill_cache(f"{tmp_path}/one", 96))
    call(other, lambda: fill_cache(f"{tmp_path}/two", 96))
    available = int(_fs.read_text("/proc/meminfo").partition("MemFree:")[2].split()[0]) >> 10
    with Cgroup(f"{PARENT}/hog") as hog:
        call(hog, lambda: touch(available + 96))
    usage, others = group.stats()["memory"]["usage"], other.stats()["memory"]["usage"]
    print(usage >> 20, others >> 20)
    assert usage > others + 32 * MB if v2 else usage < others - 32 * MB


@contextmanager
def kernel_value(path: str, value: str) -> Iterator[None]:
    """A setting of the whole machine, put back afterwards."""
    before = _fs.read_text(path)
    _fs.write_text(path, value)
    try:
        yield
    finally:
        _fs.write_text(path, before)


@contextmanager
def enabled_as_before(controller: str) -> Iterator[None]:
    """What a limit on v2 enables at the root stays enabled; here it is switched off again."""
    path = f"{host().unified}/cgroup.subtree_control"
    was = not host().v2(controller) or controller in _fs.read_text(path).split()
    yield
    if not was:
        _fs.write_text(path, f"-{controller}")


@needs("cgroup:hugetlb")
def test_huge_pages_beyond_the_limit_are_enomem() -> None:
    def work(pages: int) -> int:
        try:
            with mmap.mmap(-1, pages * 2 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000) as memory:
                memory[0] = 1
        except OSError as error:
            return error.errno or -1
        return 0

    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    more = kernel_value(pool, str(int(_fs.read_text(pool)) + 4))
    with more, enabled_as_before("hugetlb"), Cgroup(f"{PARENT}/huge") as group:
        assert call(group, lambda: [work(1), work(3)]) == [0, 0]
        group.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MB}]})
        assert call(group, lambda: [work(1), work(2), work(3)]) == [0, 0, errno.ENOMEM]
        with pytest.raises(Unsupported, match=r"hugetlb: can't set hugetlb.3MB.*this kernel has no such file"):
            group.apply({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]})


# Processes


@needs("cgroup:pids")
def test_one_process_too_many_is_eagain(group: Cgroup) -> None:
    group.apply({"pids": {"limit": 3}})

    def work() -> list[int]:
        children = []
        try:
            for _ in range(5):
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except OSError as error:
            return [len(children), error.errno or -1]
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return [len(children), 0]

    assert call(group, work) == [2, errno.EAGAIN]
    group.apply({"pids": {"limit": -1}})
    assert call(group, work) == [5, 0]


def fork_bomb() -> None:
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


@needs("cgroup:pids")
def test_a_fork_bomb_is_killed_to_the_last(group: Cgroup) -> None:
    group.apply({"pids": {"limit": 40}})
    with inside(group, fork_bomb) as process:
        wait_until(lambda: len(group.pids()) >= 30)
        group.kill()
        assert group.pids() == []
        assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(not host().v1(), reason="needs a cgroup v1 hierarchy")
def test_who_is_in_only_one_hierarchy_is_killed_too(group: Cgroup) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        _fs.write_text(f"{host().v1()[-1]}/{group.path}/cgroup.procs", str(sleeper.pid))
        group.kill()
        assert sleeper.wait() == -signal.SIGKILL


def test_frozen_it_stands_still_and_can_be_killed(group: Cgroup) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:

        def work() -> None:
            while True:
                page[0] = (page[0] + 1) % 256

        def moves() -> bool:
            before = cpu_seconds(process.pid), page[0]
            time.sleep(0.05)
            return (cpu_seconds(process.pid), page[0]) != before

        with inside(group, work) as process:
            wait_until(moves)
            for _ in range(2):
                group.freeze()
                assert group.frozen() and not moves()
                group.thaw()
                assert not group.frozen()
                wait_until(moves)
            group.freeze()
            group.kill()
            assert process.wait() == -signal.SIGKILL


# Devices


def opens(*paths: str) -> list[int]:
    """0 or the errno of opening each for reading and writing."""

    def attempt(path: str) -> int:
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            return error.errno or -1
        return 0

    return [attempt(path) for path in paths]


def makes(path: str, mode: int, major: int, minor: int) -> int:
    try:
        os.mknod(path, mode | 0o600, os.makedev(major, minor))
    except OSError as error:
        return error.errno or -1
    return 0


NULL: dict[str, Any] = {"type": "c", "major": 1, "minor": 3}


def test_devices_are_allowed_and_denied(group: Cgroup, tmp_path: Path) -> None:
    deny_all = {"allow": False, "access": "rwm"}
    all_may_be_made = {"allow": True, "type": "c", "access": "m"}
    paths = ("/dev/null", "/dev/zero", "/dev/full")

    assert call(group, lambda: opens(*paths)) == [0, 0, 0]
    group.allow_devices([deny_all, {"allow": True, **NULL, "access": "rw"}, all_may_be_made])
    assert call(group, lambda: opens(*paths)) == [0, errno.EPERM, errno.EPERM]
    assert call(group, lambda: makes(f"{tmp_path}/c", stat.S_IFCHR, 1, 5)) == 0
    assert call(group, lambda: makes(f"{tmp_path}/b", stat.S_IFBLK, 7, 200)) == errno.EPERM
    group.allow_devices([deny_all, {"allow": True, **NULL, "access": "r"}])
    assert call(group, lambda: opens(*paths)) == [errno.EPERM] * 3
    assert call(group, lambda: _fs.read_bytes("/dev/null").decode()) == ""
    assert call(group, lambda: makes(f"{tmp_path}/d", stat.S_IFCHR, 1, 5)) == errno.EPERM
    group.allow_devices([deny_all, {"allow": True, "access": "rwm"}, {"allow": False, **NULL, "access": "w"}])
    assert call(group, lambda: opens(*paths)) == [errno.EPERM, 0, 0]
    group.allow_devices([])
    assert call(group, lambda: opens(*paths)) == [errno.EPERM, 0, 0]


# Block devices


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, int]]]:
    """A loop device of our own, 64 MB: its path, and its numbers for a limit."""
    path = tmp_path_factory.mktemp("disk") / "image"
    path.write_bytes(os.urandom(MB) * 64)
    loop = subprocess.check_output(["losetup", "--find", "--show", "--direct-io=off", str(path)], text=True).strip()
    number = os.stat(loop).st_rdev
    # A loop device keeps its scheduler when it is freed: whoever had it before us may have left it another.
    with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/scheduler", "w") as scheduler:
        scheduler.write("none")
    yield loop, {"major": os.major(number), "minor": os.minor(number)}
    subprocess.check_call(["losetup", "--detach", loop])
    path.unlink()


def transfer(path: str, flags: int, size: int, blocks: int, span: int = 64 * MB) -> float:
    """Read or write ``blocks`` blocks past the page cache; how many seconds it took."""
    fd = os.open(path, flags | os.O_DIRECT)
    with mmap.mmap(-1, size) as buffer:
        start = time.monotonic()
        for block in range(blocks):
            if flags == os.O_RDONLY:
                os.preadv(fd, [buffer], block * size % span)
            else:
                os.pwritev(fd, [buffer], block * size % span)
        seconds = time.monotonic() - start
    os.close(fd)
    return seconds


@needs("program:losetup")
@pytest.mark.skipif(not {"blkio", "io"} & set(host().controllers), reason="needs blkio or io")
@pytest.mark.parametrize(
    ("key", "flags", "rate", "size", "blocks"),
    [
        ("throttleReadBpsDevice", os.O_RDONLY, 2 * MB, 256 << 10, 12),
        ("throttleWriteBpsDevice", os.O_WRONLY, 2 * MB, 256 << 10, 12),
        ("throttleReadIOPSDevice", os.O_RDONLY, 40, 4096, 60),
        ("throttleWriteIOPSDevice", os.O_WRONLY, 40, 4096, 60),
    ],
)
def test_throttled_direct_io_takes_its_time(
    group: Cgroup, disk: tuple[str, dict[str, int]], key: str, flags: int, rate: int, size: int, blocks: int
) -> None:
    path, numbers = disk
    group.apply({"blockIO": {key: [{**numbers, "rate": rate}]}})
    assert call(group, lambda: transfer(path, flags, size, blocks)) > 1.0  # 1.5 s less what it may take at once
    group.apply({"blockIO": {key: [{**numbers, "rate": 0}]}})
    assert call(group, lambda: transfer(path, flags, size, blocks * 20)) < 20  # at the limit: 30 s
    name = "read" if flags == os.O_RDONLY else "write"
    figures = next(line for line in group.stats()["io"] if line["device"] == f"{numbers['major']}:{numbers['minor']}")
    assert figures[f"{name}_bytes"] in (size * blocks, size * blocks * 21)  # v1 before 6.2 counts what it throttles
    assert figures[f"{name}s"] in (blocks, blocks * 21)


def data_disk(path: Path) -> dict[str, int] | None:
    """The whole disk under a file system, or None where there is none (tmpfs, overlay)."""
    number = os.stat(path).st_dev
    device = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    if not os.path.exists(device):
        return None
    if os.path.exists(f"{device}/partition"):
        device = os.path.dirname(os.path.realpath(device))
    major, minor = _fs.read_text(f"{device}/dev").split(":")
    return {"major": int(major), "minor": int(minor)}


@pytest.mark.skipif(not {"blkio", "io"} & set(host().controllers), reason="needs blkio or io")
def test_throttle_holds_for_files_on_the_disk(group: Cgroup, tmp_path: Path) -> None:
    disk = data_disk(tmp_path)
    if disk is None:
        pytest.skip(f"{tmp_path} is on no disk")
    file = tmp_path / "file"
    file.write_bytes(bytes(4 * MB))
    group.apply({"blockIO": {"throttleReadBpsDevice": [{**disk, "rate": 2 * MB}]}})
    assert call(group, lambda: transfer(str(file), os.O_RDONLY, MB, 4, 4 * MB)) > 1.2


@pytest.mark.skipif(not {"blkio", "io"} & set(host().controllers), reason="needs blkio or io")
def test_throttle_of_what_is_no_disk_is_refused(group: Cgroup) -> None:
    with pytest.raises(InvalidArgument, match="8:4095 is no disk; limits hold for whole disks"):
        group.apply({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 4095, "rate": MB}]}})


@needs("program:losetup")
@pytest.mark.skipif(not {"blkio", "io"} & set(host().controllers), reason="needs blkio or io")
def test_weights_divide_a_disk_scheduled_by_bfq(group: Cgroup, other: Cgroup, disk: tuple[str, dict[str, int]]) -> None:
    path, numbers = disk
    name = f"{numbers['major']}:{numbers['minor']}"
    scheduler = f"/sys/dev/block/{name}/queue/scheduler"
    with pytest.raises(Unsupported, match=f"bfq.weight would have no effect, because disk {name} does not use the bfq"):
        group.apply({"blockIO": {"weightDevice": [{**numbers, "weight": 10}]}})
    try:
        _fs.write_text(scheduler, "bfq")
    except OSError:
        pytest.skip("needs the bfq I/O scheduler in the kernel")
    _fs.write_text(f"{os.path.dirname(scheduler)}/iosched/low_latency", "0")  # it would favour who comes new
    try:
        group.apply({"blockIO": {"weight": 10}})
        other.apply({"blockIO": {"weight": 1000}})

        def work() -> None:
            for _ in range(3):
                os.fork()
            transfer(path, os.O_RDONLY, MB, 1 << 40)

        def read(each: Cgroup) -> int:
            return sum(line["read_bytes"] for line in each.stats()["io"] if line["device"] == name)

        with inside(group, work), inside(other, work):
            wait_until(lambda: read(group) > 8 * MB and read(other) > 8 * MB)
            ratios = []
            for _ in range(5):  # a busy machine has its moments
                before = read(group), read(other)
                wait_until(lambda: read(group) + read(other) - sum(before) > 512 * MB)  # noqa: B023
                ratios.append((read(other) - before[1]) / max(read(group) - before[0], 1))
            group.kill()
            other.kill()
        assert statistics.median(ratios) > 4, ratios
    finally:
        _fs.write_text(scheduler, "none")
