"""The library: what `poc.run` and `poc.Engine` give back, inside programs that have threads, signal handlers and
children of their own, and the mechanisms alone, as their docstrings say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT, CommandLine, needs, wait_until

import poc
from poc import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import Any

pytestmark = needs("root", "overlay")

SLEEP = ["sleep", "1000"]


def test_run_gives_output_and_exit_status(
    engine: poc.Engine, engine_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POC_ROOT", engine_root)
    result = poc.run("busybox", ["sh", "-c", r"printf 'out\n\377'; echo err >&2; exit 7"], network="none")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n\xff", b"err\n", 7)
    assert (result.output, result.oom_killed) == ("out\n�", False)
    assert poc.run("busybox", "echo 'a b' c", network="none").output == "a b c\n"
    assert poc.run("busybox", ["cat"], stdin=b"in\0", network="none").stdout == b"in\0"
    assert poc.run("busybox", ["cat"], network="none").stdout == b""
    with pytest.raises(errors.ContainerError, match="exit status 3") as failed:
        poc.run("busybox", ["sh", "-c", "echo why; exit 3"], network="none", check=True)
    assert isinstance(failed.value.result, poc.RunResult) and failed.value.result.output == "why\n"
    assert poc.run("busybox", ["true"], network="none", check=True).exit_code == 0
    assert poc.Engine().containers.list(all=True) == []


def test_more_than_fits_into_pipes(engine: poc.Engine) -> None:
    data = os.urandom(3_000_000)
    result = engine.containers.run("busybox", ["sh", "-c", "tee /dev/stderr"], stdin=data, remove=True, network="none")
    assert result.stdout == data
    assert result.stderr == data
    result = engine.containers.run(
        "busybox", ["sh", "-c", "head -c 5; head -c 2000000 /dev/zero"], stdin=data, remove=True, network="none"
    )
    assert result.stdout == data[:5] + bytes(2_000_000), "what the program left in its stdin keeps nobody waiting"


def test_detached(engine: poc.Engine) -> None:
    container = engine.containers.run(
        "busybox", ["sh", "-c", "echo hi; exec sleep 1000"], detach=True, name="one", network="none", labels={"a": "b"}
    )
    assert isinstance(container, poc.Container)
    assert (container.status, container.name, container.labels) == ("running", "one", {"a": "b"})
    assert len(container.id) == 64 and container.id.startswith(container.short_id)
    assert container.attrs["State"]["Pid"] > 0
    with pytest.raises(TimeoutError, match="one"):
        container.wait(timeout=0.05)
    assert next(container.logs(follow=True)) == ("stdout", b"hi\n")
    assert engine.containers.get("one").id == engine.containers.get(container.id[:9]).id == container.id
    container.stop(timeout=0)
    assert (container.status, container.wait(), container.attrs["State"]["ExitCode"]) == ("exited", 137, 137)
    container.remove()
    with pytest.raises(errors.ContainerNotFound):
        engine.containers.get("one")


def test_a_with_block_takes_its_container_away(engine: poc.Engine) -> None:
    for removed_by_hand in (False, True):
        with engine.containers.run("busybox", SLEEP, detach=True, network="none", volumes=["/data"]) as container:
            assert container.exec_run(["pwd"]).output == "/\n"
            if removed_by_hand:
                container.remove(force=True, v=True)
        assert engine.containers.list(all=True) == [] and engine.volumes.list() == []


def test_wait_tells_the_exit_code_of_one_that_removes_itself(engine: poc.Engine) -> None:
    command = ["sh", "-c", "read line; exit $line"]
    for number in (0, 9):
        script = ["sh", "-c", f"sleep 0.2; exit {number}"]
        container = engine.containers.run("busybox", script, detach=True, remove=True, network="none")
        assert container.wait(timeout=20) == number
    assert engine.containers.list(all=True) == []
    with pytest.raises(errors.ContainerNotFound):
        container.wait()
    created = engine.containers.create("busybox", command)
    assert created.wait() == 0, "it never ran, like docker's"


def test_what_cannot_start_raises_and_leaves_nothing(engine: poc.Engine) -> None:
    cases: list[tuple[list[str], dict[str, Any], type[Exception], str]] = [
        (["nosuch"], {}, errors.CommandNotFound, "nosuch"),
        (["/etc/passwd"], {}, errors.CommandNotExecutable, "Permission denied"),
        (["true"], {"user": "nobodyknows"}, errors.InvalidArgument, "nobodyknows"),
        (["true"], {"tmpfs": {"/etc/passwd": ""}}, errors.SetupError, "mount tmpfs on /etc/passwd: Not a directory"),
        (["true"], {"cpus": 0}, errors.InvalidArgument, "--cpus"),
    ]
    for detach in (False, True):
        for command, options, kind, text in cases:
            with pytest.raises(kind, match=text):
                engine.containers.run("busybox", command, detach=detach, network="none", **options)
    assert engine.containers.list(all=True) == []
    with pytest.raises(TypeError, match="colour"):
        engine.containers.run("busybox", colour="red")


class Interrupted(Exception):
    """What a signal handler of the program raises."""


@contextlib.contextmanager
def handled(number: int, handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_an_exception_from_a_signal_handler_takes_the_container_along(engine: poc.Engine) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    for remove in (True, False):
        with handled(signal.SIGALRM, interrupt), pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            engine.containers.run("busybox", SLEEP, remove=remove, network="none")
    [container] = engine.containers.list(all=True)
    assert (container.status, container.wait()) == ("exited", 137)


def test_others_can_end_a_container_that_a_program_waits_for(cli: CommandLine, engine: poc.Engine) -> None:
    """The program that called `run` is its monitor, and goes on afterwards: nobody may wait for its end."""
    with ThreadPoolExecutor() as pool:
        for words, remove in (
            (("stop", "-t", "0", "busy"), False),
            (("rm", "-f", "busy"), True),
            (("kill", "busy"), True),
        ):
            running = pool.submit(engine.containers.run, "busybox", SLEEP, name="busy", remove=remove, network="none")
            wait_until(lambda: cli("ps", "-q", "--filter", "name=busy").stdout)
            assert cli(*words, timeout=20) == ("busy\n", "", 0)
            assert running.result(timeout=20).exit_code == 137
            if not remove:
                assert cli("wait", "busy", timeout=20).stdout == "137\n"
                assert cli("rm", "busy", timeout=20).exit_code == 0
        assert engine.containers.list(all=True) == []


def test_it_gets_along_with_what_a_program_does_about_its_children(engine: poc.Engine) -> None:
    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    handlers: tuple[Callable[[int, FrameType | None], object] | signal.Handlers, ...] = (reap, signal.SIG_IGN)
    for handler in handlers:
        with handled(signal.SIGCHLD, handler):
            for network in ("none", "bridge"):
                result = engine.containers.run(
                    "busybox", ["sh", "-c", "cat; echo err >&2; exit 5"], stdin=b"in", remove=True, network=network
                )
                assert (result.stdout, result.stderr, result.exit_code) == (b"in", b"err\n", 5)
            with pytest.raises(errors.CommandNotFound):
                engine.containers.run("busybox", ["nosuch"], network="none")
            container = engine.containers.run("busybox", ["false"], detach=True)
            assert container.wait(timeout=20) == 1
            container.remove()


def test_no_zombies_and_no_children_are_left(engine: poc.Engine) -> None:
    """The monitor is nobody's child, and what the library forks it reaps."""
    child = subprocess.Popen(["sleep", "1000"])
    try:
        engine.containers.run("busybox", ["true"], remove=True)
        container = engine.containers.run("busybox", SLEEP, detach=True)
        with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
            assert file.read().split() == [str(child.pid)]
        container.remove(force=True)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL, "nobody else has reaped it"


