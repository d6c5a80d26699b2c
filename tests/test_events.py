"""Events: what every command tells of what it did, complete, once, and whoever was killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
import timeit
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs, running

from poc.engine import events, history
from poc.engine.history import Events
from poc.engine.store import Paths

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import CommandLine

    import poc

pytestmark = needs("root", "overlay", "program:busybox")


def _lines(root: str) -> list[dict[str, Any]]:
    with open(f"{root}/events/log", "rb") as file:
        return [json.loads(line) for line in file if line.strip()]


def _of(root: str, id: str) -> list[str]:
    return [event["Action"] for event in _lines(root) if event["Actor"]["ID"] == id]


def test_the_life_of_a_container(engine: poc.Engine, engine_root: str) -> None:
    container = engine.containers.create(
        "busybox", ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.01; done"], name="web", labels={"a": "b"}
    )
    container.start()
    container.pause()
    container.unpause()
    container.exec_run(["sh", "-c", "exit 7"])
    container.rename("old-web")
    container.update(pids_limit=50)
    container.stop()
    container.restart()
    container.kill()
    container.wait()
    container.remove()
    lines = [event for event in _lines(engine_root) if event["Actor"]["ID"] == container.id]
    said = [(event["Action"], event["Actor"]["Attributes"]) for event in lines]
    assert [action for action, _ in said] == [
        *("create", "start", "pause", "unpause", "exec_create: sh -c exit 7", "exec_start: sh -c exit 7", "exec_die"),
        *("rename", "update", "kill", "die", "stop", "start", "restart", "kill", "die", "destroy"),
    ]
    assert said[0][1] == {"image": "busybox", "name": "web", "a": "b"}
    assert said[6][1]["exitCode"] == "7" and said[6][1]["execID"] == said[5][1]["execID"] == said[4][1]["execID"]
    assert said[7][1] == {"image": "busybox", "name": "old-web", "oldName": "/web", "a": "b"}
    assert said[9][1]["signal"] == "15" and said[10][1]["exitCode"] == "3"
    assert said[14][1]["signal"] == "9" and said[15][1]["exitCode"] == "137"
    for event in lines:
        assert event["status"] == event["Action"] and event["id"] == container.id and event["from"] == "busybox"
        assert (event["Type"], event["scope"]) == ("container", "local")
        assert event["time"] == event["timeNano"] // 10**9


def test_run_and_remove(cli: CommandLine, engine_root: str) -> None:
    cli("run", "--rm", "--name", "short", "--network", "none", "busybox", "true")
    id = _lines(engine_root)[-1]["id"]
    assert _of(engine_root, id) == ["create", "attach", "start", "die", "destroy"]


def test_who_hears_of_a_death_finds_it_ended(engine: poc.Engine) -> None:
    for _ in range(5):
        with engine.events(filters={"event": "die"}) as told:
            container = engine.containers.run("busybox", ["sh", "-c", "sleep 0.1; exit 3"], detach=True, network="none")
            assert next(told)["id"] == container.id
            state = container.attrs["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 3)
        container.remove()


def test_the_death_under_a_killed_monitor(engine: poc.Engine, engine_root: str) -> None:
    container = engine.containers.run("busybox", ["sleep", "60"], detach=True, network="none")
    with open(f"{engine_root}/run/{container.id}/state.json") as file:
        monitor = json.load(file)["monitor"][0]
    os.kill(monitor, signal.SIGKILL)
    while container.status == "running":
        pass
    engine.containers.list()
    assert _of(engine_root, container.id) == ["create", "start", "die"]
    assert _lines(engine_root)[-1]["Actor"]["Attributes"]["exitCode"] == "137"
    container.remove()
    assert _of(engine_root, container.id)[3:] == ["destroy"]


def test_a_deletion_that_was_cut_off(engine: poc.Engine, engine_root: str) -> None:
    """Where it is told already, and where it is not."""
    for told in (False, True):
        container = engine.containers.create("busybox", ["true"])
        directory = engine.paths.container(container.id)
        os.rename(f"{directory}/container.json", f"{directory}/container.json.gone")
        if told:
            container.emit("destroy")
        engine.containers.list()
        assert not os.path.exists(directory)
        assert _of(engine_root, container.id) == ["create", "destroy"]


def test_images(engine: poc.Engine, engine_root: str) -> None:
    image = engine.images.tag("busybox", "other")
    engine.images.remove("other")
    lines = [event for event in _lines(engine_root) if event["Type"] == "image"]
    assert [(event["Action"], event["id"]) for event in lines] == [("tag", image.id), ("untag", image.id)]
    assert lines[0]["Actor"]["Attributes"]["name"] == "other"


def test_nothing_can_be_written(tmp_path: Path) -> None:
    events.emit(Paths(f"{tmp_path}/missing"), "volume", "create", "v")
    assert not os.listdir(tmp_path)
    os.mkdir(tmp_path / "events")
    os.symlink("/dev/full", tmp_path / "events" / "log")
    events.emit(Paths(str(tmp_path)), "volume", "create", "v")


def test_hostile_attributes(tmp_path: Path) -> None:
    events.emit(Paths(str(tmp_path)), "volume", "create", "v", action='a"\n\udcff', id="x" * 100_000, n=None)
    (event,) = _lines(str(tmp_path))
    assert event["Actor"] == {"ID": "v", "Attributes": {"action": 'a"\n\udcff', "id": "x" * 100_000}}
    assert "status" not in event


# ── being told ───────────────────────────────────────────────────────────────────────────────────────


def test_what_has_happened(cli: CommandLine, engine: poc.Engine) -> None:
    before = time.time()
    container = engine.containers.run("busybox", ["sleep", "60"], detach=True, network="none", name="web")
    container.remove(force=True)
    done = cli("events", "--since", f"{before:.6f}", "--until", "0s", "-f", "container=web")
    lines = [line.split(" ", 4) for line in done.stdout.splitlines()]
    assert [line[2] for line in lines] == ["create", "start", "kill", "die", "destroy"]
    assert {(line[1], line[3]) for line in lines} == {("container", container.id)}
    assert lines[3][4] == "(exitCode=137, image=busybox, name=web)"
    assert before <= datetime.fromisoformat(lines[0][0]).timestamp() <= time.time()

    as_json = cli("system", "events", "--since", "1m", "--until", "0s", "--filter", "event=die", "--format", "json")
    events = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [event["id"] for event in events if event["id"] == container.id] == [container.id]
    assert {event["Action"] for event in events} == {"die"}
    assert list(engine.events(since=time.time(), follow=False)) == []


def test_formats(cli: CommandLine, engine: poc.Engine) -> None:
    container = engine.containers.create("busybox", ["true"], name="web")
    words = ("events", "--since", "1m", "--until", "0s", "-f", f"container={container.id}", "--format")
    (line,) = cli(*words, "{{json .}}").stdout.splitlines()
    event = json.loads(line)
    assert list(event) == ["status", "id", "from", "Type", "Action", "Actor", "scope", "time", "timeNano"]
    assert event["Actor"] == {"ID": container.id, "Attributes": {"image": "busybox", "name": "web"}}
    assert cli(*words, "json").stdout == line + "\n"
    told = cli(*words, "{{.ID}} {{.Status}} {{.From}} {{.Type}} {{.Actor.Attributes.name}} {{.TimeNano}} {{.Scope}}")
    assert told.stdout == f"{container.id} create busybox container web {event['timeNano']} local\n"
    assert cli("events", "--format", "{{.Colour}}", "--since", "1m", "--until", "0s").exit_code == 1
    assert cli("events", "--format", "{{").exit_code == 1  # without waiting for an event


def test_following(cli: CommandLine, engine: poc.Engine) -> None:
    """Each line comes at once; nothing of before; SIGINT ends it."""
    with running(cli.start("events", "--filter", "type=container", stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        time.sleep(0.5)
        container = engine.containers.create("busybox", ["true"], name="seen")
        line = process.stdout.readline()
        assert b" container create " in line and b"name=seen" in line
        container.remove()
        assert b" container destroy " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_until_then(engine: poc.Engine) -> None:
    """A time to come is waited for; what happened since the call is not missed."""
    with engine.events(until=time.time() + 0.5) as events:
        container = engine.containers.create("busybox", ["true"])
        assert container.id in [event.get("id") for event in events]
    followed = engine.events(filters={"event": ["destroy", "create"]})
    container.remove()
    assert next(followed)["Action"] == "destroy"
    followed.close()
    assert list(followed) == []


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"container": "we"}, 3),
        ({"container": "a" * 10}, 3),
        ({"container": "web", "event": ["die", "start"]}, 1),
        ({"event": "exec_create"}, 1),
        ({"event": "health_status"}, 1),
        ({"event": "health_status: healthy"}, 1),
        ({"image": "busybox"}, 4),
        ({"image": "busybox:1"}, 4),
        ({"image": "busy"}, 0),
        ({"label": ["role=x", "tier"]}, 1),
        ({"label": ["role=y"]}, 0),
        ({"type": ["image", "volume"]}, 2),
        ({"volume": "data"}, 1),
        ({"network": "data"}, 0),
        ({"scope": "local"}, 5),
        ({"scope": "swarm"}, 0),
    ],
)
def test_filters(tmp_path: Path, filters: dict[str, Any], count: int) -> None:
    import poc

    paths = Paths(str(tmp_path))
    container = {"image": "busybox:1", "name": "web"}
    events.emit(paths, "container", "start", "a" * 64, **container, role="x", tier="front")
    events.emit(paths, "container", "exec_create: ls", "a" * 64, **container)
    events.emit(paths, "container", "health_status: healthy", "a" * 64, **container)
    events.emit(paths, "image", "tag", "sha256:1", name="busybox:1")
    events.emit(paths, "volume", "create", "data")
    assert len(list(poc.Engine(str(tmp_path)).events(0, filters=filters, follow=False))) == count


@pytest.mark.parametrize("words", [["-f", "colour=red"], ["-f", "type"], ["--since", "yesterday"], ["--until", "x"]])
def test_refusals(cli: CommandLine, words: list[str]) -> None:
    done = cli("events", *words)
    assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────


def test_half_a_line(tmp_path: Path) -> None:
    """What a killed writer, or a full disk, left is no event, and spoils none."""
    paths = Paths(str(tmp_path))
    reader = history.Reader(paths)
    events.emit(paths, "volume", "create", "one")
    with open(tmp_path / "events" / "log", "ab") as file:
        file.write(b'\n{"Type":"volume","Action":"cre')
    assert [event["Actor"]["ID"] for event in reader.read()] == ["one"]
    events.emit(paths, "volume", "create", "two")
    assert [event["Actor"]["ID"] for event in reader.read()] == ["two"]
    reader.close()
    with Events(paths, None, None, {}, follow=False) as everything:
        assert [event["Actor"]["ID"] for event in everything] == ["one", "two"]


def _write(root: str, name: str, count: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(count):
                events.emit(Paths(root), "volume", "create", name, number=number)
        finally:
            os._exit(0)
    return pid


def test_parallel_writers_and_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who follows sees each line once, in its writer's order, though files become full and writers are killed."""
    monkeypatch.setattr(events, "LARGEST", 20_000)
    monkeypatch.setattr(events, "_KEPT", 1000)
    root = str(tmp_path)
    reader = history.Reader(Paths(root))
    writers = [_write(root, f"w{number}", 1500) for number in range(4)]
    victims = [_write(root, f"v{number}", 10**6) for number in range(2)]
    seen: dict[str, list[int]] = {}
    deadline = time.monotonic() + 60
    while writers or not reader.ended():
        assert time.monotonic() < deadline
        for event in reader.read():
            actor = event["Actor"]
            seen.setdefault(actor["ID"], []).append(int(actor["Attributes"]["number"]))
        if writers and os.waitpid(writers[0], os.WNOHANG)[0]:
            writers.pop(0)
        if victims and len(seen.get(f"v{len(victims) - 1}", [])) > 300:
            victim = victims.pop()
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
    assert not victims
    for name, numbers in seen.items():
        assert numbers == list(range(1500 if name[0] == "w" else len(numbers))), name
    assert len(seen) == 6 and len(os.listdir(tmp_path / "events")) > 20
    again = history.Reader(Paths(root))
    count = 0
    while (found := again.read()) or not again.ended():
        count += len(found)
    assert count == sum(map(len, seen.values()))
    again.close()
    reader.close()


