"""Restart policies: when a container starts again by itself, who ends that, and what a reboot brings back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CommandLine, needs, running, wait_until

import poc
from poc import _fs, errors
from poc.engine import autostart
from poc.engine.restart import Restarts, parse_policy, starts_at_boot

if TYPE_CHECKING:
    from pathlib import Path

kernel = needs("root", "overlay", "program:busybox")
ALONE: dict[str, Any] = {"detach": True, "network": "none"}
COUNT = ["sh", "-c", "echo x >>/count; exit 3"]
ALWAYS = {"Name": "always", "MaximumRetryCount": 0}


# ── the policy ───────────────────────────────────────────────────────────────────────────────────────────


def test_policies_are_read() -> None:
    assert parse_policy("always") == parse_policy(ALWAYS) == ALWAYS
    assert parse_policy("on-failure:4") == {"Name": "on-failure", "MaximumRetryCount": 4}
    assert parse_policy("") == parse_policy("no") == {"Name": "no", "MaximumRetryCount": 0}
    for text, said in (
        ("sometimes", "invalid restart policy"),
        ("always:3", "only with on-failure"),
        ("on-failure:x", "must be an integer"),
        ("on-failure:", "must be an integer"),
        ("on-failure:-1", "cannot be negative"),
    ):
        with pytest.raises(errors.InvalidArgument, match=said):
            parse_policy(text)


def test_pauses_double_up_to_a_minute_and_begin_anew_after_ten_seconds() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(ALWAYS, 0, 0.1) for _ in range(12)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert restarts.pause(ALWAYS, 0, 10.0) == 0.1
    assert restarts.pause(ALWAYS, 0, 9.9) == 0.2
    assert restarts.count == 14


def test_who_is_started_again() -> None:
    restarts = Restarts()
    policy = parse_policy("on-failure:2")
    assert [restarts.pause(policy, code, 20.0) for code in (1, 0, 1, 1)] == [0.1, None, 0.1, None]
    assert restarts.count == 2
    assert Restarts().pause(parse_policy("no"), 1, 1.0) is None
    assert all(restarts.pause(parse_policy("on-failure"), 1, 20.0) for _ in range(9))


def test_who_is_started_after_a_reboot() -> None:
    ran, failed = {"started_at": 1.0, "exit_code": 0}, {"started_at": 1.0, "exit_code": 137}
    table = {
        "no": (False, False, False, False),
        "always": (True, True, True, True),
        "unless-stopped": (True, False, True, False),
        "on-failure": (False, False, True, False),
    }
    for name, wanted in table.items():
        policy = parse_policy(name)
        assert not starts_at_boot(policy, {}, False)
        found = [starts_at_boot(policy, ended, by_hand) for ended in (ran, failed) for by_hand in (False, True)]
        assert tuple(found) == wanted, name


# ── the monitor ──────────────────────────────────────────────────────────────────────────────────────────


def lines(engine: poc.Engine, container: poc.Container) -> int:
    """How often it has run."""
    try:
        return len(_fs.read_text(engine.paths.container(container.id, "upper/count")).split())
    except FileNotFoundError:
        return 0


def await_runs(engine: poc.Engine, container: poc.Container, count: int) -> None:
    wait_until(lambda: lines(engine, container) == count and container.status == "running")


def await_exited(container: poc.Container) -> None:
    wait_until(lambda: container.status == "exited")


def await_gone(process: list[int]) -> None:
    wait_until(lambda: not _fs.is_alive(process))


@kernel
def test_on_failure(cli: CommandLine, engine: poc.Engine) -> None:
    done = cli("run", "-d", "--restart", "on-failure:2", "--name", "twice", "busybox", *COUNT)
    assert (done.exit_code, done.stderr) == (0, "")
    container = engine.containers.get("twice")
    await_exited(container)
    attrs = container.attrs
    assert (lines(engine, container), attrs["RestartCount"], attrs["State"]["ExitCode"]) == (3, 2, 3)
    assert attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    past = engine.events(since=0, filters={"container": container.id}, follow=False)
    assert [event["Action"] for event in past] == ["create", *("start", "die") * 3]
    container.start()  # by hand: the count begins anew
    wait_until(lambda: container.status == "exited" and lines(engine, container) == 6)
    assert container.attrs["RestartCount"] == 2
    container.remove()


@kernel
def test_what_ends_well_is_not_a_failure(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", ["true"], restart_policy="on-failure", **ALONE)
    assert container.wait(20) == 0
    await_exited(container)
    assert container.attrs["RestartCount"] == 0
    container.remove()


@kernel
def test_between_two_runs(cli: CommandLine, engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", COUNT, name="again", restart_policy="always", **ALONE)
    wait_until(lambda: container.status == "restarting" and lines(engine, container) >= 4)
    state = container.attrs["State"]
    assert (state["Status"], state["Running"], state["Restarting"], state["Pid"]) == ("restarting", True, True, 0)
    assert state["ExitCode"] == 3 and state["FinishedAt"] > state["StartedAt"]
    with pytest.raises(errors.Conflict, match="is restarting"):
        container.exec_run("true")
    with pytest.raises(errors.Conflict, match="restarting container"):
        container.attach()
    wait_until(lambda: "Restarting (3)" in cli("ps").stdout)
    assert cli("rm", "again").exit_code == 1
    assert cli("start", "again").exit_code == 0  # it is as good as running
    assert cli("wait", "again").stdout == "3\n"  # of the next run
    begun = time.monotonic()
    assert cli("stop", "again").exit_code == 0
    assert time.monotonic() - begun < 1.0 and container.status == "exited"
    assert container.attrs["State"]["ExitCode"] == 3 and container.attrs["RestartCount"] >= 4
    count = lines(engine, container)
    time.sleep(0.3)
    assert lines(engine, container) == count
    container.start()
    wait_until(lambda: lines(engine, container) >= count + 3)
    container.remove(force=True)
    assert not os.path.exists(engine.paths.container(container.id))


LOOP = ["sh", "-c", "trap 'exit 4' TERM HUP; echo x >>/count; while :; do sleep 0.05; done"]


@kernel
def test_by_hand_it_ends(cli: CommandLine, engine: poc.Engine) -> None:
    for words in (("stop",), ("kill",), ("kill", "-s", "HUP"), ("stop", "-t", "0")):
        container = engine.containers.run("busybox", LOOP, name="loop", restart_policy="unless-stopped", **ALONE)
        await_runs(engine, container, 1)
        assert cli(*words, "loop").exit_code == 0
        await_exited(container)
        time.sleep(0.15)
        assert container.status == "exited" and container.attrs["RestartCount"] == 0, words
        container.remove()


@kernel
def test_by_itself_or_by_others_it_does_not(engine: poc.Engine) -> None:
    """Each run is a new one in its own cgroup, on the same files, with the same name and limits."""
    container = engine.containers.run("busybox", LOOP, restart_policy="always", pids_limit=30, **ALONE)
    for number in range(1, 4):
        await_runs(engine, container, number)
        state = container.attrs["State"]
        assert container.attrs["RestartCount"] == number - 1
        held = container.exec_run(["cat", "/count"])
        assert held is not None and held.output == "x\n" * number
        assert container.cgroup.exists() and container.attrs["HostConfig"]["PidsLimit"] == 30
        os.kill(state["Pid"], signal.SIGKILL)
    await_runs(engine, container, 4)
    container.restart(timeout=0)
    await_runs(engine, container, 5)
    assert container.attrs["RestartCount"] == 0
    container.remove(force=True)


@kernel
def test_the_one_in_the_foreground_sees_one_run(cli: CommandLine, engine: poc.Engine) -> None:
    """As docker's: whoever is attached leaves with the end of the run, and has its exit code."""
    done = cli("run", "--restart", "always", "--name", "front", "busybox", "sh", "-c", "echo hi; exit 5")
    assert (done.stdout, done.exit_code) == ("hi\n", 5)
    container = engine.containers.get("front")
    assert container.status in ("restarting", "running")
    container.remove(force=True)
    result = engine.containers.run("busybox", ["sh", "-c", "exit 6"], name="lib", restart_policy="always")
    assert result.exit_code == 6
    engine.containers.get("lib").remove(force=True)


