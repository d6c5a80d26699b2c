"""create, start, stop, kill, wait, rm, ps, logs, prune: what each does to a container in each state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, needs, wait_until

import poc
from poc import errors

if TYPE_CHECKING:
    from typing import Any

pytestmark = needs("root", "overlay")

SLEEP = ["sleep", "1000"]
PATIENT = ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"]


def make(engine: poc.Engine, command: list[str], **options: Any) -> poc.Container:
    return engine.containers.create("busybox", command, network="none", **options)


def started(engine: poc.Engine, command: list[str], **options: Any) -> poc.Container:
    container = make(engine, command, **options)
    container.start()
    return container


def lines(container: poc.Container, **options: Any) -> list[bytes]:
    return [data for _, data in container.logs(**options)]


def test_states_and_what_is_told_of_them(engine: poc.Engine) -> None:
    before = datetime.now(UTC)
    container = make(engine, PATIENT)
    state = container.attrs["State"]
    assert (container.status, state["Status"], state["Running"], state["Pid"]) == ("created", "created", False, 0)
    assert state["StartedAt"] == state["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert lines(container) == []

    container.start()
    state = container.attrs["State"]
    assert (container.status, state["Status"], state["Running"]) == ("running", "running", True)
    with open(f"/proc/{state['Pid']}/status") as file:
        assert re.search(r"^NSpid:\t\d+\t1$", file.read(), re.MULTILINE)
    assert before < datetime.fromisoformat(state["StartedAt"]) < datetime.now(UTC)

    assert next(container.logs(follow=True)) == ("stdout", b"up\n")
    container.stop()
    state = container.attrs["State"]
    assert (container.status, state["Running"], state["Pid"], state["ExitCode"]) == ("exited", False, 0, 5)
    assert datetime.fromisoformat(state["StartedAt"]) < datetime.fromisoformat(state["FinishedAt"])
    assert (state["Error"], state["OOMKilled"]) == ("", False)
    container.remove()
    with pytest.raises(errors.ContainerNotFound):
        container.remove()


def test_start_again_keeps_the_files(engine: poc.Engine) -> None:
    container = started(engine, ["sh", "-c", "cat /count 2>/dev/null; echo again >>/count; rm -f /etc/group"])
    for runs in range(3):
        assert container.wait(timeout=20) == 0
        assert lines(container) == [b"again\n"] * (runs * (runs + 1) // 2)
        container.start()
    container.wait(timeout=20)

    failing = make(engine, ["/script"])
    with pytest.raises(errors.CommandNotFound):
        failing.start()
    assert failing.status == "created" and failing.attrs["State"]["ExitCode"] == 127
    assert "/script" in failing.attrs["State"]["Error"]
    with pytest.raises(errors.CommandNotFound):
        failing.start()


def test_start_of_one_that_runs(engine: poc.Engine, cli: CommandLine) -> None:
    """Is no error, as docker's, but nobody can be attached to it by starting it."""
    container = started(engine, SLEEP)
    pid = container.attrs["State"]["Pid"]
    container.start()
    assert cli("start", container.name) == (f"{container.name}\n", "", 0)
    assert container.attrs["State"]["Pid"] == pid
    with pytest.raises(errors.Conflict, match="already running"):
        container.start(attach=True)
    with pytest.raises(errors.Conflict, match="already running"):
        container.run_here()


def test_many_start_the_same_one(engine: poc.Engine) -> None:
    container = make(engine, SLEEP)

    def start(_: int) -> str:
        try:
            engine.containers.get(container.id).start()
        except errors.Conflict:
            return "conflict"
        return "started"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(start, range(8)))
    assert "started" in answers and container.status == "running"


def test_stop_and_kill(engine: poc.Engine, cli: CommandLine) -> None:
    deaf = started(engine, SLEEP)  # process 1 of a pid namespace gets no signal it has no handler for
    deaf.kill("TERM")
    deaf.stop(timeout=0)
    assert deaf.wait() == 137
    deaf.stop()
    with pytest.raises(errors.Conflict, match="is not running"):
        deaf.kill()
    with pytest.raises(errors.Conflict, match="is not running"):
        make(engine, SLEEP).kill()

    signals = ["sh", "-c", "for s in HUP USR1 INT; do trap \"exit $((128 + $(kill -l $s)))\" $s; done; echo up; "
               "while :; do sleep 0.05; done"]  # fmt: skip
    for number, options in ((signal.SIGUSR1, {"stop_signal": "SIGUSR1"}), (signal.SIGHUP, {"stop_signal": "1"})):
        container = started(engine, signals, **options)
        assert next(container.logs(follow=True)) == ("stdout", b"up\n")
        container.stop(timeout=20)
        assert container.wait() == 128 + number
    container = started(engine, signals, stop_timeout=0)
    wait_until(lambda: lines(container))
    container.stop()
    assert container.wait() == 137, "TERM is not among them"
    container.start()
    wait_until(lambda: len(lines(container)) == 2)
    assert cli("kill", "-s", "INT", container.name) == (f"{container.name}\n", "", 0)
    assert container.wait(timeout=20) == 130
    with pytest.raises(errors.InvalidArgument, match="invalid signal"):
        container.kill("NOSUCH")