PARALLEL = 12


def test_threads(engine: poc.Engine) -> None:
    """Each thread gets its own container's output, exit status and errors, whatever the other threads do."""
    stop = threading.Event()

    def churn() -> None:
        # Memory and locks of the interpreter are in use whenever another thread forks.
        while not stop.is_set():
            subprocess.run(["true"], check=True)
            list(map(str, range(1000)))

    def use(number: int) -> tuple[bytes, int]:
        command = ["sh", "-c", f"cat; echo {number}; exit {number}"]
        if number % 3 == 0:
            with pytest.raises(errors.CommandNotFound):
                engine.containers.run("busybox", ["nosuch"], network="none")
        if number % 2:
            container = engine.containers.run("busybox", command, detach=True, network="none")
            code = container.wait(timeout=60)
            container.remove()
            return b"", code
        result = engine.containers.run(
            "busybox", command, stdin=b"%d " % number, remove=True, network=("none", "bridge")[number % 4 // 2]
        )
        return result.stdout, result.exit_code

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            results = list(pool.map(use, range(2 * PARALLEL)))
    finally:
        stop.set()
        churner.join()
    for number, result in enumerate(results):
        assert result == (b"" if number % 2 else b"%d %d\n" % (number, number), number)
    assert engine.containers.list(all=True) == []


SLOW_IMPORTS = """
import sys, threading, time
import poc

class Slow:
    "Stands for a program whose other thread is just importing what poc's own children need."
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[2].split(","):
            importing.set()
            time.sleep(1)

importing = threading.Event()
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=lambda: [__import__(name) for name in sys.argv[2].split(",")])
thread.start()
importing.wait()
engine = poc.Engine(sys.argv[1])
assert engine.containers.run("busybox", ["false"], detach=True).wait(timeout=20) == 1
assert engine.containers.run("busybox", ["true"], remove=True).exit_code == 0
thread.join()
"""


@pytest.mark.parametrize("modules", ["pyroute2", "poc.runtime.seccomp_compiler,pyseccomp"])
def test_a_fork_while_another_thread_imports(engine: poc.Engine, engine_root: str, modules: str) -> None:
    command = [sys.executable, "-c", SLOW_IMPORTS, engine_root, modules]
    subprocess.run(command, check=True, cwd=CHECKOUT, timeout=50)


# ── the mechanisms alone, as their docstrings say ──


def test_namespaces_alone() -> None:
    from poc.namespaces import clone, join

    reader, writer = os.pipe()

    def child() -> int:
        os.dup2(writer, 1)
        os.execvp("sh", ["sh", "-c", "hostname jail; hostname; echo $$; readlink /proc/self/ns/user"])

    for threads in (0, 2):
        stop = threading.Event()
        others = [threading.Thread(target=stop.wait) for _ in range(threads)]
        for thread in others:
            thread.start()
        process = clone(["pid", "uts"], child)
        assert (process.wait(), process.wait()) == (0, 0)
        expected = f"jail\n1\n{os.readlink('/proc/self/ns/user')}\n"
        assert os.read(reader, 100).decode() == expected
        assert clone([], lambda: 7).wait() == 7
        assert clone([], lambda: sys.exit(3)).wait() == 1, "an exception ends the child, it never returns"
        sleeper = clone(["uts", "network"], lambda: time.sleep(1000))
        namespaces = [os.readlink(f"/proc/{sleeper.pid}/ns/{name}") for name in ("uts", "net")]

        def look(pid: int = sleeper.pid, expected: list[str] = namespaces) -> bool:
            join(pid, ["uts", "network"])
            return [os.readlink(f"/proc/self/ns/{name}") for name in ("uts", "net")] != expected

        assert clone([], look).wait() == 0
        sleeper.kill(signal.SIGTERM)
        assert sleeper.wait() == -signal.SIGTERM
        sleeper.kill()
        stop.set()
        for thread in others:
            thread.join()
    assert os.uname().nodename != "jail"
    os.close(reader)
    os.close(writer)
    with pytest.raises(KeyError):
        clone(["nosuch"], lambda: 0)


@needs("cgroup:pids")
def test_cgroups_alone() -> None:
    with poc.cgroups.Cgroup("poc-test-alone/demo", resources={"pids": {"limit": 3}}) as group:
        forks = ["sh", "-c", "read go; sleep 1000 & sleep 1000 & sleep 1000 & wait"]
        sleeper = subprocess.Popen(forks, stdin=subprocess.PIPE)
        group.add(sleeper.pid)
        assert group.pids() == [sleeper.pid]
        assert sleeper.stdin is not None
        sleeper.stdin.write(b"go\n")
        sleeper.stdin.close()
        assert sleeper.wait(timeout=20) != 0, "it may not fork a third time"
        group.kill()
    assert not group.exists()
    with pytest.raises(errors.InvalidArgument):
        poc.cgroups.Cgroup("../outside")


def test_rootfs_alone(engine: poc.Engine, tmp_path: Path) -> None:
    """The drawing in the module's docstring, step by step."""
    from poc import namespaces, rootfs

    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    root = str(tmp_path / "root")
    overlay = rootfs.Overlay(engine.images.get("busybox").layers[::-1], f"{tmp_path}/upper", f"{tmp_path}/work")
    spec = {"mounts": [{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}]}
    steps = rootfs.plan(spec)

    def child() -> int:
        rootfs.detach_propagation()
        overlay.mount(root)
        root_fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
        for step in steps:
            step.apply(root_fd)
        rootfs.enter(root)
        script = "echo x >/t/x && echo kept >/kept && test -c /dev/null && ! test -e /proc/self"
        os.execv("/bin/sh", ["sh", "-c", script])

    assert namespaces.clone(["mount"], child).wait() == 0
    assert (tmp_path / "upper/kept").read_text() == "kept\n" and os.listdir(root) == []


def test_net_alone(own_network: None, tmp_path: Path) -> None:
    """The example in the package's docstring: one process in a network namespace, on a bridge."""
    from poc.namespaces import clone
    from poc.net import Bridge, Leases, host_interface_name

    bridge = Bridge.establish("pocbrtest", "poc-test")
    leases = Leases(f"{tmp_path}/leases", bridge.subnet.text)
    address = leases.acquire("me")
    process = clone(["network"], lambda: time.sleep(1000))
    try:
        namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        assert isinstance(bridge.attach(namespace, host_interface_name("me"), address), list)
        os.close(namespace)
        assert subprocess.run(["ping", "-c1", "-W5", address], stdout=subprocess.DEVNULL).returncode == 0
        assert leases.owners() == {address: "me"}
    finally:
        process.kill()
        process.wait()
        leases.release("me")
        bridge.remove()
    assert leases.owners() == {} and not bridge.exists()