@kernel
def test_on_the_bridge_and_with_a_terminal(engine: poc.Engine) -> None:
    script = "ip -4 addr show dev eth0 | grep -o 'inet [0-9.]*' >>/count; tty; exit 1"
    container = engine.containers.run(
        "busybox", ["sh", "-c", script], detach=True, tty=True, restart_policy="on-failure:2"
    )
    await_exited(container)
    text = _fs.read_text(engine.paths.container(container.id, "upper/count"))
    assert len(text.splitlines()) == 3 and text.count("inet 10.") + text.count("inet 1") >= 3
    assert [data for _, data in container.logs()] == [b"/dev/console\r\n"] * 3 or len(list(container.logs())) == 3
    container.remove()


@kernel
def test_what_can_not_start_does_not_start_again(cli: CommandLine, engine: poc.Engine) -> None:
    assert cli("create", "--name", "lost", "--restart", "always", "--network=none", "busybox", "nosuch").exit_code == 0
    container = engine.containers.get("lost")
    assert cli("start", "lost").exit_code == 1
    assert container.status == "created" and container.attrs["RestartCount"] == 0
    container.remove()
    script = "rm /bin/sh; exit 1"
    container = engine.containers.run("busybox", ["sh", "-c", script], restart_policy="always", **ALONE)
    await_exited(container)
    state = container.attrs["State"]
    assert state["ExitCode"] == 127 and "not found" in state["Error"]
    container.remove()


