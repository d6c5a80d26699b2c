"""Killed anywhere, nothing is lost or left: at every step, at random moments, on a full disk, several at once.

Which processes are killed and how is in `faults`. After a kill the next command must show the true state and clear
up; what may remain are containers that exist and can be used.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import faults
import leaks
import pytest
from conftest import CommandLine, needs
from faults import CHECKER, COMMAND, HELPER, INIT, MARK, MONITOR, await_nothing, killed_at, leftovers

from poc import _fs
from poc.cgroups import Cgroup
from poc.errors import Conflict, ContainerNotFound, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    import poc
    from poc.engine.container import Container

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(600)]

SEED = int(os.environ.get("POC_TEST_SEED", time.time_ns() % 1_000_000))
LIFE = {"create": "c", "start": "s", "die": "d", "destroy": "x"}
SLEEP = ["sleep", "60"]


def run_and_wait(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", ["true"], detach=True, remove=True, network="none")
    with suppress(ContainerNotFound):  # it may have ended already
        container.wait()


def run_and_remove(engine: poc.Engine) -> None:
    engine.containers.run("busybox", SLEEP, detach=True, network="none").remove(force=True)


def run_on_bridge(engine: poc.Engine) -> None:
    engine.containers.run("busybox", SLEEP, detach=True)


def run_here(engine: poc.Engine) -> None:
    engine.containers.run("busybox", ["true"], name="here", network="none")


def run_with_disk(engine: poc.Engine) -> None:
    engine.containers.run("busybox", ["true"], network="none", remove=True, storage_opt={"size": "16m"})


def run_as_a_guest(engine: poc.Engine) -> None:
    """In another's namespaces, below a cgroup that has to be made."""
    place: dict[str, Any] = {"cgroup_parent": f"poc-{MARK}/below"}
    host = engine.containers.run("busybox", SLEEP, detach=True, ipc_mode="shareable", **place)
    modes: dict[str, Any] = dict.fromkeys(("network", "pid_mode", "ipc_mode"), f"container:{host.id}")
    try:
        engine.containers.run("busybox", SLEEP, detach=True, **modes, **place).remove(force=True)
    except SetupError:
        assert host.wait() == 137  # it was the one that was killed
    host.remove(force=True)


def start_again(engine: poc.Engine) -> None:
    container = engine.containers.create("busybox", SLEEP, name="again", network="none")
    container.start()
    container.stop(timeout=0)
    container.start()


def run_twice(engine: poc.Engine) -> None:
    policy, dies = "on-failure:1", ["sh", "-c", "kill -9 $$"]
    container = engine.containers.run("busybox", dies, detach=True, restart_policy=policy, network="none")
    while container.status != "exited":
        time.sleep(0.01)


def run_with_checks(engine: poc.Engine) -> None:
    check = {"test": "true", "interval": "1ms"}
    container = engine.containers.run("busybox", SLEEP, detach=True, healthcheck=check, network="none")
    time.sleep(0.15)
    container.remove(force=True)


def prune(engine: poc.Engine) -> None:
    engine.containers.create("busybox", SLEEP, name="other")
    run_on_bridge(engine)
    engine.prune()


def recover(engine: poc.Engine) -> None:
    engine.containers.list()


def copy_stopped(engine: poc.Engine) -> None:
    copy_both_ways(engine, engine.containers.create("busybox", SLEEP, network="none"))


def copy_running(engine: poc.Engine) -> None:
    copy_both_ways(engine, engine.containers.run("busybox", SLEEP, detach=True, network="none"))


def copy_both_ways(engine: poc.Engine, container: Container) -> None:
    container.copy_to(os.path.dirname(__file__) + "/conftest.py", "/tmp")
    container.copy_from("/etc", f"{engine.paths.data}/copied", archive=True)
    assert len(container.diff()) > 1


