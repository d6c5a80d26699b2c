"""Docker, Podman and containerd drive `poc-runtime`: each in a box of its own, each test for runc as well.

What runc passes is what the engine promises; what `poc-runtime` passes too is that it can stand in runc's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import leaks
import pytest
from conftest import CHECKOUT, IMAGE_CONFIG, CommandResult, Terminal, needs, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [needs("root", "program:busybox", "program:runc", "program:docker-init"), pytest.mark.timeout(120)]

QUIET_LOOP = "while :; do sleep 0.1; done"
EAT_MEMORY = "x=a; while :; do x=$x$x; done"
GOOD_SLEEPER = f'trap "echo term; exit 7" TERM; trap "echo hup" HUP; echo out; echo err >&2; {QUIET_LOOP}'
MEMORY_LIMIT = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
FAILURES = [  # what Docker and Podman make of the words of the runtime
    (["nowhere"], 127, "executable file not found in $PATH"),
    (["/no/where"], 127, "no such file or directory"),
    (["/etc"], 126, "permission denied"),
    (["/etc/passwd"], 126, "permission denied"),
]


class Box:
    """Namespaces for an engine: mounts with a /run of its own, network, processes. They end with its first program.

    ``cgroup`` is the path below which everything goes that the engine starts.
    """

    def __init__(self, directory: str, *program: str, **environment: str) -> None:
        self.directory = directory
        self.cgroup = f"/poc-{os.getpid()}-{os.path.basename(directory)}"
        script = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec docker-init -- "$@"'
        namespaces = ("--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.environment = {**os.environ, **environment}
        with open(f"{directory}/log", "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", script, "box", *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    def command(self, *words: str) -> list[str]:
        """What runs ``words`` inside."""
        return ["nsenter", f"--target={self._first()}", "--net", "--mount", "--pid", *words]

    def __call__(self, *words: str, input: str = "", timeout: float = 60) -> CommandResult:
        done = subprocess.run(
            self.command(*words), input=input, capture_output=True, text=True, timeout=timeout, env=self.environment
        )
        return CommandResult(done.stdout, done.stderr, done.returncode)

    def log(self) -> str:
        with open(f"{self.directory}/log", errors="replace") as file:
            return file.read()[-4000:]

    def until(self, command: Callable[[], CommandResult]) -> None:
        """Wait for the engine to answer."""
        deadline = time.monotonic() + 60
        while not self._first() or command().exit_code:
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def _first(self) -> int:
        pid = self._process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return int((file.read().split() or ["0"])[0])

    def close(self) -> None:
        """End the engine as an administrator would, and all that is left of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if first := self._first():
                os.kill(first, signal.SIGTERM)
                self._process.wait(20)
        self._process.kill()
        self._process.wait()
        for root in leaks.cgroup_roots():
            for path, _, _ in os.walk(f"{root}{self.cgroup}", topdown=False):
                os.rmdir(path)


SERVER = "while :; do echo served | nc -l -p 80; done"


def fetch(address: str, port: int = 80) -> str:
    """A script that prints what `SERVER` says; it may not listen yet, or be busy with somebody else."""
    return f"until nc -w9 {address} {port} < /dev/null | grep served; do sleep 0.1; done"


def until_equal(find: Callable[[], str], value: str) -> None:
    deadline = time.monotonic() + 40
    while (found := find()) != value:
        assert time.monotonic() < deadline, f"{found!r} is not {value!r}"
        time.sleep(0.05)