@kernel
def test_options(cli: CommandLine, engine: poc.Engine) -> None:
    done = cli("run", "--rm", "--restart", "always", "busybox", "true")
    assert (done.exit_code, done.stderr) == (125, "Error: --restart and --rm exclude each other\n")
    assert cli("run", "--rm", "--restart", "no", "--network", "none", "busybox", "true").exit_code == 0
    assert cli("run", "--restart", "never", "busybox", "true").exit_code == 125
    container = engine.containers.run("busybox", LOOP, name="up", **ALONE)
    assert cli("update", "--restart", "on-failure:1", "up").exit_code == 0
    container.reload()
    assert container.attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 1}
    wait_until(lambda: lines(engine, container) == 1)
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: lines(engine, container) == 2)
    assert cli("update", "--restart", "no", "up").exit_code == 0
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
    await_exited(container)
    container.remove()


@kernel
def test_a_client_that_reads_no_more_keeps_nobody_from_starting_again(cli: CommandLine, engine: poc.Engine) -> None:
    script = "echo x >>/count; yes | head -c 2000000"
    with running(
        cli.start("run", "--restart", "always", "--name", "stuck", "busybox", "sh", "-c", script, stdout=-1)
    ) as client:
        wait_until(lambda: _named(engine, "stuck"))
        container = engine.containers.get("stuck")
        wait_until(lambda: lines(engine, container) >= 1)
        os.kill(client.pid, signal.SIGSTOP)
        # Its own run waits for it; that is ended from outside, and the next are none of its.
        wait_until(lambda: container.status == "running")
        os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: lines(engine, container) >= 3)
        container.remove(force=True)
        os.kill(client.pid, signal.SIGCONT)
        client.communicate(timeout=20)
        assert client.returncode in (0, 137)


def _named(engine: poc.Engine, name: str) -> bool:
    try:
        return engine.containers.get(name).status == "running"
    except errors.ContainerNotFound:
        return False


# ── after a reboot ───────────────────────────────────────────────────────────────────────────────────────


def reboot(engine: poc.Engine) -> None:
    """What a power cut does to a store: every process is gone, the cgroups, and what lies on the tmpfs."""
    running = engine.containers.list()
    for container in running:
        state = _fs.read_json(engine.paths.runtime(container.id, "state.json"))
        os.kill(state["monitor"][0], signal.SIGKILL)
        await_gone(state["init"])
        container.cgroup.end()
    shutil.rmtree(engine.paths.run)


@kernel
def test_what_a_reboot_brings_back(cli: CommandLine, engine: poc.Engine) -> None:
    policies = {"no": "no", "always": "always", "unless": "unless-stopped", "failure": "on-failure"}
    for name, policy in policies.items():
        for suffix in ("ran", "stopped"):
            engine.containers.run("busybox", LOOP, name=f"{name}-{suffix}", restart_policy=policy, **ALONE)
    engine.containers.create("busybox", LOOP, name="always-never", restart_policy="always", network="none")
    for name in policies:
        engine.containers.get(f"{name}-stopped").stop(timeout=5)
    reboot(engine)
    assert engine.containers.list() == []
    done = cli("system", "autostart", "--start")
    assert (done.exit_code, done.stderr) == (0, "")
    wanted = {"always-ran", "always-stopped", "unless-ran", "failure-ran"}
    assert set(done.stdout.split()) == wanted == {container.name for container in engine.containers.list()}
    assert cli("system", "autostart", "--start").stdout == ""  # all run
    for container in engine.containers.list(all=True):
        container.remove(force=True)


def test_the_unit(tmp_path: Path) -> None:
    place = tmp_path / "a $tore 100%"
    (tmp_path / "units").mkdir()
    place.mkdir()
    paths = poc.Engine(str(place)).paths
    path = autostart.install(paths, ["/usr/bin/poc"], str(tmp_path / "units"))
    assert autostart.install(paths, ["/usr/bin/poc"], str(tmp_path / "units")) == path
    (link,) = (tmp_path / "units" / "multi-user.target.wants").iterdir()
    assert os.readlink(link) == path
    text = _fs.read_text(path)
    quoted = str(place).replace("%", "%%").replace("$", "$$")
    assert f'ExecStart=/usr/bin/poc --root "{quoted}" system autostart --start\n' in text
    if shutil.which("systemd-analyze") and os.path.exists("/usr/bin/true"):
        autostart.install(paths, ["/usr/bin/true"], str(tmp_path / "units"))
        done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
        assert path not in done.stderr and os.path.basename(path) not in done.stderr, done.stderr
    assert autostart.remove(paths, str(tmp_path / "units")) == path
    assert [entry.name for entry in (tmp_path / "units").rglob("*")] == ["multi-user.target.wants"]
    with pytest.raises(errors.Unsupported, match="systemd"):
        autostart.install(paths, ["/usr/bin/poc"], str(tmp_path / "none"))
    assert "--root" not in autostart.unit(poc.Engine().paths, ["/usr/bin/poc"])


@kernel
def test_the_command_prints_how_it_was_called(cli: CommandLine) -> None:
    text = cli("system", "autostart").stdout
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    command = line.removeprefix("ExecStart=").split()
    assert command[-5:] == ["--root", cli.root, "system", "autostart", "--start"]
    done = subprocess.run([*command[:-1], "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "reboot" in done.stdout
    assert json.loads(cli("inspect", "nosuch").stdout or "[]") == []
    assert cli("system", "autostart", "--install", "--start").exit_code == 1
