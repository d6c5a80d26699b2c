"""`poc logs` and `container.logs`: every byte, in order, whenever it is read; rotated, followed, from a time on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs, running
from hypothesis import given, settings
from hypothesis import strategies as st

from poc._lean.json import quoted
from poc.engine.logs import jsonfile, reading
from poc.engine.logs.jsonfile import JsonFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import CommandLine

    import poc
    from poc.engine.container import Container

CHUNKS = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.lists(st.sampled_from([b"\n", b"a", b"\\", b"\\n", b'"', b"\xff", "é€😀".encode(), b"\0\r", b"x" * 5000])),
    )
)


def _contents(path: Path | str, **options: Any) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    for entry in reading.read(str(path), **options):
        found[entry.stream] += entry.data
    return found


def _lines(container: Container, **options: Any) -> bytes:
    return b"".join(data for _, data in container.logs(**options))


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────


@given(CHUNKS, st.sampled_from([-1, 1, 300, 20_000]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, list[bytes]]], max_size: int, compressed: bool
) -> None:
    """In whatever pieces it comes, into however many files it goes."""
    path = tmp_path_factory.mktemp("log") / "x-json.log"
    log = JsonFile(str(path), max_size, 10_000, compressed, '{"a":"b"}')
    said = {"stdout": b"", "stderr": b""}
    for stream, parts in chunks:
        log.write(stream, b"".join(parts))
        said[stream] += b"".join(parts)
    log.close()
    assert _contents(path) == said
    for entry in reading.read(str(path)):
        assert len(entry.data) <= jsonfile.LONGEST_PART and entry.attrs == {"a": "b"}
        assert entry.data.count(b"\n", 0, -1) == 0, "one line an entry"
    lines = sum(map(_count_lines, said.values()))
    for count in (0, 1, 3):
        kept = _contents(path, tail=count)
        assert sum(_count_lines(text) for text in kept.values()) >= min(count, lines)
        assert all(said[stream].endswith(text) for stream, text in kept.items())


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


@given(st.binary())
def test_an_entry_is_docker_s(data: bytes) -> None:
    """The fast way to write many gives what an encoder would for each."""
    end = ',"stream":"stdout","time":"T"}\n'
    rows = jsonfile._entries(data + b"\n", end).splitlines()
    assert [json.loads(row)["log"] for row in rows] == [
        line.decode("utf-8", "surrogateescape") + "\n" for line in data.split(b"\n")
    ]
    assert rows[0] == f'{{"log":{quoted(json.loads(rows[0])["log"])}{end}'.rstrip("\n")


def test_long_lines_are_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path))
    log.write("stdout", ("x" + "€" * 10_000 + "\n").encode())
    log.close()
    with open(path, "rb") as file:
        texts = [json.loads(row)["log"] for row in file]
    assert len(texts) == 2 and "".join(texts) == "x" + "€" * 10_000 + "\n"
    assert not any("\ud800" <= character <= "\udfff" for text in texts for character in text)


def test_rotation(tmp_path: Path) -> None:
    """docker's names; no file is larger than asked by more than a line; the oldest goes."""
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path), 1000, 3)
    for number in range(100):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["x-json.log", "x-json.log.1", "x-json.log.2"]
    for name in os.listdir(tmp_path):
        assert os.path.getsize(tmp_path / name) < 1100
    text = _contents(path)["stdout"]
    assert text.endswith(b"line 99\n") and 20 < text.count(b"\n") < 60
    assert _contents(path, tail=15)["stdout"] == b"".join(b"line %d\n" % number for number in range(85, 100))
    with open(f"{path}.2", "rb") as file:
        assert text.startswith(json.loads(file.readline())["log"].encode())


def test_compressed_files(tmp_path: Path) -> None:
    """gunzip reads them, so does `logs`, and a tail reaches into them."""
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path), 1000, 4, compress=True)
    for number in range(60):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["x-json.log", *(f"x-json.log.{number}.gz" for number in (1, 2, 3))]
    packed = subprocess.run(["gzip", "-dc", f"{path}.1.gz"], capture_output=True, check=True).stdout
    assert all(json.loads(row)["log"].startswith("line ") for row in packed.splitlines())
    assert _contents(path, tail=30)["stdout"] == b"".join(b"line %d\n" % number for number in range(30, 60))


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path), 1000, 1)
    for number in range(100):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    assert os.listdir(tmp_path) == ["x-json.log"] and os.path.getsize(path) < 1100
    assert _contents(path)["stdout"].endswith(b"line 98\nline 99\n")


def test_what_was_cut_off_spoils_nothing(tmp_path: Path) -> None:
    """A killed monitor, or a full disk, leaves half an entry."""
    path = tmp_path / "x-json.log"
    for text in (b"one\n", b"two\n"):
        log = JsonFile(str(path))
        log.write("stdout", text)
        log.close()
        with open(path, "ab") as file:
            file.write(b'{"log":"hal')
    assert _contents(path) == {"stdout": b"one\ntwo\n", "stderr": b""}


