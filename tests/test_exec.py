"""`poc exec` and the other verbs on a running container: its streams, terminal, user, exit codes; pause and restart."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, needs, wait_until

import poc
from poc import _fs, errors
from poc.cgroups import host

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs("root", "overlay", "program:busybox")

ALONE = ("--network", "none")
LOOP = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def web(engine: poc.Engine) -> Iterator[poc.Container]:
    container = engine.containers.run("busybox", LOOP, detach=True, name="web", network="none", environment=["A=image"])
    yield container
    with suppress(errors.ContainerNotFound):
        container.remove(force=True)


def test_streams_and_exit_codes(cli: CommandLine, web: poc.Container) -> None:
    done = cli("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert cli("exec", "web", "sh", "-c", "kill -9 $$").exit_code == 137
    assert cli("exec", "web", "cat").stdout == ""  # without -i stdin is empty
    command = [*cli.command, "exec", "-i", "web", "sh", "-c", "cat; echo end"]
    data = os.urandom(1 << 20)
    fed = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert (fed.returncode, fed.stdout) == (0, data + b"end\n")
    for words, code, said in (
        (("web", "nosuch"), 127, '"nosuch": executable file not found'),
        (("web", "/etc"), 126, "permission denied"),
        (("-w", "/nosuch", "web", "true"), 126, "/nosuch: No such file or directory"),
        (("-u", "nosuch", "web", "true"), 126, "user nosuch"),
        (("-d", "-u", "nosuch", "web", "true"), 126, "user nosuch"),
    ):
        done = cli("exec", *words)
        assert (done.exit_code, done.stderr.count("\n")) == (code, 1) and said in done.stderr
    assert web.status == "running"


def test_it_is_in_the_container(cli: CommandLine, web: poc.Container) -> None:
    said = cli(
        "exec", "web", "sh", "-c", "hostname; echo $A $HOME $PPID; ls /proc | grep -c '^1$'; cat /proc/self/cgroup"
    )
    hostname, variables, first, *groups = said.stdout.splitlines()
    assert (hostname, variables.split()[:2], first) == (web.short_id, ["image", "/root"], "1")
    assert groups and all(group.endswith(("/", "::/")) for group in groups)
    pid = web.attrs["State"]["Pid"]
    for name in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        inside = cli("exec", "web", "readlink", f"/proc/self/ns/{name}").stdout.strip()
        assert inside == os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


def test_options(cli: CommandLine, web: poc.Container, tmp_path: os.PathLike[str]) -> None:
    file = os.path.join(tmp_path, "env")
    with open(file, "w") as text:
        text.write("B=file\nA=file\n")
    done = cli("exec", "-e", "A=given", "--env-file", file, "-w", "/tmp", "web", "sh", "-c", "echo $A $B; pwd")
    assert done.stdout == "given file\n/tmp\n"
    assert cli("exec", "-u", "12:34", "web", "id").stdout.startswith("uid=12 gid=34")
    held = "grep CapEff /proc/self/status | cut -f2"
    plain, all_of_them = (
        int(cli("exec", *options, "web", "sh", "-c", held).stdout, 16) for options in ((), ("--privileged",))
    )
    assert plain != all_of_them and plain & all_of_them == plain and bin(all_of_them).count("1") > 35
    assert cli("exec", "-u", "12", "web", "sh", "-c", held).stdout == "0000000000000000\n"
    assert "unable to find user" in cli("exec", "-u", "nosuch", "web", "id").stderr


def test_the_limits_hold_for_it(engine: poc.Engine) -> None:
    with_limit = engine.containers.run("busybox", LOOP, detach=True, network="none", pids_limit=8, mem_limit="16m")
    try:
        forks = "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; echo all"
        done = with_limit.exec_run(["sh", "-c", "tail /dev/zero"])
        assert done is not None and done.exit_code == 137
        done = with_limit.exec_run(["sh", "-c", forks])
        assert done is not None and b"can't fork" in done.stderr and b"all" not in done.stdout
        with pytest.raises(BlockingIOError):  # EAGAIN, as for every other fork in there
            with_limit.exec_run("true")
    finally:
        with_limit.remove(force=True)


def test_the_terminals_kind_is_the_containers(engine: poc.Engine, cli: CommandLine) -> None:
    """Where the container was told which one it has, exec -t believes it; what exec itself is told counts more."""
    words = ("--network", "none", "-e", "TERM=vt52", "--name", "old", "busybox", *LOOP)
    assert cli("run", "-d", *words).exit_code == 0
    assert cli("exec", "-t", "old", "sh", "-c", "echo $TERM").stdout.strip() == "vt52"
    assert cli("exec", "-t", "-e", "TERM=vt100", "old", "sh", "-c", "echo $TERM").stdout.strip() == "vt100"


def test_a_terminal(cli: CommandLine, web: poc.Container) -> None:
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    command = [*cli.command, "exec", "-it", "web", "sh", "-c", "tty; echo $TERM; read line; echo got $line; exit 5"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        said = read_until(master, b"xterm")
        assert b"/dev/pts/" in said
        os.write(master, b"hello\r")
        assert b"got hello" in read_until(master, b"got hello")
        assert process.wait(30) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(fd: int, text: bytes) -> bytes:
    said = b""
    while text not in said:
        said += os.read(fd, 1000)
    return said


def test_signals_go_on_to_it(cli: CommandLine, web: poc.Container) -> None:
    script = "trap 'echo usr1; exit 9' USR1; echo up; while :; do sleep 0.1; done"
    process = cli.start("exec", "web", "sh", "-c", script, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"usr1\n"
        assert process.wait(30) == 9
    finally:
        process.kill()
        process.wait()
    assert web.status == "running"


def test_detached(cli: CommandLine, web: poc.Container) -> None:
    done = cli("exec", "-d", "web", "sh", "-c", "echo $$ >/tmp/pid; exec sleep 1234")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: "sleep 1234" in cli("exec", "web", "ps").stdout, 30)
    assert cli("exec", "-d", "web", "nosuch").exit_code == 127
    assert web.exec_run("sleep 1", detach=True) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # what was left to the container is no child of ours


def test_the_library(web: poc.Container) -> None:
    done = web.exec_run(["sh", "-c", "cat; echo err >&2; exit 2"], stdin=b"given", environment={"X": "y"})
    assert done is not None
    assert (done.exit_code, done.stdout, done.stderr, done.output) == (2, b"given", b"err\n", "given")
    with pytest.raises(errors.CommandNotFound):
        web.exec_run("nosuch")
    web.stop(timeout=0)
    with pytest.raises(errors.Conflict, match="is not running"):
        web.exec_run("true")


def test_pause(cli: CommandLine, web: poc.Container) -> None:
    assert cli("pause", "web").stdout == "web\n"
    assert web.status == "paused" and "(Paused)" in cli("ps").stdout
    for verb in (("pause", "web"), ("exec", "web", "true")):
        done = cli(*verb)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1) and "is paused" in done.stderr
    assert web.attrs["State"]["Paused"] is True
    assert cli("unpause", "web").stdout == "web\n"
    assert web.status == "running" and cli("exec", "web", "true").exit_code == 0
    assert "is not paused" in cli("unpause", "web").stderr
    for end in (("stop", "web"), ("kill", "web"), ("rm", "-f", "web")):
        web.start()
        web.pause()
        assert cli(*end).exit_code == 0
        if end[0] != "rm":
            web.wait(timeout=30)
            assert web.status == "exited"
    with pytest.raises(errors.ContainerNotFound):
        web.start()


def test_restart(cli: CommandLine, web: poc.Container) -> None:
    first = web.attrs["State"]["Pid"]
    assert cli("exec", "web", "touch", "/kept").exit_code == 0
    assert cli("restart", "-t", "5", "web").stdout == "web\n"
    assert web.attrs["State"]["Pid"] != first
    assert cli("exec", "web", "ls", "/kept").exit_code == 0
    web.stop()
    assert cli("restart", "web").exit_code == 0 and web.status == "running"


def test_rename(cli: CommandLine, engine: poc.Engine, web: poc.Container) -> None:
    assert (done := cli("rename", "web", "shop")).exit_code == 0 and done.stdout == ""
    assert engine.containers.get("shop").name == "shop" and cli("ps", "-q").stdout.strip() == web.short_id
    other = engine.containers.create("busybox", ["true"], name="web", network="none")  # the old name is free
    for name, said in (
        ("shop", "'shop' is in use"),
        ("web", "has this name already"),
        ("../x", "invalid container name"),
    ):
        assert said in cli("rename", "web", name).stderr
    # As of a command that was killed in between: a name of a container that has another one is nobody's.
    os.symlink(web.id, engine.paths.name("stale"))
    other.rename("stale")
    assert engine.containers.get("stale").id == other.id and set(os.listdir(engine.paths.names)) == {"stale", "shop"}
    other.remove()


def test_top(cli: CommandLine, web: poc.Container) -> None:
    said = cli("top", "web")
    assert said.stdout.split()[:3] == ["UID", "PID", "PPID"] and said.stdout.count("\n") >= 2
    pid = str(web.attrs["State"]["Pid"])
    titles, rows = web.top(["-e", "-o", "pid,cmd"])
    assert titles == ["PID", "CMD"] and [cmd for number, cmd in rows if number == pid] == [" ".join(LOOP)]
    assert "no column PID" in cli("top", "web", "-e", "-o", "cmd").stderr
    web.stop(timeout=0)
    assert "is not running" in cli("top", "web").stderr


def test_update(cli: CommandLine, web: poc.Container) -> None:
    forks = ["sh", "-c", "i=0; while [ $i -lt 30 ]; do sleep 1 & i=$((i+1)); done; wait; echo all"]
    assert (done := web.exec_run(forks)) is not None and done.output == "all\n"
    assert cli("update", "--memory", "16m", "web").stdout == "web\n"
    eat = ["sh", "-c", "tail /dev/zero"]
    assert (done := web.exec_run(eat)) is not None and done.exit_code == 137
    before = web.cgroup.stats()["cpu"]["throttled_periods"]
    web.update(cpus=0.1)
    assert cpu_time(web, 2.0) < 0.4 and web.cgroup.stats()["cpu"]["throttled_periods"] > before
    web.restart(timeout=0)  # they last
    assert (done := web.exec_run(eat)) is not None and done.exit_code == 137
    assert cli("update", "--pids-limit", "10", "web").exit_code == 0
    assert (done := web.exec_run(forks)) is not None and b"can't fork" in done.stderr
    for options, said in (
        (("--memory", "1k"), "the minimum is 6m"),
        (("--cpus", "64"), "out of range"),
        ((), "one limit or more"),
    ):
        done_line = cli("update", *options, "web")
        assert done_line.exit_code == 1 and said in done_line.stderr
    host_config = web.attrs["HostConfig"]
    assert (host_config["Memory"], host_config["PidsLimit"], host_config["NanoCpus"]) == (16 << 20, 10, 100_000_000)


def limit_files(container: poc.Container) -> dict[str, str]:
    """What its cgroup says of each flag of `update`."""
    v1 = {
        "--cpu-shares": ("cpu", "cpu.shares"),
        "--cpu-quota": ("cpu", "cpu.cfs_quota_us"),
        "--cpu-period": ("cpu", "cpu.cfs_period_us"),
        "--cpuset-cpus": ("cpuset", "cpuset.cpus"),
        "--cpuset-mems": ("cpuset", "cpuset.mems"),
        "--memory": ("memory", "memory.limit_in_bytes"),
        "--memory-swap": ("memory", "memory.memsw.limit_in_bytes"),
        "--memory-reservation": ("memory", "memory.soft_limit_in_bytes"),
        "--pids-limit": ("pids", "pids.max"),
    }
    v2 = {
        "--cpu-shares": ("cpu", "cpu.weight"),
        "--cpu-quota": ("cpu", "cpu.max"),
        "--cpuset-cpus": ("cpuset", "cpuset.cpus"),
        "--cpuset-mems": ("cpuset", "cpuset.mems"),
        "--memory": ("memory", "memory.max"),
        "--memory-swap": ("memory", "memory.swap.max"),
        "--memory-reservation": ("memory", "memory.low"),
        "--pids-limit": ("pids", "pids.max"),
    }
    found = {}
    for flag in v1:
        controller, file = (v2 if host().v2(v1[flag][0]) else v1).get(flag, ("", ""))
        if controller in host().controllers:
            path = f"{host().controllers[controller]}/{container.cgroup.path}/{file}"
            found[flag] = _fs.read_text(path) if os.path.exists(path) else ""
    return found


UPDATES: tuple[tuple[tuple[str, ...], dict[str, tuple[str, str]], dict[str, object]], ...] = (
    # flags, the files by flag (v1, v2), HostConfig
    (("--cpu-shares=512",), {"--cpu-shares": ("512", "59")}, {"CpuShares": 512}),
    (("--cpu-quota=20000", "--cpu-period=50000"), {"--cpu-quota": ("20000", "20000 50000")}, {"CpuPeriod": 50000}),
    (("--cpus=0.5",), {"--cpu-quota": ("50000", "50000 100000")}, {"NanoCpus": 500_000_000, "CpuPeriod": 0}),
    (("--cpuset-cpus=0",), {"--cpuset-cpus": ("0", "0")}, {"CpusetCpus": "0"}),
    (("--cpuset-mems=0",), {"--cpuset-mems": ("0", "0")}, {"CpusetMems": "0"}),
    (("--memory=64m",), {"--memory": (str(64 << 20),) * 2}, {"Memory": 64 << 20}),
    (("--memory-swap=96m",), {"--memory-swap": (str(96 << 20), str(32 << 20))}, {"MemorySwap": 96 << 20}),
    (("-m", "128m", "--memory-swap=256m"), {"--memory-swap": (str(256 << 20), str(128 << 20))}, {"Memory": 128 << 20}),
    (("--memory=32m", "--memory-swap=32m"), {"--memory-swap": (str(32 << 20), "0")}, {"Memory": 32 << 20}),
    (("--memory-reservation=16m",), {"--memory-reservation": (str(16 << 20),) * 2}, {"MemoryReservation": 16 << 20}),
    (("--pids-limit=33",), {"--pids-limit": ("33", "33")}, {"PidsLimit": 33}),
    (("--pids-limit=-1",), {"--pids-limit": ("max", "max")}, {"PidsLimit": -1}),
)


def test_update_of_each_limit(cli: CommandLine, web: poc.Container) -> None:
    """At once, on a container that runs, and again at its next start."""
    for flags, files, shown in UPDATES:
        if {"--memory-swap"} & files.keys() and not host().fact("swap"):
            continue
        assert cli("update", *flags, "web") == ("web\n", "", 0)
        now = limit_files(web)
        wanted = {flag: values[host().v2(CONTROLLER[flag])] for flag, values in files.items()}
        assert {flag: now[flag] for flag in wanted} == wanted
        assert web.attrs["HostConfig"].items() >= shown.items()
    before = limit_files(web)
    assert "Cpus_allowed_list:\t0\n" in _fs.read_text(f"/proc/{web.attrs['State']['Pid']}/status")
    web.restart(timeout=0)
    assert limit_files(web) == before


CONTROLLER = {
    **dict.fromkeys(("--cpu-shares", "--cpu-quota"), "cpu"),
    **dict.fromkeys(("--cpuset-cpus", "--cpuset-mems"), "cpuset"),
    **dict.fromkeys(("--memory", "--memory-swap", "--memory-reservation"), "memory"),
    "--pids-limit": "pids",
}


def test_update_that_can_not_be(cli: CommandLine, web: poc.Container) -> None:
    done = web.exec_run(["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=40"])
    assert done is not None and done.exit_code == 0
    before, shown = limit_files(web), web.attrs["HostConfig"]
    for flags, said in (
        (("--memory=16m", "--memory-swap=16m"), "use"),  # as its memory is used
        (("--memory-swap=64m",), "--memory-swap needs --memory"),
        (("--cpuset-cpus=4095",), "cpuset"),
        (("--cpuset-cpus=x",), "cpuset"),
        (("--cpu-period=5",), "--cpu-period"),
        (("--pids-limit=few",), "--pids-limit"),
        (("--blkio-weight=5",), "--blkio-weight"),
        *(() if host().fact("bfq") else ((("--blkio-weight=500",), "bfq"),)),
    ):
        refused = cli("update", *flags, "web")
        assert (refused.stdout, refused.exit_code, refused.stderr.count("\n")) == ("", 1, 1), refused
        assert said in refused.stderr
    assert web.attrs["HostConfig"] == shown and web.status == "running"
    after = limit_files(web)
    assert all(after[flag] == before[flag] for flag in before if flag not in ("--memory", "--memory-swap"))


def cpu_time(container: poc.Container, seconds: float) -> float:
    """What a busy loop gets of the CPU in so many seconds."""
    loop = f"timeout {seconds} sh -c 'while :; do :; done'; cat /proc/self/stat >/dev/null; times"
    done = container.exec_run(["sh", "-c", loop])
    assert done is not None
    # times(1p): the second line is the children's, user and system, as 0m1.23s
    return sum(int(text.split("m")[0]) * 60 + float(text.split("m")[1][:-1]) for text in done.output.split()[2:4])


def test_stats(cli: CommandLine, engine: poc.Engine, web: poc.Container) -> None:
    busy = engine.containers.run(
        "busybox", ["sh", "-c", "head -c 20000000 /dev/zero >/dev/shm/x; echo; while :; do :; done"],
        detach=True, name="busy", network="none", cpus=0.5, mem_limit="64m", pids_limit=20,
    )  # fmt: skip
    try:
        wait_until(lambda: any(busy.logs()))
        lines = cli("stats", "--no-stream", "--format", "json").stdout.splitlines()
        shown = {row["Name"]: row for row in map(json.loads, lines)}
        assert shown.keys() == {"web", "busy"}
        assert 25 < float(shown["busy"]["CPUPerc"][:-1]) < 75 and float(shown["web"]["CPUPerc"][:-1]) < 25
        used, limit = shown["busy"]["MemUsage"].split(" / ")
        assert limit == "64MiB" and 19 < float(used.removesuffix("MiB")) < 40
        assert int(shown["busy"]["PIDs"]) == 1 and int(shown["web"]["PIDs"]) == 2
        assert cli("stats", "--no-stream", "web").stdout.split()[:3] == ["CONTAINER", "ID", "NAME"]
        assert "no such container" in cli("stats", "--no-stream", "nosuch").stderr
    finally:
        busy.remove(force=True)
