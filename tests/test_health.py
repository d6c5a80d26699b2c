"""Health checks: what is asked for, what a row of results says, and the monitor that has them carried out."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from typing import Any

import leaks
import pytest
from conftest import CommandLine, needs, wait_until

import poc
from poc import _fs, errors
from poc.engine.health import HEALTHY, STARTING, UNHEALTHY, Health, command, effective, output, parse_check, seconds
from poc.images.store import Store

kernel = needs("root", "overlay", "program:busybox")
ALONE: dict[str, Any] = {"detach": True, "network": "none"}
SECOND = 1_000_000_000
SLEEP = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


# ── what is asked for ────────────────────────────────────────────────────────────────────────────────────


def test_a_check_is_read() -> None:
    check = parse_check({"test": "true", "interval": "1m30s", "timeout": 5 * SECOND, "retries": "4"})
    assert check == {"Test": ["CMD-SHELL", "true"], "Interval": 90 * SECOND, "Timeout": 5 * SECOND, "Retries": 4}
    assert parse_check({"Test": ["CMD", "a", "b"], "StartPeriod": 1_000_000}) == {
        "Test": ["CMD", "a", "b"],
        "StartPeriod": 1_000_000,
    }
    assert parse_check({}) == parse_check({"interval": 0, "test": []}) == {}
    for wrong, said in (
        ({"interval": "-1s"}, "--health-interval cannot be negative"),
        ({"timeout": "1us"}, "--health-timeout cannot be less than 1ms"),
        ({"start_period": "5"}, "--health-start-period: '5' is no time span"),
        ({"retries": -1}, "--health-retries cannot be negative"),
        ({"retries": "x"}, "no whole number"),
        ({"test": ["echo"]}, "begins with CMD"),
        ({"cmd": "x"}, "unknown: cmd"),
    ):
        with pytest.raises(errors.InvalidArgument, match=said):
            parse_check(wrong)


def test_the_image_is_asked_for_the_rest() -> None:
    image = {"Test": ["CMD", "a"], "Interval": 7 * SECOND, "Retries": 9}
    assert effective(None, image) == image
    check = effective({"Interval": 8 * SECOND}, image)
    assert (command(check, None), seconds(check, "Interval"), check["Retries"]) == (["a"], 8.0, 9)
    assert seconds(check, "Timeout") == 30.0 and seconds(check, "StartPeriod") == 0.0
    assert command(effective({"Test": ["NONE"]}, image), None) == command({"Interval": 5}, None) == []
    assert command({"Test": ["CMD-SHELL", "a b"]}, None) == ["/bin/sh", "-c", "a b"]
    assert command({"Test": ["CMD-SHELL", "a b"]}, ["/bin/bash", "-ec"]) == ["/bin/bash", "-ec", "a b"]


def test_what_a_row_of_results_says() -> None:
    health = Health({"Retries": 2, "StartPeriod": 10 * SECOND}, {})
    story = [(1, 3.0, STARTING, 0), (1, 9.0, STARTING, 0), (1, 11.0, STARTING, 1), (-1, 12.0, UNHEALTHY, 2)]
    story += ((0, 13.0, HEALTHY, 0), (1, 5.0, HEALTHY, 1), (0, 14.0, HEALTHY, 0), (2, 15.0, HEALTHY, 1))
    for number, (code, age, status, streak) in enumerate(story):
        before = health.status
        assert health.take({"ExitCode": code, "Output": str(number)}, age) == (status != before)
        assert (health.status, health.streak) == (status, streak), number
    assert [entry["Output"] for entry in health.as_object()["Log"]] == ["3", "4", "5", "6", "7"]
    assert len(Health({}, health.as_object()).log) == 5  # they are kept over a restart
    assert output(b"\xff" + b"x" * 4095) == "\ufffd" + "x" * 4095 and output(b"x" * 4097) == "x" * 4096 + "..."


# ── carried out ──────────────────────────────────────────────────────────────────────────────────────────


def health_of(container: poc.Container) -> dict[str, Any]:
    health: dict[str, Any] = container.attrs["State"]["Health"]
    return health


def await_status(container: poc.Container, status: str) -> dict[str, Any]:
    wait_until(lambda: health_of(container)["Status"] == status, 30)
    return health_of(container)


def checked(engine: poc.Engine, test: str | list[str], **more: Any) -> poc.Container:
    check = {"test": test, "interval": "50ms", "retries": 2, **more.pop("check", {})}
    container = engine.containers.run("busybox", SLEEP, healthcheck=check, **{**ALONE, **more})
    assert isinstance(container, poc.Container)
    return container


def monitor_of(engine: poc.Engine, container: poc.Container) -> int:
    pid: int = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    return pid


@kernel
def test_its_life(cli: CommandLine, engine: poc.Engine) -> None:
    test = "echo out; echo err >&2; [ -e /ok ]"
    words = ("--health-cmd", test, "--health-interval", "300ms", "--health-retries", "2", "--health-timeout", "20s")
    done = cli("run", "-d", "--name", "web", "--network", "none", *words, "busybox", *SLEEP)
    assert (done.exit_code, done.stderr) == (0, "")
    container = engine.containers.get("web")
    assert container.attrs["Config"]["Healthcheck"]["Test"] == ["CMD-SHELL", test]
    if health_of(container)["Status"] == "starting":
        assert "(health: starting)" in cli("ps").stdout or health_of(container)["Status"] != "starting"
    health = await_status(container, "unhealthy")
    assert health["FailingStreak"] >= 2 and "(unhealthy)" in cli("ps").stdout
    last = health["Log"][-1]
    assert last["ExitCode"] == 1 and sorted(last["Output"].split()) == ["err", "out"] and last["Start"] < last["End"]
    assert container.exec_run(["touch", "/ok"]) is not None
    assert await_status(container, "healthy")["FailingStreak"] == 0
    assert "(healthy)" in cli("ps").stdout
    wait_until(lambda: [entry["ExitCode"] for entry in health_of(container)["Log"]] == [0] * 5, 30)
    container.stop(timeout=5)
    health = health_of(container)
    assert health["Status"] == "unhealthy" and len(health["Log"]) == 5  # docker's word for what does not run
    assert "healthy" not in cli("ps", "-a").stdout
    container.start()
    assert health_of(container)["Status"] in ("starting", "healthy")
    past = engine.events(since=0, filters={"container": container.id}, follow=False)
    said = [event["Action"] for event in past if event["Action"].startswith("health_status")]
    assert said[:2] == ["health_status: unhealthy", "health_status: healthy"]
    container.remove(force=True)


@kernel
def test_what_takes_too_long_is_killed(engine: poc.Engine) -> None:
    container = checked(engine, "echo $$ >/pid; sleep 60", check={"timeout": "200ms", "retries": 1})
    health = await_status(container, "unhealthy")
    assert health["Log"][0]["ExitCode"] == -1 and "timeout (200ms)" in health["Log"][0]["Output"]
    before = len(container.cgroup.pids())
    time.sleep(1)
    assert len(container.cgroup.pids()) <= before + 1  # they do not pile up
    container.remove(force=True)


@kernel
def test_long_output_and_what_can_not_be_run(engine: poc.Engine) -> None:
    container = checked(engine, "head -c 300000 /dev/zero | tr '\\0' x; exit 7")
    health = await_status(container, "unhealthy")
    assert health["Log"][-1]["Output"] == "x" * 4096 + "..." and health["Log"][-1]["ExitCode"] == 7
    container.remove(force=True)
    container = checked(engine, ["CMD", "nosuch"])
    entry = await_status(container, "unhealthy")["Log"][-1]
    assert entry["ExitCode"] == -1 and "not found" in entry["Output"]
    container.remove(force=True)


@kernel
def test_whoever_is_left_in_the_background_does_not_hold_it_up(engine: poc.Engine) -> None:
    container = checked(engine, "sleep 5 & echo done", check={"timeout": "3s"})
    assert await_status(container, "healthy")["Log"][0]["Output"] == "done\n"
    container.remove(force=True)


@kernel
def test_none_while_paused(engine: poc.Engine) -> None:
    container = checked(engine, "echo x >>/tmp/count")
    await_status(container, "healthy")
    container.pause()
    time.sleep(0.2)  # one that was under way is over
    log = health_of(container)["Log"]
    time.sleep(0.4)
    assert health_of(container) == {"Status": "healthy", "FailingStreak": 0, "Log": log}
    container.unpause()
    wait_until(lambda: health_of(container)["Log"] != log, 30)
    container.remove(force=True)


@kernel
def test_the_image_says_how(engine: poc.Engine, image_tar: str, cli: CommandLine) -> None:
    check = {"Test": ["CMD-SHELL", "echo image"], "Interval": 100_000_000}
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Healthcheck": check, "Shell": ["/bin/busybox", "sh", "-c"]}
    Store(engine.paths.data).add_tar(image_tar, "checked", config=config)
    container = engine.containers.run("checked", SLEEP, name="by-image", **ALONE)
    assert await_status(container, "healthy")["Log"][0]["Output"] == "image\n"
    container.remove(force=True)
    assert cli("run", "-d", "--name", "none", "--network=none", "--no-healthcheck", "checked", *SLEEP).exit_code == 0
    container = engine.containers.get("none")
    assert "Health" not in container.attrs["State"]
    assert container.attrs["Config"]["Healthcheck"]["Test"] == ["NONE"]
    container.remove(force=True)
    done = cli("run", "--no-healthcheck", "--health-cmd", "x", "busybox", "true")
    assert (done.exit_code, done.stderr) == (125, "Error: --no-healthcheck conflicts with --health-* options\n")


@kernel
def test_with_a_restart_policy(engine: poc.Engine) -> None:
    """Each run is checked anew."""
    container = checked(engine, "true", restart_policy="always")
    await_status(container, "healthy")
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: container.attrs["RestartCount"] == 1 and container.status == "running", 30)
    first = health_of(container)["Log"][-1]
    wait_until(lambda: health_of(container)["Status"] == "healthy" and health_of(container)["Log"][-1] != first, 30)
    container.remove(force=True)


@kernel
def test_it_costs_no_interpreter_and_little_memory(cli: CommandLine, engine: poc.Engine) -> None:
    """Helpers are forks: the program of the monitor, never a new one. And the monitor stays small."""
    words = ("run", "-d", "--network", "none", "--health-cmd", "true", "--health-interval", "300ms", "busybox", *SLEEP)
    engine.containers.get(cli(*words).stdout.strip()).remove(force=True)  # compiles what is loaded
    container = engine.containers.get(cli(*words).stdout.strip())
    monitor = monitor_of(engine, container)
    program = os.readlink(f"/proc/{monitor}/exe")
    await_status(container, "healthy")
    time.sleep(3)
    sizes = []
    for _ in range(20):
        for process in leaks.our_processes():
            if process.parent == monitor and process.command == "poc-monitor":
                with suppress(FileNotFoundError):  # it has ended
                    assert os.readlink(f"/proc/{process.pid}/exe") == program
        sizes.append(pss(monitor))
        time.sleep(0.05)
    assert sorted(sizes)[len(sizes) // 2] <= 10 << 10, sizes  # alone on a host it shares its libraries with nobody
    container.stop(timeout=5)
    wait_until(lambda: not [process for process in leaks.our_processes() if process.parent == monitor], 30)
    container.remove()


def pss(pid: int) -> int:
    """kB (proc_pid_smaps(5))."""
    found = re.search(r"^Pss:\s+(\d+)", _fs.read_text(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def sleepers() -> list[int]:
    """The processes of checks that take long."""
    found = []
    for process in leaks.our_processes():
        with suppress(OSError):
            if _fs.read_bytes(f"/proc/{process.pid}/cmdline") == b"sleep\x0030\0":
                found.append(process.pid)
    return found


@kernel
def test_the_end_leaves_none_behind(engine: poc.Engine) -> None:
    """However it ends in the middle of a check: by a stop, with its monitor, by itself."""
    for end in ("stop", "monitor", "kill"):
        container = checked(engine, "sleep 30")
        monitor = monitor_of(engine, container)
        wait_until(sleepers, 30)
        if end == "monitor":
            os.kill(monitor, signal.SIGKILL)
        else:
            getattr(container, end)()
        container.wait(20)
        assert health_of(container) == {"Status": "unhealthy", "FailingStreak": 0, "Log": []}, end
        wait_until(lambda: not leaks.our_processes(), 30)
        assert json.dumps(container.attrs)
        container.remove(force=True)