@pytest.mark.parametrize(("files", "compressed"), [(200, False), (200, True), (30, True), (30, False)])
def test_followed_across_rotation(tmp_path: Path, files: int, compressed: bool) -> None:
    """Each line once, in order; a reader as fast as the writer misses none, however many files become full."""
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path), 3000, files, compressed)
    count, done, read = 5000, threading.Event(), 0

    def write() -> None:
        for number in range(count):
            log.write("stdout", b"%d\n" % number)
            while files < 200 and number > read + 200:
                time.sleep(0.0001)
        log.close()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    for entry in reading.read(str(path), is_running=lambda: not done.is_set()):
        assert int(entry.data) == read
        read += 1
    writer.join()
    assert read == count


def test_read_while_it_is_rotated(tmp_path: Path) -> None:
    """Without following: what there was at the call, whatever is renamed meanwhile."""
    path = tmp_path / "x-json.log"
    log = JsonFile(str(path), 2000, 8, compress=True)
    for number in range(100):
        log.write("stdout", b"%d\n" % number)
    entries = reading.read(str(path))
    found = [int(next(entries).data)]
    for number in range(100, 150):
        log.write("stdout", b"%d\n" % number)
    found += [int(entry.data) for entry in entries]
    assert found == list(range(100))
    log.close()


# ── containers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def talker(engine: poc.Engine) -> Iterator[Container]:
    """Three lines half a second apart, on both streams."""
    script = "echo one; sleep 0.5; echo two >&2; sleep 0.5; echo three"
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none", name="talker")
    container.wait()
    yield container


needs_all = needs("root", "overlay", "program:busybox")


@needs_all
def test_since_and_until(talker: Container, cli: CommandLine) -> None:
    times = [data.split()[0].decode() for _, data in talker.logs(timestamps=True)]
    assert cli("logs", "--since", times[1], "talker") == ("three\n", "two\n", 0)
    assert cli("logs", "--until", times[1], "talker") == ("one\n", "two\n", 0)
    assert cli("logs", "--since", times[1], "--until", times[1], "talker") == ("", "two\n", 0)
    assert cli("logs", "--since", "1h", "--until", "0s", "-n", "2", "talker") == ("three\n", "two\n", 0)
    assert cli("logs", "--since", "0s", "talker") == ("", "", 0)
    middle = datetime.fromisoformat(times[1]).timestamp()
    assert _lines(talker, since=middle + 0.1) == b"three\n"
    assert _lines(talker, until=datetime.fromtimestamp(middle - 0.1, UTC)) == b"one\n"
    assert cli("logs", "--since", f"{middle + 0.1:.9f}", "-t", "talker").stdout == f"{times[2]} three\n"


@needs_all
@pytest.mark.parametrize(
    ("words", "text"),
    [(["--since", "noon"], "--since"), (["--until", "x"], "--until"), (["--tail", "1.5"], "--tail: '1.5'")],
)
def test_refusals(talker: Container, cli: CommandLine, words: list[str], text: str) -> None:
    done = cli("logs", *words, "talker")
    assert done.exit_code == 1 and text in done.stderr and len(done.stderr.splitlines()) == 1


@needs_all
def test_until_ends_following(engine: poc.Engine) -> None:
    script = "while :; do echo x; sleep 0.05; done"
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    begin = time.time()
    assert 3 < _lines(container, follow=True, until=begin + 1).count(b"x\n") < 30
    assert time.time() - begin < 5
    container.remove(force=True)


@needs_all
def test_details(engine: poc.Engine, cli: CommandLine) -> None:
    """docker's form, with or without something to tell."""
    options = {"labels": "tier,missing", "env-regex": "^VERS", "tag": "{{.Name}}/{{.ImageName}}"}
    keywords: dict[str, Any] = {"labels": {"tier": "a b", "other": "x"}, "environment": ["VERSION=1,2"]}
    engine.containers.run("busybox", ["echo", "hi"], name="told", network="none", log_opts=options, **keywords)
    assert cli("logs", "--details", "told").stdout == "VERSION=1%2C2,tag=told%2Fbusybox,tier=a+b hi\n"
    assert cli("logs", "told").stdout == "hi\n"
    engine.containers.run("busybox", ["echo", "hi"], name="plain", network="none")
    shown = cli("logs", "--details", "-t", "plain").stdout.split(" ", 1)
    assert shown[1] == " hi\n" and shown[0].endswith("Z")