class Engine:
    """An engine's command line with one of two runtimes below it; ``name`` is poc or runc."""

    def __init__(self, box: Box, name: str, command: list[str], options: list[str]) -> None:
        self.box = box
        self.name = name
        self.engine = command
        self.options = options

    def command(self, *words: str) -> list[str]:
        """One of the engine's command lines. `run` and `create` get the options that every container has here."""
        if words[0] in ("run", "create"):
            words = (words[0], *self.options, *words[1:])
        return self.box.command(*self.engine, *words)

    def __call__(self, *words: str, input: str = "", timeout: float = 60) -> CommandResult:
        command = self.command(*words)
        done = subprocess.run(
            command, input=input, capture_output=True, text=True, timeout=timeout, env=self.box.environment
        )
        return CommandResult(done.stdout, done.stderr, done.returncode)

    def ok(self, *words: str, input: str = "") -> str:
        """The output of a command that must succeed."""
        result = self(*words, input=input)
        assert result.exit_code == 0, f"{words}: {result.stderr}"
        return result.stdout

    def run(self, *options: str, script: str, input: str = "") -> CommandResult:
        """A container with a script, removed when it ends."""
        return self("run", "--rm", *options, "busybox", "sh", "-c", script, input=input)

    def inspect(self, name: str, template: str) -> str:
        return self.ok("inspect", "--format", template, name).strip()

    def until(self, name: str, template: str, value: str) -> None:
        until_equal(lambda: self.inspect(name, template), value)

    def logs_until(self, name: str, text: str) -> None:
        deadline = time.monotonic() + 40
        while text not in (seen := "".join(self("logs", name)[:2])):
            assert time.monotonic() < deadline, f"no {text!r} in the log, but {seen!r}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def runtimes(run_directory: str) -> dict[str, str]:
    """The paths of the two. `scripts/poc-runtime` would look after its environment first, which here is the tests'."""
    path = f"{run_directory}/poc-runtime"
    start = os.path.join(CHECKOUT, "scripts", "start.py")
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\nexec "{sys.executable}" -I -S -X utf8 "{start}" poc-runtime "$@"\n')
    os.chmod(path, 0o755)
    return {"poc": path, "runc": shutil.which("runc") or "runc"}


@contextlib.contextmanager
def box_for(run_directory: str, name: str, *program: str, **environment: str) -> Iterator[Box]:
    """A box in a directory of its own, nothing of which is left at the end."""
    directory = f"{run_directory}/{name}"
    os.mkdir(directory)
    with nothing_left(run_directory):
        box = Box(directory, *program, **environment)
        try:
            yield box
        finally:
            box.close()
            shutil.rmtree(directory)


# ── Docker ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def dockerd(run_directory: str, image_tar: str, runtimes: dict[str, str]) -> Iterator[Box]:
    """A daemon with the image busybox. The one container it has had leaves behind what stays as long as it runs."""
    if shutil.which("dockerd") is None:
        pytest.skip("needs the program dockerd")
    at = f"{run_directory}/docker"
    program = ["dockerd", f"--host=unix://{at}/socket", f"--pidfile={at}/pid", f"--data-root={at}/data"]
    program += [f"--exec-root={at}/exec", f"--add-runtime=poc={runtimes['poc']}"]
    program += [f"--cgroup-parent=/poc-{os.getpid()}-docker"]
    environment = {"DOCKER_HOST": f"unix://{at}/socket", "DOCKER_CONFIG": at}
    with box_for(run_directory, "docker", *program, **environment) as box:
        box.until(lambda: box("docker", "version"))
        assert box("docker", "import", "--change=CMD sh", image_tar, "busybox").exit_code == 0
        warm = box("docker", "run", "--rm", "--runtime=poc", "busybox", "true")
        assert warm.exit_code == 0, warm.stderr
        yield box