def test_old_ones_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST", 20_000)
    for number in range(2000):
        events.emit(Paths(str(tmp_path)), "volume", "create", "v", number=number)
    names = sorted(os.listdir(tmp_path / "events"))
    assert len(names) == 5 and sum(os.path.getsize(tmp_path / "events" / name) for name in names) < 5 * 21_000
    reader = history.Reader(Paths(str(tmp_path)))
    numbers = []
    while (found := reader.read()) or not reader.ended():
        numbers += [int(event["Actor"]["Attributes"]["number"]) for event in found]
    assert numbers == list(range(numbers[0], 2000))
    reader.close()


def test_a_stopped_rotator_holds_nobody_up(tmp_path: Path) -> None:
    events.emit(Paths(str(tmp_path)), "volume", "create", "one")
    with open(tmp_path / "events" / "log") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begin = time.monotonic()
        events.emit(Paths(str(tmp_path)), "volume", "create", "two")
        assert time.monotonic() - begin < 1
    assert [event["Actor"]["ID"] for event in _lines(str(tmp_path))] == ["one", "two"]


def test_what_it_costs(tmp_path: Path) -> None:
    """Every start says two things; together they must stay far below a millisecond."""
    paths = Paths(str(tmp_path))
    events.emit(paths, "volume", "create", "v")
    best = min(timeit.repeat(lambda: events.emit(paths, "volume", "create", "v", name="x"), number=100, repeat=5))
    assert best / 100 < 100e-6