@needs_all
def test_binary_and_huge_lines(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    """A line of 10 MB and a megabyte of noise come back as they were, and apart."""
    noise = random.Random(1).randbytes(1 << 20)
    (tmp_path / "noise").write_bytes(noise)
    script = "head -c 10000000 /dev/zero | tr '\\0' x; echo; cat /noise >&2"
    engine.containers.run(
        "busybox", ["sh", "-c", script], name="big", network="none", volumes=[f"{tmp_path}/noise:/noise:ro"],
        log_opts={"max-size": "100m"},
    )  # fmt: skip
    done = subprocess.run([*cli.command, "logs", "big"], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"x" * 10_000_000 + b"\n"
    assert done.stderr == noise
    last = subprocess.run([*cli.command, "logs", "-t", "big"], capture_output=True, timeout=60, check=True).stdout
    assert len(last) == 10_000_001 + len("2024-05-01T12:00:00.123456789Z "), "one time for the one line"


@needs_all
@pytest.mark.parametrize("removed", [False, True], ids=["kept", "rm"])
def test_followed_to_the_last_byte(cli: CommandLine, engine: poc.Engine, removed: bool) -> None:
    """Also what comes right before the end, without a newline, of a container that removes itself."""
    for number in range(2):
        script = f"sleep 0.{5 + number}; head -c 300000 /dev/zero | tr '\\0' '\\n'; printf over"
        container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none", remove=removed)
        done = subprocess.run([*cli.command, "logs", "-f", container.id], capture_output=True, timeout=60, check=True)
        assert done.stdout == b"\n" * 300_000 + b"over" and done.stderr == b""


@needs_all
def test_a_trickle_is_seen_at_once(cli: CommandLine, engine: poc.Engine) -> None:
    """10 kB a second in small lines: each is there within a moment."""
    script = "i=0; while [ $i -lt 100 ]; do date +%s.%N; sleep 0.02; i=$((i+1)); done"
    script = script.replace("date +%s.%N", "cut -d' ' -f1 /proc/uptime")
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    with running(cli.start("logs", "-f", container.id, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        late = [time.clock_gettime(time.CLOCK_BOOTTIME) - float(line) for line in process.stdout]
    assert len(late) == 100
    assert sorted(late[50:])[25] < 0.5


@needs_all
def test_following_again_and_through_restarts(engine: poc.Engine, cli: CommandLine) -> None:
    """The log of one run follows that of the one before; who follows is told of its own run's end."""
    container = engine.containers.create("busybox", ["sh", "-c", "echo run; sleep 0.3"], network="none")
    for count in (1, 2):
        container.start()
        assert _lines(container, follow=True) == b"run\n" * count


@needs_all
def test_following_ends_with_a_killed_monitor(engine: poc.Engine, cli: CommandLine) -> None:
    container = engine.containers.run("busybox", ["sh", "-c", "echo up; sleep 60"], detach=True, network="none")
    with running(cli.start("logs", "-f", container.id, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        with open(f"{engine.paths.run}/{container.id}/state.json") as file:
            os.kill(json.load(file)["monitor"][0], signal.SIGKILL)
        assert process.stdout.read() == b"" and process.wait(20) == 0


@needs_all
def test_followed_through_restarts(engine: poc.Engine, cli: CommandLine) -> None:
    """What the restart policy starts again is followed too, to the end for good; events tell of each life."""
    script = "echo run; sleep 0.3; printf end; exit 3"
    container = engine.containers.run(
        "busybox", ["sh", "-c", script], detach=True, network="none", restart_policy="on-failure:2"
    )
    done = cli("logs", "-f", container.id)
    assert done.stdout == "run\nend" * 3
    lives = [event["Action"] for event in engine.events(follow=False, filters={"container": container.id})]
    assert lives == ["create", *("start", "die") * 3]


@needs_all
def test_a_killed_reader_changes_nothing(cli: CommandLine, engine: poc.Engine) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.005; done"
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    for number in range(5):
        with running(cli.start("logs", "-f", container.id, stdout=subprocess.PIPE)) as process:
            time.sleep(0.1 * number)
            process.send_signal(signal.SIGKILL)
    assert _lines(container, follow=True).split() == [b"%d" % number for number in range(300)]


# ── floods ───────────────────────────────────────────────────────────────────────────────────────────


def _peak(pid: int) -> int:
    """The most memory a process has had, in KiB (VmHWM; shared pages too)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


@needs_all
@pytest.mark.parametrize("followed", [False, True], ids=["alone", "followed"])
@pytest.mark.parametrize("source", ["yes", "cat /dev/zero", "cat /dev/urandom", "yes ''"])
def test_a_flood_is_slowed_not_kept(cli: CommandLine, engine: poc.Engine, source: str, followed: bool) -> None:
    """The monitor's memory stays small, whoever reads; no line is torn."""
    identity = cli("run", "-d", "--network", "none", "busybox", "sh", "-c", source).stdout.strip()
    container = engine.containers.get(identity)
    with open(f"{engine.paths.run}/{identity}/state.json") as file:
        monitor = json.load(file)["monitor"][0]
    if followed:
        # One who reads no more than what fits into the pipe.
        with running(cli.start("logs", "-f", identity, stdout=subprocess.PIPE)):
            time.sleep(1.5)
    else:
        time.sleep(1.5)
    peak = _peak(monitor)
    container.kill()
    container.wait()
    print(f"{source}: {peak} KiB")
    assert peak < 20 << 10
    if source == "yes":
        lines = _lines(container).split(b"\n")
        assert len(lines) > 10_000 and set(lines[:-1]) == {b"y"} and lines[-1] in (b"y", b"")
    container.remove()
