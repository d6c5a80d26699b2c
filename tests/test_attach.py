"""`poc attach` and letting go of a container: who gets its output, whose its stdin is, the keys, and who is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CommandLine, Terminal, needs, running, wait_until
from hypothesis import given
from hypothesis import strategies as st

import poc
from poc import errors
from poc.engine.keys import Watch, parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

kernel = needs("root", "overlay", "program:busybox")
ALONE: dict[str, Any] = {"detach": True, "network": "none"}
ECHO = ["sh", "-c", "while read line; do echo got $line; done; echo end; exit 7"]
DETACH = b"\x10\x11"


# ── the keys ─────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_dockers() -> None:
    assert parse_keys(None) == parse_keys("") == parse_keys("ctrl-p,ctrl-q") == DETACH
    assert parse_keys("ctrl-x,a,B,DEL,ctrl-@,ctrl-[,ctrl-_") == b"\x18aB\x7f\x00\x1b\x1f"
    for text in ("ab", "ctrl-", "ctrl-P", "ctrl-1", "a,", "é"):
        with pytest.raises(errors.InvalidArgument, match="invalid detach keys"):
            parse_keys(text)


@given(st.lists(st.binary(max_size=5)), st.binary(min_size=1, max_size=3))
def test_what_is_typed_is_passed_on_up_to_the_keys(pieces: list[bytes], keys: bytes) -> None:
    watch, whole, passed, found = Watch(keys), b"".join(pieces), b"", False
    for piece in pieces:
        more, found = watch.feed(piece)
        passed += more
        if found:
            break
    assert found == (keys in whole)
    if found:
        assert passed == whole[: whole.index(keys)]
    else:  # at most the beginning of the keys is held back
        assert whole.startswith(passed) and keys.startswith(whole[len(passed) :])


# ── several at once ──────────────────────────────────────────────────────────────────────────────────────


@kernel
def test_all_get_the_output_and_any_may_write(engine: poc.Engine, cli: CommandLine) -> None:
    script = "echo first; while read line; do echo got $line; echo err $line >&2; done"
    container = engine.containers.run("busybox", ["sh", "-c", script], name="many", stdin_open=True, **ALONE)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    clients = [cli.start("attach", "many", **pipes) for _ in range(3)]
    try:
        await_attached(engine, container, 3)
        for number, client in enumerate(clients):
            assert client.stdin is not None
            client.stdin.write(b"%d\n" % number)
            client.stdin.flush()
            for other in clients:
                assert other.stdout is not None and other.stdout.readline() == b"got %d\n" % number
        clients[0].kill()  # one that has vanished is no loss
        clients[0].communicate()
        assert clients[1].stdin is not None and clients[1].stdout is not None
        clients[1].stdin.write(b"again\n")
        clients[1].stdin.flush()
        assert clients[1].stdout.readline() == b"got again\n"
        container.stop(timeout=0)
        for client in clients[1:]:
            out, err = client.communicate(timeout=20)
            assert client.returncode == 137 and err.startswith(b"err 0\nerr 1\nerr 2\n") and b"first" not in out
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    container.remove()


def await_attached(engine: poc.Engine, container: poc.Container, count: int) -> None:
    """Until so many have been let in since it was made."""
    wait_until(lambda: actions_of(engine, container).count("attach") >= count)


def actions_of(engine: poc.Engine, container: poc.Container) -> list[str]:
    past = engine.events(since=0, filters={"container": container.id}, follow=False)
    return [event["Action"] for event in past]


@kernel
def test_exit_codes_and_refusals(engine: poc.Engine, cli: CommandLine) -> None:
    container = engine.containers.run("busybox", ECHO, name="one", stdin_open=True, stdin_once=True, **ALONE)
    done = cli("attach", "one", input="a\n")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "got a\nend\n", "")
    done = cli("attach", "one")
    assert done.exit_code == 1 and "stopped container" in done.stderr
    container.start()
    container.pause()
    done = cli("attach", "one")
    assert done.exit_code == 1 and "paused container" in done.stderr
    with pytest.raises(errors.Conflict, match="paused"):
        container.attach()
    container.remove(force=True)
    assert "no such container" in cli("attach", "one").stderr
    assert "invalid detach keys" in cli("attach", "--detach-keys", "nonsense", "one").stderr


@kernel
def test_whose_stdin_is_it(engine: poc.Engine, cli: CommandLine) -> None:
    """Started without a client it stays open; else it ends with the one who is attached to it."""
    assert cli("run", "-d", "-i", "--name", "open", "--network", "none", "busybox", *ECHO).exit_code == 0
    container = engine.containers.get("open")
    for number in range(2):
        with running(cli.start("attach", "open", stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as client:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"%d\n" % number)
            client.stdin.close()
            assert client.stdout.readline() == b"got %d\n" % number
            with pytest.raises(subprocess.TimeoutExpired):
                client.wait(0.2)
    assert container.status == "running" and not container.attrs["Config"]["StdinOnce"]
    container.remove(force=True)

    assert cli("create", "-i", "--name", "once", "--network", "none", "busybox", *ECHO).exit_code == 0
    container = engine.containers.get("once")
    assert container.attrs["Config"]["StdinOnce"]
    with running(cli.start("start", "-a", "once", stdout=subprocess.PIPE)):
        await_attached(engine, container, 1)
        with running(cli.start("attach", "--no-stdin", "once", stdout=subprocess.PIPE)) as client:
            await_attached(engine, container, 2)
            client.kill()
        time.sleep(0.1)
        assert container.status == "running"  # neither of the two was attached to stdin
        done = cli("attach", "once", input="x\n")
        assert (done.exit_code, done.stdout) == (7, "got x\nend\n")
    container.remove()


@kernel
def test_a_slow_one_slows_the_container_for_all(engine: poc.Engine, cli: CommandLine) -> None:
    script = "i=0; while :; do echo $i; i=$((i+1)); done"
    container = engine.containers.run("busybox", ["sh", "-c", script], name="flood", **ALONE)
    with running(cli.start("attach", "flood", stdout=subprocess.DEVNULL)) as slow:
        await_attached(engine, container, 1)
        os.kill(slow.pid, signal.SIGSTOP)
        await_quiet(container.log_path)
        slow.kill()
        size = os.path.getsize(container.log_path)
        wait_until(lambda: os.path.getsize(container.log_path) > size)
    container.remove(force=True)


def await_quiet(path: str) -> None:
    """Until the file no longer grows."""
    size, deadline = -1, time.monotonic() + 20
    while (now := os.path.getsize(path)) != size:
        assert time.monotonic() < deadline
        size = now
        time.sleep(0.3)


def await_logged(container: poc.Container) -> None:
    wait_until(lambda: bool(list(container.logs())))


@kernel
def test_a_reader_that_leaves_closes_nothing_for_the_container(engine: poc.Engine, cli: CommandLine) -> None:
    script = "while sleep 0.02; do echo y || exit 3; done"
    container = engine.containers.run("busybox", ["sh", "-c", script], name="looked-at", **ALONE)
    command = " ".join([*cli.command, "attach", "looked-at", "| head -n 1"])
    assert subprocess.run(["sh", "-c", command], capture_output=True, timeout=20).stdout == b"y\n"
    time.sleep(0.2)
    assert container.status == "running"
    container.remove(force=True)


@kernel
def test_signals(engine: poc.Engine, cli: CommandLine) -> None:
    script = "trap 'echo usr1; exit 9' USR1; echo up; while :; do sleep 0.05; done"
    for options, code in ((("--sig-proxy=false",), -signal.SIGUSR1), ((), 9)):
        container = engine.containers.run("busybox", ["sh", "-c", script], name="sig", **ALONE)
        with running(cli.start("attach", *options, "sig", stdout=subprocess.PIPE)) as client:
            await_attached(engine, container, 1)
            await_logged(container)
            client.send_signal(signal.SIGUSR1)
            assert client.wait(20) == code
        assert container.status == ("running" if code < 0 else "exited")
        container.remove(force=True)


# ── letting go ───────────────────────────────────────────────────────────────────────────────────────────

SHELL = ("sh", "-c", "trap 'echo size $(stty size)' WINCH; echo up; while :; do read line && echo got $line; done")


@contextmanager
def seat() -> Iterator[Terminal]:
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.close()


@kernel
def test_detach_and_attach_again(engine: poc.Engine, cli: CommandLine) -> None:
    with seat() as terminal:
        words = ("run", "-it", "--name", "tty", "--network", "none", "busybox", *SHELL)
        with terminal.start([*cli.command, *words]) as client:
            terminal.read_until(b"up")
            os.write(terminal.fd, b"\x10x\r" + DETACH)  # ctrl-p alone is the program's
            assert client.wait(20) == 0
        container = engine.containers.get("tty")
        assert container.status == "running"
        for options, keys in (((), DETACH), (("--detach-keys", "ctrl-x,a"), b"\x18a")):
            with terminal.start([*cli.command, "attach", *options, "tty"]) as client:
                said = terminal.read_until(b"size 31 97")  # it has been told to draw itself anew
                assert b"size 32 98" in said or b"got" in said or b"size 31 97" in said
                os.write(terminal.fd, b"hi\r")
                terminal.read_until(b"got hi")
                os.write(terminal.fd, keys)
                assert b"read escape sequence" in terminal.read_until(b"read escape sequence")
                assert client.wait(20) == 1
        assert container.status == "running"
        actions = actions_of(engine, container)
        assert actions == ["create", "attach", "start", "detach", "attach", "detach", "attach", "detach"]
        with terminal.start([*cli.command, "attach", "tty"]) as client:
            await_attached(engine, container, 4)
            container.kill()
            assert client.wait(20) == 137
        container.remove(force=True)


@kernel
def test_a_terminal_outlives_its_client(engine: poc.Engine, cli: CommandLine) -> None:
    """As docker's: no end of file comes to a shell whose client was killed."""
    with seat() as terminal:
        words = ("run", "-it", "--name", "left", "--network", "none", "busybox", *SHELL)
        with terminal.start([*cli.command, *words]) as client:
            terminal.read_until(b"up")
            client.kill()
    container = engine.containers.get("left")
    with running(cli.start("attach", "left", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)):
        await_attached(engine, container, 2)
        time.sleep(0.2)
        assert container.status == "running"
    with container.attach() as session:
        session.write(b"back\n")
        for _, data in session:
            if b"got back" in data:
                break
    container.remove(force=True)