def commit_running(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", ["sh", "-c", "echo x >/x; sleep 60"], detach=True, network="none")
    container.commit("made")


def commit_stopped(engine: poc.Engine) -> None:
    container = engine.containers.create("busybox", ["true"], storage_opt={"size": "16m"})
    container.put_archive("/", b"")
    container.commit("made", changes=["CMD sh"])
    sum(len(chunk) for chunk in container.export())


# Every so many steps of one role are tried, beginning somewhere else each time; all of them with POC_EVERY_STEP=1.
SWEEPS: tuple[tuple[Callable[[poc.Engine], object], str, int], ...] = (
    (run_and_remove, COMMAND, 2),
    (run_and_remove, MONITOR, 4),
    (run_and_wait, COMMAND, 3),
    (run_and_wait, MONITOR, 2),
    (run_and_wait, INIT, 9),
    (run_on_bridge, COMMAND, 3),
    (run_on_bridge, MONITOR, 4),
    (run_on_bridge, HELPER, 50),
    (run_on_bridge, INIT, 29),
    (run_here, COMMAND, 2),
    (run_here, MONITOR, 3),
    (run_with_disk, MONITOR, 5),
    (run_with_disk, INIT, 19),
    (run_as_a_guest, COMMAND, 15),
    (run_as_a_guest, MONITOR, 19),
    (run_as_a_guest, INIT, 59),
    (start_again, COMMAND, 4),
    (start_again, MONITOR, 5),
    (run_twice, MONITOR, 9),
    (run_with_checks, MONITOR, 15),
    (run_with_checks, CHECKER, 9),
    (prune, COMMAND, 19),
    (recover, COMMAND, 2),
    (copy_stopped, COMMAND, 15),
    (copy_running, COMMAND, 20),
    (commit_running, COMMAND, 20),
    (commit_stopped, COMMAND, 60),
)


@pytest.mark.parametrize(("action", "role", "stride"), SWEEPS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_killed_at_a_step(engine: poc.Engine, action: Callable[[poc.Engine], object], role: str, stride: int) -> None:
    engine.containers.run("busybox", ["true"], remove=True)  # the bridge is there, the filter is compiled
    stride = 1 if os.environ.get("POC_EVERY_STEP") else stride
    first = step = random.Random(SEED).randrange(stride)
    while True:
        if action is recover:
            leave_a_killed_run(engine)
        killed = killed_at(step, role, lambda: action(engine))
        note = f"seed {SEED}, {action.__name__}, {role}, step {step}: "
        assert not killed.text or "was killed" in killed.text, note + killed.text
        check_and_remove_all(engine, note)
        check_images(engine, note)
        if not killed.reached:
            break
        step += stride
    assert step > first, "no step was reached"


def leave_a_killed_run(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", SLEEP, detach=True, network="none", name="left")
    os.kill(monitor_of(engine, container), signal.SIGKILL)
    assert container.wait() == 137


def monitor_of(engine: poc.Engine, container: Container) -> int:
    pid: int = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    return pid


def check_and_remove_all(engine: poc.Engine, note: str) -> None:
    """What is listed exists, in a state that is true, and can be stopped and removed; nothing else is left."""
    for container in engine.containers.list(all=True):
        with suppress(ContainerNotFound):  # one with --rm ended by itself
            state = container.attrs["State"]
            assert state["Status"] in ("created", "running", "exited"), note
            assert state["ExitCode"] in (0, 137) or "was killed" in state["Error"], note + str(state)
            container.stop(timeout=0)
            assert container.status != "running", note
            container.remove(force=True)
    assert engine.containers.list(all=True) == [], note
    await_nothing(lambda: leftovers(engine), note)
    check_events(engine, note)


def check_events(engine: poc.Engine, note: str) -> None:
    """Whoever was killed, what is told of each container is a whole life: every start has its death, all have an end.

    A command killed between making a container and telling of it leaves one that was never "created".
    """
    lives: dict[str, str] = {}
    for event in engine.events(follow=False):
        if event["Action"] in LIFE:
            lives[event["id"]] = lives.get(event["id"], "") + LIFE[event["Action"]]
    for id, life in lives.items():
        assert re.fullmatch("c?(sd)*x", life), f"{note}{id}: {life}"


def check_images(engine: poc.Engine, note: str) -> None:
    """Those that are listed are whole, and what a killed command left of another is cleared away with the next."""
    _fs.remove_tree(f"{engine.paths.data}/copied")
    for image in engine.images.list():
        assert image.complete, note
        if image.references != ["busybox:latest"]:
            assert engine.containers.run(image.id, ["true"], network="none", remove=True).exit_code == 0, note
            engine.images.remove(image.id, force=True)
    store = engine.images.store
    store.clean()
    assert [len(os.listdir(place)) for place in (store.layers, store.images, store.blobs)] == [1, 1, 1], note


COPYING = (
    ("cp", __file__, "held:/tmp/in"),
    ("cp", "held:/bin", "OUT"),
    ("cp", "held:/bin", "-"),
    ("commit", "held", "made"),
    ("commit", "-c", "CMD sh", "held", "made"),
    ("export", "held"),
    ("export", "-o", "OUT/file", "held"),
    ("diff", "held"),
)


@pytest.mark.parametrize("state", ["created", "running"])
def test_killed_while_copying(engine: poc.Engine, engine_root: str, tmp_path: Path, state: str) -> None:
    """40 commands, each killed at a random moment, or the process that works for it: the container is as before."""
    cli, dice = CommandLine(engine_root), random.Random(SEED)
    held = engine.containers.create("busybox", ["sleep", "600"], name="held", network="none")
    if state == "running":
        held.start()
    begun = time.monotonic()
    assert cli("export", "-o", f"{tmp_path}/whole", "held").exit_code == 0
    usual = time.monotonic() - begun
    kills = 0
    while kills < 20:
        words = [word.replace("OUT", str(tmp_path)) for word in dice.choice(COPYING)]
        with cli.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            time.sleep(dice.uniform(0.3, 1.0) * usual)
            children = _fs.read_text(f"/proc/{command.pid}/task/{command.pid}/children").split()
            victims = [command.pid, *map(int, children)]
            if command.poll() is None:
                with suppress(ProcessLookupError):  # it is a process of the command's, which has ended meanwhile
                    os.kill(dice.choice(victims), signal.SIGKILL)
                    kills += 1
            command.wait(timeout=faults.PATIENCE)
        await_nothing(lambda: busy(held), f"seed {SEED}, {words}: ")
        assert held.status == state, f"seed {SEED}, {words}"
    for image in engine.images.list():
        assert image.complete
    assert cli("cp", __file__, "held:/tmp/in").exit_code == 0
    assert cli("start", "held").exit_code == 0
    held.remove(force=True)
    check_images(engine, f"seed {SEED}: ")
    await_nothing(lambda: leftovers(engine), f"seed {SEED}: ")


def busy(container: Container) -> list[str]:
    """Who still works on a container's files: it is frozen, or mounted on a disk of its own."""
    container.status  # noqa: B018  # a look ends what both were killed at
    return ["frozen"] if container.cgroup.frozen() else []


def test_killed_200_times(engine: poc.Engine, engine_root: str) -> None:
    """Commands, monitors, helpers and first processes, at random moments, several at once."""
    cli, dice = faults.MarkedCommandLine(engine_root), random.Random(SEED)
    print(f"seed {SEED}")
    assert cli("run", "--rm", "busybox", "true").exit_code == 0
    kills = dict.fromkeys((COMMAND, MONITOR, HELPER, INIT), 0)
    while sum(kills.values()) < 200:
        rampage(cli, dice, kills, upto=min(200, sum(kills.values()) + 50))
        check_and_remove_all(engine, f"seed {SEED}, after {kills}: ")
        assert cli("prune", "--force").exit_code == 0
        await_nothing(lambda: leftovers(engine) + networks_left(engine), f"seed {SEED}, after {kills}: ")
        assert cli("run", "--rm", "busybox", "echo", "well").stdout == "well\n"
    print(kills)
    assert all(kills.values()), kills


def rampage(cli: CommandLine, dice: random.Random, kills: dict[str, int], upto: int) -> None:
    """Keep a few commands at work, and kill now one of them, now one of the processes behind a container."""
    commands: list[subprocess.Popen[bytes]] = []
    before = {process.pid for process in leaks.our_processes()}
    try:
        while sum(kills.values()) < upto:
            commands = [command for command in commands if command.poll() is None]
            while len(commands) < 4:
                words = dice.choice(WORDS)
                commands.append(cli.start(*words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            time.sleep(dice.uniform(0, 0.12))
            if dice.random() < 0.1:
                look(cli)
            kill_one(dice, kills, before)
        for command in commands:
            command.wait(timeout=faults.PATIENCE)
    finally:
        for command in commands:
            command.kill()
            command.wait()


WORDS = (
    *[("run", "--rm", "--network", network, "busybox", "true") for network in ("none", "bridge")],
    *[("run", "-d", "--name", f"n{number}", "busybox", "sleep", "1") for number in range(3)],
    ("run", "--rm", "--init", "busybox", "sh", "-c", "yes | head -c 300000"),
    ("run", "-d", "--rm", "--network", "none", "--storage-opt", "size=16m", "busybox", "sleep", "1"),
    ("create", "--name", "n0", "busybox", "true"),
    *[("start", f"n{number}") for number in range(3)],
    *[("stop", "-t", "0", f"n{number}") for number in range(3)],
    *[("rm", "-f", f"n{number}") for number in range(3)],
)


def look(cli: CommandLine) -> None:
    """A listing is never disturbed by what goes on."""
    shown = cli("ps", "-a", "--format", "json")
    assert (shown.exit_code, shown.stderr) == (0, ""), f"seed {SEED}: {shown}"
    for line in shown.stdout.splitlines():
        assert json.loads(line)["State"] in ("created", "running", "exited")


def kill_one(dice: random.Random, kills: dict[str, int], spared: set[int]) -> None:
    by_role: dict[str, list[int]] = {}
    for process in leaks.our_processes():
        if process.pid not in spared and process.state != "Z" and (role := faults.role_of(process)):
            by_role.setdefault(role, []).append(process.pid)
    if not by_role:
        return
    # Commands are many and helpers few: let every kind have its share.
    role = (
        min(by_role, key=lambda role: (kills[role], dice.random())) if dice.random() < 0.5 else dice.choice([*by_role])
    )
    with suppress(ProcessLookupError):
        os.kill(dice.choice(by_role[role]), signal.SIGKILL)
        kills[role] += 1


def networks_left(engine: poc.Engine) -> list[str]:
    """After a prune there is no interface but lo, and no rule."""
    links = [f"link {name}" for name in leaks.links() if name != "lo"]
    return links + [f"rule {rule}" for rule in leaks.nftables_rules()]


# ── who is killed, and what the others see of it ─────────────────────────────────────────────────────────


def test_killed_monitor(engine: poc.Engine, cli: CommandLine) -> None:
    """It takes the container along. Whoever is attached or waits is told at once."""
    client = cli.start("run", "--name", "seen", "--network", "none", "busybox", "sleep", "60", stderr=subprocess.PIPE)
    container = await_container(engine, "seen")
    stop = cli.start("stop", "-t", "50", "seen", stdout=subprocess.DEVNULL)
    wait = cli.start("wait", "seen", stdout=subprocess.PIPE)
    await_nothing(lambda: [] if os.path.exists(f"/proc/{wait.pid}") else ["no wait yet"])
    os.kill(monitor_of(engine, container), signal.SIGKILL)

    _, said = client.communicate(timeout=20)
    assert (client.returncode, said) == (125, b"Error: the container's monitor was killed, and the container with it\n")
    assert stop.wait(timeout=20) == 0
    assert wait.communicate(timeout=20)[0] == b"137\n"
    state = container.attrs["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 137, "its monitor was killed")
    assert state["FinishedAt"] > state["StartedAt"]
    container.start()
    assert container.status == "running"
    container.remove(force=True)


def test_killed_monitor_of_a_container_with_rm(engine: poc.Engine) -> None:
    container = engine.containers.run("busybox", SLEEP, detach=True, remove=True)
    os.kill(monitor_of(engine, container), signal.SIGKILL)
    await_nothing(lambda: [container.name for container in engine.containers.list(all=True)])
    await_nothing(lambda: leftovers(engine))


def test_program_that_outlives_the_monitor(engine: poc.Engine, tmp_path: Path) -> None:
    """A setuid program is not killed with its parent (prctl(2), PR_SET_PDEATHSIG); the next command does it."""
    shutil.copy(shutil.which("busybox") or "", tmp_path / "busybox")
    (tmp_path / "busybox").chmod(0o4755)
    tmp_path.chmod(0o755)
    command = ["/mnt/busybox", *SLEEP]
    container = engine.containers.run("busybox", command, detach=True, user="1000", volumes=[f"{tmp_path}:/mnt"])
    program = container.attrs["State"]["Pid"]
    pidfd = os.pidfd_open(program)
    os.kill(monitor_of(engine, container), signal.SIGKILL)
    assert not select.select([pidfd], [], [], 0.3)[0], "it was to outlive its monitor"
    assert engine.containers.list() == []
    assert select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)
    assert container.status == "exited"
    container.remove()
    await_nothing(lambda: leftovers(engine))


def test_killed_client(engine: poc.Engine, cli: CommandLine) -> None:
    """The container goes on, its monitor keeps the log, and one with --rm is removed when it ends."""
    script = "echo one; read line; echo $line; exit 3"
    client = cli.start(
        "run", "--name", "alone", "-i", "busybox", "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"one\n"
    client.kill()
    client.communicate()
    container = engine.containers.get("alone")
    assert container.wait(timeout=20) == 3  # its stdin ended with its client
    assert list(container.logs()) == [("stdout", b"one\n"), ("stdout", b"\n")]
    container.remove()

    client = cli.start("run", "--name", "alone", "--rm", "busybox", "sleep", "0.5")
    container = await_container(engine, "alone")
    client.kill()
    client.wait()
    assert container.wait(timeout=20) == 0
    await_nothing(lambda: leftovers(engine))


def test_stopped_client(engine: poc.Engine, cli: CommandLine) -> None:
    """A client that reads no more holds its container's output up, but neither its end nor its removal."""
    client = cli.start("run", "--name", "flood", "busybox", "yes", stdout=subprocess.PIPE)
    container = await_container(engine, "flood")
    os.kill(client.pid, signal.SIGSTOP)
    try:
        time.sleep(0.3)  # the buffers in between are full
        container.stop(timeout=0)
        assert (container.status, container.wait()) == ("exited", 137)
        container.remove()
    finally:
        os.kill(client.pid, signal.SIGCONT)
    output, _ = client.communicate(timeout=20)
    assert client.returncode == 137 and set(output.splitlines()[:-1]) == {b"y"}
    await_nothing(lambda: leftovers(engine))


def test_pid_used_again(engine: poc.Engine) -> None:
    """A process is known by its start time too: another one under its pid is neither waited for nor killed."""
    container = engine.containers.run("busybox", SLEEP, detach=True, network="none")
    path = engine.paths.runtime(container.id, "state.json")
    state = _fs.read_json(path)
    time.sleep(0.05)  # start times are counted in hundredths of a second
    other = subprocess.Popen(SLEEP)
    try:
        _fs.write_json(path, {**state, "init": [other.pid, state["init"][1]]})
        with pytest.raises(Conflict, match="not running"):
            container.kill()
        _fs.write_json(path, {**state, "monitor": [other.pid, state["monitor"][1]]})
        os.kill(state["monitor"][0], signal.SIGKILL)
        assert container.wait(timeout=20) == 137
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_killed_while_it_makes_a_disk(engine: poc.Engine, cli: CommandLine) -> None:
    """What mkfs still writes to is gone; nothing is shown, and the name is free."""
    command = cli.start("create", "--name", "disk", "--storage-opt", "size=2g", "busybox", stdout=subprocess.DEVNULL)
    await_nothing(lambda: [] if engine.paths.ids() or listed_names(engine) else ["no name yet"])
    command.kill()
    command.wait()
    shown = cli("ps", "-a", "-q")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert cli("create", "--name", "disk", "busybox").exit_code == (0 if shown.stdout == "" else 125)


def listed_names(engine: poc.Engine) -> list[str]:
    return os.listdir(engine.paths.names) if os.path.isdir(engine.paths.names) else []


def test_commands_meet_a_start_under_way(engine: poc.Engine, cli: CommandLine) -> None:
    """`ps` shows what is true until then, a second start says why not, stop and rm -f wait for it."""
    assert cli("run", "--rm", "busybox", "true").exit_code == 0
    for words in (("stop", "-t", "0", "slow"), ("rm", "-f", "slow"), ("wait", "slow")):
        container = engine.containers.create("busybox", ["sleep", "1"], name="slow")
        with stopped_helper(cli.start("start", "slow", stdout=subprocess.DEVNULL)):
            assert json.loads(cli("ps", "-a", "--format", "json").stdout)["State"] == "created"
            state = container.attrs["State"]
            assert (state["ExitCode"], state["Error"], state["StartedAt"][:4]) == (0, "", "0001")
            waiting = cli.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(timeout=0.5)
        assert (waiting.communicate(timeout=20)[1], waiting.returncode) == (b"", 0), words
        with suppress(ContainerNotFound):
            container.remove(force=True)
        await_nothing(lambda: leftovers(engine))


@contextmanager
def stopped_helper(command: subprocess.Popen[bytes]) -> Iterator[None]:
    """The start under way stands still where the network is attached."""
    helper = 0
    deadline = time.monotonic() + faults.PATIENCE
    while not helper and time.monotonic() < deadline:
        helper = next((p.pid for p in leaks.our_processes() if faults.role_of(p) == HELPER), 0)
    os.kill(helper, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(helper, signal.SIGCONT)
        command.wait(timeout=20)


def test_status_at_the_end(engine: poc.Engine) -> None:
    """It runs until its monitor has written how it ended: nobody sees an exit code that is not the right one."""
    script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    await_nothing(lambda: [] if list(container.logs()) else ["not ready"])
    monitor, program = monitor_of(engine, container), container.attrs["State"]["Pid"]
    os.kill(monitor, signal.SIGSTOP)
    try:
        os.kill(program, signal.SIGTERM)
        await_nothing(lambda: [] if _fs.identity(program) is None else ["still there"])
        assert container.status == "running"
        with pytest.raises(Conflict, match="not running"):
            container.kill()
        with pytest.raises(TimeoutError):
            container.wait(timeout=0.1)
    finally:
        os.kill(monitor, signal.SIGCONT)
    assert container.wait(timeout=20) == 4
    assert (container.status, container.attrs["State"]["Error"]) == ("exited", "")


def test_after_a_reboot(engine: poc.Engine) -> None:
    """The runtime directory is on a tmpfs: what ran is shown as ended, and starts again."""
    ended = engine.containers.run("busybox", ["true"], detach=True, network="none")
    ended.wait()
    ran = engine.containers.run("busybox", SLEEP, detach=True, network="none")
    os.kill(monitor_of(engine, ran), signal.SIGKILL)
    await_nothing(lambda: [] if _fs.identity(ran.attrs["State"]["Pid"]) is None else ["still there"])
    _fs.remove_tree(engine.paths.run)
    assert [(c.status, c.attrs["State"]["ExitCode"]) for c in engine.containers.list(all=True)] == [
        ("exited", 137),
        ("exited", 0),
    ]
    ended.start()
    assert ended.wait() == 0


def test_refused_forks(engine: poc.Engine, tmp_path: Path) -> None:
    """With few processes allowed every fork fails in its turn: one error, nothing left."""
    engine.containers.run("busybox", ["true"], remove=True)
    failures: list[str] = []
    while not failures or (failures[-1] and len(failures) < 30):
        # Each time a group of its own: who was killed counts until it has been reaped.
        limit = {"pids": {"limit": len(failures) + 1}}
        with Cgroup(f"poc-test-{os.getpid()}-{len(failures)}", resources=limit) as group:

            def run() -> None:
                group.add(os.getpid())
                engine.containers.run("busybox", SLEEP, detach=True)

            failures.append(killed_at(1 << 30, COMMAND, run).text)
            check_and_remove_all(engine, f"{limit}: ")
    *failures, last = failures
    assert last == ""
    assert failures
    assert all("Resource temporarily unavailable" in text for text in failures), failures


def await_container(engine: poc.Engine, name: str) -> Container:
    """The container that another process is about to start, once it runs."""
    deadline = time.monotonic() + faults.PATIENCE
    while time.monotonic() < deadline:
        with suppress(ContainerNotFound):
            container = engine.containers.get(name)
            if container.status == "running":
                return container
        time.sleep(0.005)
    raise AssertionError(f"{name} does not run after {faults.PATIENCE} seconds")