def test_wait(engine: poc.Engine, cli: CommandLine) -> None:
    containers = [started(engine, ["sh", "-c", f"sleep 0.3; exit {code}"], name=f"w{code}") for code in (0, 3, 255)]
    assert cli("wait", "w0", "w3", "w255", timeout=20) == ("0\n3\n255\n", "", 0)
    assert [container.wait(timeout=0) for container in containers] == [0, 3, 255]
    container = started(engine, SLEEP)
    answers: list[int] = []
    waiting = [threading.Thread(target=lambda: answers.append(container.wait(timeout=20))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    container.kill()
    for thread in waiting:
        thread.join()
    assert answers == [137] * 3


def test_rm(engine: poc.Engine, cli: CommandLine) -> None:
    container = started(engine, SLEEP, name="kept")
    refused = cli("rm", "kept")
    assert (refused.stdout, refused.exit_code, refused.stderr.count("\n")) == ("", 1, 1)
    assert "is running" in refused.stderr and container.status == "running"
    assert cli("rm", "-f", "kept", "nosuch") == ("kept\n", "Error: no such container: nosuch\n", 0)
    assert cli("rm", "nosuch") == ("", "Error: no such container: nosuch\n", 1)
    assert not os.path.exists(engine.paths.container(container.id))
    again = make(engine, SLEEP, name="kept")
    assert again.id != container.id, "the name is free"
    assert cli("rm", "kept") == ("kept\n", "", 0)


def test_names_and_prefixes(engine: poc.Engine, cli: CommandLine) -> None:
    containers = [make(engine, ["true"], name=f"name{number}") for number in range(20)]
    with pytest.raises(errors.ContainerExists, match="'name3' is in use"):
        make(engine, ["true"], name="name3")
    taken = cli("create", "--name", "name3", "busybox")
    assert (taken.stdout, taken.exit_code) == ("", 125) and "name3" in taken.stderr
    assert len(engine.containers.list(all=True)) == 20
    for container in containers[:3]:
        for reference in (container.name, container.id, container.short_id, container.id[:20]):
            assert engine.containers.get(reference).id == container.id
    # Twenty ids have sixteen first digits at most between them.
    first = next(digit for digit in "0123456789abcdef" if sum(c.id.startswith(digit) for c in containers) > 1)
    with pytest.raises(errors.Conflict, match=f"prefix {first} is ambiguous"):
        engine.containers.get(first)
    for missing in ("", "nosuch", "../containers", "name3/", "x" * 5000, "a\0b"):
        with pytest.raises(errors.ContainerNotFound):
            engine.containers.get(missing)
    # A name is looked for before an id.
    other = make(engine, ["true"], name=containers[0].id[:12])
    assert engine.containers.get(containers[0].id[:12]).id == other.id


def test_two_want_the_same_name(engine: poc.Engine) -> None:
    def create(_: int) -> str:
        try:
            return make(engine, ["true"], name="wanted").id
        except errors.ContainerExists:
            return ""

    with ThreadPoolExecutor(8) as pool:
        winners = [id for id in pool.map(create, range(24)) if id]
    assert len(winners) == 1 and [c.id for c in engine.containers.list(all=True)] == winners


def test_ps(engine: poc.Engine, cli: CommandLine) -> None:
    make(engine, ["true"], name="made", labels={"k": "v"})
    started(engine, ["sh", "-c", "exit 3"], name="done").wait(timeout=20)
    runs = started(engine, SLEEP, name="runs")
    heading, *rows = (re.split("   +", line) for line in cli("ps", "-a").stdout.splitlines())
    assert heading == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert [row[-1] for row in rows] == ["runs", "done", "made"], "newest first"
    states = {row[-1]: row[4] for row in rows}
    assert states["made"] == "Created" and re.fullmatch(r"Exited \(3\) .* ago", states["done"])
    assert re.fullmatch("Up .*", states["runs"])
    assert [line.split()[-1] for line in cli("ps").stdout.splitlines()] == ["NAMES", "runs"]
    assert cli("ps", "-q").stdout == f"{runs.short_id}\n" and cli("ps", "-q", "--no-trunc").stdout == f"{runs.id}\n"
    found = {row["Names"]: row for row in map(json.loads, cli("ps", "-a", "--format", "json").stdout.splitlines())}
    assert found["made"]["Labels"] == "k=v" and found["runs"]["State"] == "running"
    assert found["runs"]["Command"] == '"sleep 1000"' and found["runs"]["Networks"] == "none"
    assert [c.name for c in engine.containers.list()] == ["runs"]
    assert [c.name for c in engine.containers.list(all=True)] == ["runs", "done", "made"]


LOGGED = r"echo one; echo two >&2; printf 'three\nfour'; printf '\377\0\n' >&2; head -c 40000 /dev/zero | tr '\0' x"


def test_logs(engine: poc.Engine, cli: CommandLine) -> None:
    container = started(engine, ["sh", "-c", LOGGED], name="talks")
    container.wait(timeout=20)
    out, err = (b"".join(data for stream, data in container.logs() if stream == name) for name in ("stdout", "stderr"))
    assert out == b"one\nthree\nfour" + b"x" * 40_000 and err == b"two\n\xff\0\n"
    assert b"".join(lines(container, stderr=False)) == out
    assert b"".join(lines(container, stdout=False)) == err
    done = subprocess.run([*cli.command, "logs", "talks"], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (out, err)
    assert lines(container, tail=1000) == lines(container)
    ordered = started(engine, ["sh", "-c", LOGGED.replace(">&2", "")])  # of two pipes the order is anybody's guess
    ordered.wait(timeout=20)
    assert lines(ordered, tail=0) == [] and b"".join(lines(ordered, tail=1)) == b"x" * 40_000
    stamped = lines(ordered, timestamps=True, tail=2)
    assert sum(bool(re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", line)) for line in stamped) == 2, (
        "one time a line"
    )
    with open(container.log_path) as file:
        entries = [json.loads(line) for line in file]
    assert {tuple(sorted(entry)) for entry in entries} == {("log", "stream", "time")}, "docker's json-file format"
    assert lines(make(engine, SLEEP)) == []


def test_logs_of_a_terminal(engine: poc.Engine) -> None:
    container = started(engine, ["sh", "-c", "echo out; echo err >&2"], tty=True)
    container.wait(timeout=20)
    assert list(container.logs()) == [("stdout", b"out\r\n"), ("stdout", b"err\r\n")]


def test_logs_are_followed_to_the_end(engine: poc.Engine, cli: CommandLine) -> None:
    script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; [ $((i % 30)) = 0 ] && sleep 0.02; done"
    expected = [b"%d\n" % number for number in range(1, 301)]
    container = started(engine, ["sh", "-c", script])
    followers = [cli.start("logs", "-f", container.id, stdout=subprocess.PIPE) for _ in range(2)]
    assert lines(container, follow=True) == expected
    for follower in followers:
        out, _ = follower.communicate(timeout=60)
        assert (out.splitlines(keepends=True), follower.returncode) == (expected, 0)
    assert lines(container, follow=True, tail=2) == expected[-2:]

    removes_itself = started(engine, ["sh", "-c", f"sleep 0.3; {script}"], remove=True)
    assert lines(removes_itself, follow=True) == expected, "though its log is gone by then"


def open_files(pid: int) -> str:
    """What a process has open, as one text."""
    found = ""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass  # closed since
    return found


def test_rm_while_it_is_used(engine: poc.Engine, cli: CommandLine) -> None:
    """Whoever follows, waits or looks gets an answer."""
    container = started(engine, PATIENT)
    output = container.logs(follow=True)
    assert next(output) == ("stdout", b"up\n")
    with ThreadPoolExecutor() as pool:
        follower = pool.submit(list, output)
        waiter = cli.start("wait", container.id, stdout=subprocess.PIPE)
        wait_until(lambda: f"/{container.id}/status.json" in open_files(waiter.pid))
        container.remove(force=True)
        assert follower.result(timeout=20) == []
        assert waiter.communicate(timeout=20)[0] == b"137\n"
    with pytest.raises(errors.NotFound):
        container.start()


def test_rm_itself_is_gone_at_once(engine: poc.Engine, cli: CommandLine) -> None:
    assert cli("run", "--rm", "--name", "again", "--network", "none", "busybox", "true").exit_code == 0
    for _ in range(3):
        result = cli("run", "--rm", "-d", "--name", "again", "--network", "none", "busybox", "sh", "-c", "exit 0")
        assert result.exit_code == 0, result.stderr
        wait_until(lambda: cli("ps", "-aq").stdout == "")
    assert os.listdir(f"{engine.paths.data}/names") == os.listdir(f"{engine.paths.data}/containers") == []


def test_an_image_in_use_stays(engine: poc.Engine, cli: CommandLine) -> None:
    container = make(engine, ["true"], name="user")
    for force in ((), ("-f",)):
        refused = cli("rmi", *force, "busybox")
        assert refused.exit_code == 1 and container.short_id in refused.stderr
    assert cli("images", "-q").stdout != ""


def test_prune_takes_everything_but_the_images(engine: poc.Engine, cli: CommandLine) -> None:
    make(engine, ["true"], name="made")
    started(engine, ["true"], name="done").wait(timeout=20)
    started(engine, SLEEP, name="runs")
    engine.containers.run("busybox", SLEEP, detach=True, remove=True, name="bridged")
    bridge = engine.networks.bridge().name
    removed = cli("prune", "-f", timeout=60)
    assert removed.exit_code == 0 and removed.stderr == ""
    assert removed.stdout.count("container ") == 4 and bridge in removed.stdout
    with open("/proc/thread-self/net/dev") as file:
        assert bridge not in file.read()
    assert sorted(os.listdir(engine.paths.data)) == ["blobs", "images", "layers"]
    assert cli("prune", "-f") == ("", "", 0)
    assert engine.containers.run("busybox", ["echo", "usable"], remove=True).output == "usable\n"