@kernel
def test_detach_from_start_and_exec(engine: poc.Engine, cli: CommandLine) -> None:
    with seat() as terminal:
        assert cli("create", "-it", "--name", "kept", "--network", "none", "busybox", *SHELL).exit_code == 0
        with terminal.start([*cli.command, "start", "-ai", "--detach-keys=ctrl-a", "kept"]) as client:
            terminal.read_until(b"up")
            os.write(terminal.fd, b"\x01")
            assert client.wait(20) == 0
        container = engine.containers.get("kept")
        assert container.status == "running"
        script = "echo in; read line; while sleep 0.1; do echo still; done"
        with terminal.start([*cli.command, "exec", "-it", "kept", "sh", "-c", script]) as client:
            terminal.read_until(b"in\r\n")
            os.write(terminal.fd, b"go\r" + DETACH)
            terminal.read_until(b"read escape sequence")
            assert client.wait(20) == 1
        time.sleep(0.3)
        done = container.exec_run("ps")
        assert done is not None and "echo still" in done.output  # its terminal did not hang up
        container.remove(force=True)


# ── the library ──────────────────────────────────────────────────────────────────────────────────────────


@kernel
def test_a_session_is_an_iterator(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", ECHO, stdin_open=True, stdin_once=True, **ALONE)
    with container.attach() as session:
        session.write(b"a\n")
        session.end_stdin()
        assert b"".join(data for stream, data in session if stream == "stdout") == b"got a\nend\n"
        assert session.ended is not None and session.ended.exit_code == 7
    assert container.wait(20) == 7
    with pytest.raises(errors.Conflict, match="stopped"):
        container.attach()
    container.remove()


@kernel
def test_a_socket_with_a_long_path(run_directory: str, image_tar: str, own_network: None) -> None:
    """unix(7): 107 bytes; a store may be anywhere."""
    from conftest import IMAGE_CONFIG

    from poc.images.store import Store

    engine = poc.Engine(root=f"{run_directory}/{'long' * 20}")
    Store(engine.paths.data).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    container = engine.containers.run("busybox", ECHO, stdin_open=True, **ALONE)
    with container.attach() as session:
        session.write(b"far\n")
        assert next(iter(session)) == ("stdout", b"got far\n")
    container.remove(force=True)
    engine.prune(images=True)