@pytest.fixture(params=["poc", "runc"])
def docker(dockerd: Box, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(dockerd, request.param, ["docker"], [f"--runtime={request.param}"])
    yield engine
    if names := engine.ok("ps", "-aq").split():
        engine.ok("rm", "-f", "-v", *names)


def test_docker_tells_how_a_program_ended(docker: Engine) -> None:
    assert docker("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2; exit 3", input="in\n") == (
        "in\n",
        "err\n",
        3,
    )
    assert docker.run("--pid=host", script="kill -KILL $$").exit_code == 137
    for args, code, words in FAILURES:
        failed = docker("run", "--name=failed", "--network=none", "busybox", *args)
        assert failed.exit_code == code and words in failed.stderr and args[0] in failed.stderr
        assert docker.inspect("failed", "{{.State.Status}} {{.State.ExitCode}}") == f"created {code}"
        docker.ok("rm", "failed")
    failed = docker.run("--sysctl=net.ipv4.ip_forward=nonsense", script="true")
    assert failed.exit_code == 125
    assert "OCI runtime create failed" in failed.stderr and "ip_forward" in failed.stderr


DOCKER_OPTIONS = [
    (["-u", "user"], "id -u; id -un; grep ^Groups: /proc/self/status", "1000\nuser\nGroups:\t50 1000 \n"),
    (["-u", "1000:50", "--group-add=7"], "id -u; id -g; grep ^Groups: /proc/self/status", "1000\n50\nGroups:\t7 50 \n"),
    (["-u", "user"], "echo out > /dev/stdout; grep ^CapEff: /proc/self/status", "out\nCapEff:\t0000000000000000\n"),
    (["-w", "/new/place", "-e", "A=b c"], "pwd; echo $A; echo $HOME", "/new/place\nb c\n/root\n"),
    (["-h", "here", "--domainname=there"], "hostname; cat /proc/sys/kernel/domainname", "here\nthere\n"),
    (["--read-only", "--tmpfs=/t:size=1m,mode=700"], "touch /x || df -k /t | tail -1 | awk '{print $2}'", "1024\n"),
    (["--cap-drop=ALL"], "chown 1 /tmp || grep ^CapEff: /proc/self/status", "CapEff:\t0000000000000000\n"),
    (["--cap-drop=ALL", "--cap-add=CHOWN"], "chown 1 /tmp && stat -c %u /tmp", "1\n"),
    (["--ulimit=nofile=100:200"], "ulimit -n; ulimit -Hn", "100\n200\n"),
    (["--sysctl=net.ipv4.ip_forward=0"], "cat /proc/sys/net/ipv4/ip_forward", "0\n"),
    (["--device=/dev/null:/dev/other"], "echo x > /dev/other; stat -c %t:%T /dev/other", "1:3\n"),
    (["--shm-size=1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024\n"),
    (["--security-opt=no-new-privileges"], "grep ^NoNewPrivs: /proc/self/status", "NoNewPrivs:\t1\n"),
    ([], "grep ^Seccomp: /proc/self/status; unshare -U true || mount -t tmpfs x /mnt || echo no", "Seccomp:\t2\nno\n"),
    (["--security-opt=seccomp=unconfined"], "grep ^Seccomp: /proc/self/status", "Seccomp:\t0\n"),
    (["--memory=32m"], MEMORY_LIMIT, "33554432\n"),
    (["--init"], "cat /proc/1/comm; exit 5", "docker-init\n"),
    (["--network=none"], "ls /sys/class/net", "lo\n"),
    (["--pid=host"], "test $$ != 1 && echo other", "other\n"),
]


def test_docker_options_are_carried_out(docker: Engine) -> None:
    """Options of `docker run`, in containers that run at the same time."""

    def run(case: tuple[list[str], str, str]) -> CommandResult:
        return docker.run(*case[0], script=case[1])

    with ThreadPoolExecutor(4) as pool:
        for case, result in zip(DOCKER_OPTIONS, pool.map(run, DOCKER_OPTIONS), strict=True):
            assert result.stdout == case[2], f"{case[0]}: {result.stderr}"
            assert result.exit_code == (5 if "--init" in case[0] else 0)


def test_docker_volumes_and_privileges(docker: Engine, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("from the host\n")
    read_only = docker.run(f"-v{tmp_path}:/mnt:ro", script="cat /mnt/file; touch /mnt/new")
    assert read_only.stdout == "from the host\n" and "Read-only" in read_only.stderr and read_only.exit_code == 1
    assert docker.run(f"-v{tmp_path}:/mnt", script="echo written > /mnt/new").exit_code == 0
    assert (tmp_path / "new").read_text() == "written\n"
    assert docker.run("-v/anonymous", script="echo x > /anonymous/x").exit_code == 0
    # runc wants the capabilities that Docker asks for; poc-runtime gives those that this host has.
    if docker.name == "poc" or _has_all_capabilities():
        script = "mount -t tmpfs x /mnt && grep ^Seccomp: /proc/self/status && echo h > /proc/sys/kernel/hostname"
        assert docker.run("--privileged", script=script) == ("Seccomp:\t0\n", "", 0)


def _has_all_capabilities() -> bool:
    with open("/proc/self/status") as file:
        return any(line.split() == ["CapBnd:", "000001ffffffffff"] for line in file)


SIZES = """
wait_for() { while ! stty size | grep "$1"; do sleep 0.1; done; }
wait_for '31 97'; tty; read line; echo "said $line"; wait_for '20 50'
trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done
"""


def test_docker_terminals(docker: Engine, terminal: Terminal) -> None:
    """run -it and exec -it: the size, typing, resizing, and control characters as signals."""
    command = docker.command("run", "--rm", "-it", "--name=tty", "busybox", "sh", "-c", SIZES)
    with terminal.start(command, env=docker.box.environment) as process:
        terminal.read_until(b"31 97\r\n/dev/pts/0\r\n")
        os.write(terminal.fd, b"word\n")
        terminal.read_until(b"said word\r\n")
        with on_another_terminal(docker, "exec", "-it", "tty", "sh", "-c", "tty; cat; exit 4") as (other, executed):
            other.read_until(b"/dev/pts/1\r\n")
            os.write(other.fd, b"typed\n\x04")
            assert executed.wait(30) == 4
        terminal.resize(20, 50)
        terminal.read_until(b"20 50\r\nready\r\n")
        os.write(terminal.fd, b"\x03")
        assert process.wait(30) == 3


@contextlib.contextmanager
def on_another_terminal(engine: Engine, *words: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    terminal = Terminal()
    try:
        with terminal.start(engine.command(*words), env=engine.box.environment) as process:
            yield terminal, process
    finally:
        terminal.close()


def test_docker_life_of_a_container(docker: Engine) -> None:
    """run -d, logs, exec, top, stats, kill, stop, start, restart, wait: the state and the effect of each."""
    docker.ok("run", "-d", "--name=one", "--memory=64m", "--network=none", "busybox", "sh", "-c", GOOD_SLEEPER)
    docker.logs_until("one", "out")
    state = json.loads(docker.ok("inspect", "one"))[0]["State"]
    assert (state["Status"], state["Running"], state["ExitCode"]) == ("running", True, 0)

    assert docker("exec", "-i", "one", "sh", "-c", "cat; echo err >&2; exit 4", input="in\n") == ("in\n", "err\n", 4)
    script = "id -u; pwd; echo $X; echo q > /dev/stderr"
    assert docker("exec", "-u", "user", "-w", "/tmp", "-e", "X=y", "one", "sh", "-c", script) == (
        "1000\n/tmp\ny\n",
        "q\n",
        0,
    )
    missing = docker("exec", "one", "nowhere")
    assert missing.exit_code in (126, 127) and "executable file not found" in missing.stdout + missing.stderr
    docker.ok("exec", "-d", "one", "sh", "-c", "echo detached > /tmp/d; exec sleep 77")
    assert docker.ok("top", "one", "-o", "pid,args").count("sleep 77") == 1
    assert docker.ok("exec", "one", "cat", "/tmp/d") == "detached\n"

    used, limit = docker.ok("stats", "--no-stream", "--format={{.MemUsage}}", "one").split(" / ")
    assert used != "0B" and limit == "64MiB\n"

    docker.ok("kill", "-s", "HUP", "one")
    docker.logs_until("one", "hup")
    docker.ok("stop", "one")
    assert docker("logs", "one") == ("out\nhup\nterm\n", "err\n", 0)
    assert docker.inspect("one", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}") == "exited 7 0"

    docker.ok("start", "one")
    first = docker.inspect("one", "{{.State.Pid}}")
    docker.ok("restart", "-t", "5", "one")
    assert docker.inspect("one", "{{.State.Status}}") == "running"
    assert docker.inspect("one", "{{.State.Pid}}") != first
    docker.ok("kill", "one")
    assert docker.ok("wait", "one") == "137\n"
    assert docker.inspect("one", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}")[:10] == "exited 137"


def test_docker_pauses(docker: Engine) -> None:
    docker.ok("run", "-d", "--name=one", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.01; done")
    docker.logs_until("one", "tick")
    docker.ok("pause", "one")
    assert docker.inspect("one", "{{.State.Status}} {{.State.Paused}}") == "paused true"
    assert _stands_still(docker, "one")
    assert docker("exec", "one", "true").exit_code == 1
    docker.ok("unpause", "one")
    assert docker.inspect("one", "{{.State.Status}} {{.State.Paused}}") == "running false"
    assert not _stands_still(docker, "one")
    docker.ok("pause", "one")
    docker.ok("rm", "-f", "one")


def _stands_still(engine: Engine, name: str) -> bool:
    """Does it say nothing for some time? What it had said before may still be on its way to the log."""
    for _ in range(5):
        before = engine.ok("logs", name)
        time.sleep(0.5)
        if engine.ok("logs", name) == before:
            return True
    return False


def test_docker_updates_limits(docker: Engine) -> None:
    """The first process asks for no memory, or the kernel might choose that."""
    docker.ok("run", "-d", "--name=one", "--network=none", "--memory=64m", "busybox", "sleep", "600")
    docker.ok("update", "--memory=24m", "--memory-swap=24m", "--pids-limit=9", "one")
    assert docker.ok("exec", "one", "sh", "-c", MEMORY_LIMIT) == "25165824\n"
    assert docker("exec", "one", "sh", "-c", EAT_MEMORY).exit_code == 137
    forks = docker("exec", "one", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done")
    assert "can't fork" in forks.stderr


def test_docker_knows_of_an_oom_kill(docker: Engine) -> None:
    small = ("--network=none", "--memory=16m", "--memory-swap=16m")
    # containerd asks for the kernel's event only when `start` has returned.
    assert docker("run", "--name=one", *small, "busybox", "sh", "-c", f"sleep 0.5; {EAT_MEMORY}").exit_code == 137
    assert docker.inspect("one", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}") == "exited 137 true"
    survived = docker("run", "--name=other", *small, "busybox", "sh", "-c", f"sleep 0.5; sh -c '{EAT_MEMORY}'; echo $?")
    assert survived.stdout == "137\n" and docker.inspect("other", "{{.State.OOMKilled}}") == "true"


def test_docker_restarts_and_health(docker: Engine) -> None:
    docker.ok("run", "-d", "--name=again", "--restart=on-failure:2", "busybox", "sh", "-c", "echo run; exit 9")
    script = "touch /tmp/ok; trap exit TERM; " + QUIET_LOOP
    health = ("--health-cmd=test -e /tmp/ok", "--health-interval=200ms", "--health-retries=2")
    docker.ok("run", "-d", "--name=ill", *health, "busybox", "sh", "-c", script)
    docker.until("ill", "{{.State.Health.Status}}", "healthy")
    docker.ok("exec", "ill", "rm", "/tmp/ok")
    docker.until("ill", "{{.State.Health.Status}}", "unhealthy")
    docker.ok("stop", "ill")
    docker.until("again", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "exited 9 2")
    assert docker.ok("logs", "again") == "run\n" * 3


def test_docker_publishes_ports(docker: Engine) -> None:
    """From the daemon's own network through its proxy, and from a world outside through its rules."""
    box = docker.box
    for command in (
        "ip netns add world",
        "ip link add uplink type veth peer name world netns world",
        "ip address add 198.51.100.2/24 dev uplink",
        "ip link set uplink up",
        "ip netns exec world ip address add 198.51.100.1/24 dev world",
        "ip netns exec world ip link set world up",
    ):
        done = box(*command.split())
        assert done.exit_code == 0, f"{command}: {done.stderr}"
    try:
        docker.ok("run", "-d", "--name=web", "-p8080:80", "busybox", "sh", "-c", SERVER)
        for place in ((), ("ip", "netns", "exec", "world")):
            address = "198.51.100.2" if place else "127.0.0.1"
            assert box(*place, "busybox", "sh", "-c", fetch(address, 8080)).stdout == "served\n"
        web = docker.inspect("web", "{{.NetworkSettings.IPAddress}}")
        assert docker.run(script=fetch(web)).stdout == "served\n"
        assert docker.run("--network=container:web", script=fetch("127.0.0.1")).stdout == "served\n"
        assert docker.run(script="ping -c1 -w20 198.51.100.1").exit_code == 0
    finally:
        box("ip", "netns", "delete", "world")


# ── Podman ───────────────────────────────────────────────────────────────────────────────────────────────

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
init_path = "/usr/bin/docker-init"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@pytest.fixture(scope="module")
def podman_box(run_directory: str, image_tar: str, runtimes: dict[str, str]) -> Iterator[Box]:
    """Podman has no daemon: what holds the box open just sleeps."""
    if shutil.which("podman") is None:
        pytest.skip("needs the program podman")
    at = f"{run_directory}/podman"
    environment = {"CONTAINERS_CONF": f"{at}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{at}/storage.conf"}
    with box_for(run_directory, "podman", "sleep", "infinity", **environment) as box:
        with open(environment["CONTAINERS_CONF"], "w") as file:
            file.write(CONTAINERS_CONF)
        with open(environment["CONTAINERS_STORAGE_CONF"], "w") as file:
            file.write(f'[storage]\ndriver = "vfs"\ngraphroot = "{at}/data"\nrunroot = "{at}/run"\n')
        box.until(lambda: box("podman", "version"))
        podman = _podman(box, "poc", runtimes)
        podman.ok("import", image_tar, "busybox")
        podman.ok("run", "--rm", "busybox", "true")
        yield box


def _podman(box: Box, name: str, runtimes: dict[str, str]) -> Engine:
    command = ["podman", f"--runtime={runtimes[name]}", f"--tmpdir={box.directory}/tmp"]
    return Engine(box, name, command, [f"--cgroup-parent={box.cgroup}"])


@pytest.fixture(params=["poc", "runc"])
def podman(podman_box: Box, runtimes: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = _podman(podman_box, request.param, runtimes)
    yield engine
    engine.ok("pod", "rm", "-a", "-f", "-t0")
    engine.ok("rm", "-a", "-f", "-v", "-t0")


def test_podman_tells_how_a_program_ended(podman: Engine) -> None:
    assert podman("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2; exit 3", input="in\n") == (
        "in\n",
        "err\n",
        3,
    )
    for args, code, words in FAILURES:
        failed = podman("run", "--rm", "busybox", *args)
        assert failed.exit_code == code and words in failed.stderr, failed
    assert podman.run("--init", script="cat /proc/1/comm; exit 5") == ("podman-init\n", "", 5)
    script = "echo out > /dev/stdout; grep ^Cap[EA] /proc/self/status"
    assert (
        podman.run("-u", "user", script=script).stdout == "out\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n"
    )
    refused = podman.run("--read-only", "--cap-drop=all", script="touch /x; chown 1 /proc/self")
    assert refused.exit_code == 1 and "Read-only" in refused.stderr
    assert podman.run("--memory=32m", script=MEMORY_LIMIT).stdout == "33554432\n"


def test_podman_life_of_a_container(podman: Engine, terminal: Terminal) -> None:
    podman.ok("run", "-d", "--name=one", "--memory=64m", "busybox", "sh", "-c", GOOD_SLEEPER)
    podman.logs_until("one", "out")
    assert podman("exec", "-i", "one", "sh", "-c", "cat; echo err >&2; exit 4", input="in\n") == ("in\n", "err\n", 4)
    assert podman("exec", "-u", "user", "one", "sh", "-c", "id -u; echo q > /dev/stderr") == ("1000\n", "q\n", 0)
    missing = podman("exec", "one", "nowhere")
    assert missing.exit_code == 127 and "executable file not found" in missing.stderr
    command = podman.command("exec", "-it", "one", "sh", "-c", "tty; read line; exit $line")
    with terminal.start(command, env=podman.box.environment) as process:
        terminal.read_until(b"/dev/pts/0\r\n")
        os.write(terminal.fd, b"6\n")
        assert process.wait(30) == 6

    podman.ok("pause", "one")
    assert podman.inspect("one", "{{.State.Status}} {{.State.Paused}}") == "paused true"
    podman.ok("kill", "-s", "HUP", "one")
    assert "hup" not in podman.ok("logs", "one")
    podman.ok("unpause", "one")
    podman.logs_until("one", "hup")
    assert podman.inspect("one", "{{.State.Status}}") == "running"

    podman.ok("update", "--memory=40m", "one")
    assert podman.ok("exec", "one", "sh", "-c", MEMORY_LIMIT) == "41943040\n"
    assert podman.ok("stats", "--no-stream", "--format={{.MemUsage}}", "one").strip().endswith("/ 67.11MB")
    podman.ok("stop", "one")
    assert podman("logs", "one") == ("out\nhup\nterm\n", "err\n", 0)
    assert podman.inspect("one", "{{.State.Status}} {{.State.ExitCode}}") == "exited 7"
    podman.ok("start", "one")
    podman.ok("kill", "one")
    assert podman.ok("wait", "one") == "137\n"
    podman.ok("rm", "one")
    assert podman("inspect", "one").exit_code == 125


def test_podman_pods(podman: Engine) -> None:
    """Containers of a pod join the namespaces of its first one: they meet on its loopback interface."""
    cgroup = f"--cgroup-parent={podman.box.cgroup}"
    infra = ("--infra-image=localhost/busybox", "--infra-command=/bin/sleep 600")
    id = podman.ok("pod", "create", "--name=pod", cgroup, *infra).strip()
    pod = ("run", "--pod=pod")
    podman = Engine(podman.box, podman.name, podman.engine, [])  # the pod's cgroup is the parent now
    podman.ok(*pod, "-d", "--name=web", "busybox", "sh", "-c", SERVER)
    script = f"{fetch('127.0.0.1')}; hostname"
    assert podman.ok(*pod, "--rm", "busybox", "sh", "-c", script) == "served\npod\n"
    podman.ok("pod", "pause", "pod")
    assert podman.inspect("web", "{{.State.Status}}") == "paused"
    podman.ok("pod", "unpause", "pod")
    podman.ok("pod", "kill", "pod")
    assert podman.ok("wait", "web") == "137\n"
    podman.ok("pod", "start", "pod")
    assert podman.inspect("web", "{{.State.Status}}") == "running"
    podman.ok("pod", "rm", "-f", "-t0", "pod")
    assert podman.ok("ps", "-aq") == ""
    # Podman 4.3 forgets the pod's own group where there are hierarchies without a v1 controller.
    for root in leaks.cgroup_roots():
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(f"{root}{podman.box.cgroup}/{id}")


# ── containerd ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def docker_archive(run_directory: str, image_tar: str) -> str:
    """The image busybox as `docker save` writes it: a manifest, a configuration and one layer."""
    with open(image_tar, "rb") as file:
        layer = file.read()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = json.dumps({"architecture": machine, "os": "linux", "config": IMAGE_CONFIG, "rootfs": rootfs})
    manifest = [{"Config": "config.json", "RepoTags": ["docker.io/library/busybox:1"], "Layers": ["layer.tar"]}]
    path = f"{run_directory}/docker-archive.tar"
    with tarfile.open(path, "w") as archive:
        members = {"layer.tar": layer, "config.json": config.encode(), "manifest.json": json.dumps(manifest).encode()}
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


CONTAINERD_CONFIG = """
version = 2
root = "{at}/data"
state = "/run/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/socket"
[ttrpc]
address = "{at}/socket.ttrpc"
"""


@pytest.fixture(scope="module")
def containerd(run_directory: str, docker_archive: str, runtimes: dict[str, str]) -> Iterator[Box]:
    """A daemon with the image busybox, that has had one task; native is the snapshotter every file system can do."""
    if shutil.which("ctr") is None:
        pytest.skip("needs the program ctr")
    at = f"{run_directory}/containerd"
    environment = {"CONTAINERD_ADDRESS": f"{at}/socket", "CONTAINERD_SNAPSHOTTER": "native"}
    program = ["sh", "-c", f"while [ ! -e {at}/config ]; do sleep 0.01; done; exec containerd --config {at}/config"]
    with box_for(run_directory, "containerd", *program, **environment) as box:
        with open(f"{at}/new", "w") as file:
            file.write(CONTAINERD_CONFIG.format(at=at))
        os.rename(f"{at}/new", f"{at}/config")
        box.until(lambda: box("ctr", "version"))
        imported = box("ctr", "image", "import", docker_archive)
        assert imported.exit_code == 0, imported.stderr
        _ctr(box, "poc", runtimes).ok("run", "--rm", *BUSYBOX, "true")
        yield box


def _ctr(box: Box, name: str, runtimes: dict[str, str]) -> Engine:
    runtime = ["--runtime=io.containerd.runc.v2", f"--runc-binary={runtimes[name]}"]
    return Engine(box, name, ["ctr"], [*runtime, f"--cgroup={box.cgroup}/one"])


@pytest.fixture(params=["poc", "runc"])
def ctr(containerd: Box, runtimes: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = _ctr(containerd, request.param, runtimes)
    yield engine
    engine("tasks", "rm", "-f", "one")
    engine("containers", "rm", "one")


BUSYBOX = ("docker.io/library/busybox:1", "one")


def test_containerd_tells_how_a_program_ended(ctr: Engine, tmp_path: Any) -> None:
    ended = ctr("run", "--rm", f"--pid-file={tmp_path}/pid", *BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ended.stdout, ended.exit_code) == ("out\n", 3) and "err\n" in ended.stderr
    assert (tmp_path / "pid").read_text().isdigit()
    failed = ctr("run", "--rm", *BUSYBOX, "nowhere")
    assert failed.exit_code == 1
    assert (
        "OCI runtime create failed: " in failed.stderr and 'exec: "nowhere": executable file not found' in failed.stderr
    )
    script = "pwd; echo $A; touch /x || grep ^CapBnd /proc/self/status"
    run = ctr(
        "run", "--rm", "--cwd=/tmp", "--env=A=b", "--read-only", "--cap-drop=CAP_CHOWN", *BUSYBOX, "sh", "-c", script
    )
    assert run.stdout == "/tmp\nb\nCapBnd:\t00000000a80425fa\n"


def test_containerd_life_of_a_task(ctr: Engine, terminal: Terminal) -> None:
    ctr.ok("run", "-d", "--memory-limit=67108864", *BUSYBOX, "sh", "-c", GOOD_SLEEPER)
    pid = _task(ctr)[0]
    done = ctr("tasks", "exec", "--exec-id=a", "one", "sh", "-c", "echo in; exit 4")
    assert (done.stdout, done.exit_code) == ("in\n", 4)
    missing = ctr("tasks", "exec", "--exec-id=b", "one", "nowhere")
    assert missing.exit_code == 1 and 'exec: "nowhere": executable file not found' in missing.stderr
    command = ctr.command("tasks", "exec", "-t", "--exec-id=c", "one", "sh", "-c", "tty; read line; exit $line")
    with terminal.start(command, env=ctr.box.environment) as process:
        terminal.read_until(b"/dev/pts/0\r")
        os.write(terminal.fd, b"6\n")
        assert process.wait(30) == 6
    ctr.ok("tasks", "exec", "-d", "--exec-id=d", "one", "sleep", "77")
    listed = ctr.ok("tasks", "ps", "one")
    assert pid in listed and "ExecID:d" in listed

    metrics = json.loads(ctr.ok("tasks", "metrics", "--format=json", "one"))
    assert metrics["pids"]["current"] >= 2 and metrics["memory"]["usage"]["limit"] == 67108864
    ctr.ok("tasks", "pause", "one")
    assert _task(ctr) == [pid, "PAUSED"]
    assert "cannot exec in a paused state" in ctr("tasks", "exec", "--exec-id=e", "one", "true").stderr
    ctr.ok("tasks", "resume", "one")
    assert _task(ctr) == [pid, "RUNNING"]

    ctr.ok("tasks", "kill", "-s", "SIGTERM", "one")
    until_equal(lambda: _task(ctr)[1], "STOPPED")
    assert "exit code 7" in ctr("tasks", "rm", "one").stderr
    ctr.ok("containers", "rm", "one")
    ctr.ok("run", "-d", *BUSYBOX, "sh", "-c", "sleep 88 & exec sleep 99")
    ctr.ok("tasks", "kill", "-a", "-s", "SIGKILL", "one")
    until_equal(lambda: _task(ctr)[1], "STOPPED")
    assert "exit code 137" in ctr("tasks", "rm", "one").stderr


def _task(ctr: Engine) -> list[str]:
    """[pid, status] of the only task there is."""
    (line,) = ctr.ok("tasks", "ls").splitlines()[1:]
    return line.split()[1:]


def test_containerd_run_on_a_terminal(ctr: Engine, terminal: Terminal) -> None:
    command = ctr.command("run", "--rm", "-t", *BUSYBOX, "sh", "-c", SIZES)
    with terminal.start(command, env=ctr.box.environment) as process:
        terminal.read_until(b"/dev/pts/0\r")  # after which ctr puts a carriage return more
        os.write(terminal.fd, b"word\n")
        terminal.read_until(b"said word\r")
        terminal.resize(20, 50)
        terminal.read_until(b"ready\r")
        os.write(terminal.fd, b"\x03")
        assert process.wait(30) == 3
