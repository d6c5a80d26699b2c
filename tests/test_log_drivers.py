"""--log-driver and --log-opt: what reaches whom, what is kept, what is refused.

The journal and the syslog servers here are sockets of the test's own; the journal of systemd itself is asked in
`scripts/vm-test`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs

from poc.engine.logs import journald, options, remote, syslog
from poc.engine.logs.remote import Sender
from poc.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import CommandLine

    import poc

pytestmark = needs("root", "overlay", "program:busybox")

TALK = ["sh", "-c", "echo out; echo err >&2; printf 'tail end'"]


class Server:
    """A socket that takes what is sent to it: datagrams one by one, of a stream all of it."""

    def __init__(self, family: int, kind: int, address: Any) -> None:
        self.socket = socket.socket(family, kind)
        self.socket.bind(address)
        self.is_stream = kind == socket.SOCK_STREAM
        self.socket.settimeout(10)
        if self.is_stream:
            self.socket.listen()

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def messages(self, count: int) -> list[bytes]:
        """So many lines or datagrams."""
        if not self.is_stream:
            return [self.socket.recv(1 << 16) for _ in range(count)]
        client, _ = self.socket.accept()
        with client, client.makefile("rb") as lines:
            return [lines.readline() for _ in range(count)]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


# ── json-file and none ───────────────────────────────────────────────────────────────────────────────


def test_what_inspect_tells(engine: poc.Engine, cli: CommandLine) -> None:
    plain = engine.containers.create("busybox", TALK)
    assert plain.attrs["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    assert plain.attrs["LogPath"].endswith(f"/{plain.id}/{plain.id}-json.log")
    words = ("--log-driver", "json-file", "--log-opt", "max-size=1k", "--log-opt=max-file=5")
    attrs = engine.containers.get(cli("create", *words, "busybox").stdout.strip()).attrs
    assert attrs["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1k", "max-file": "5"}}
    assert engine.containers.create("busybox", TALK, log_driver="none").attrs["LogPath"] == ""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("max-size=20k",), ["", ".1", ".2"]),
        (("max-size=20k", "max-file=2"), ["", ".1"]),
        (("max-size=20kb", "max-file=4", "compress=true"), ["", ".1.gz", ".2.gz", ".3.gz"]),
        (("max-size=-1",), [""]),
        ((), [""]),
    ],
)
def test_rotation_as_asked(cli: CommandLine, engine: poc.Engine, words: tuple[str, ...], names: list[str]) -> None:
    options = [f"--log-opt={word}" for word in words]
    cli("run", "--name", "much", "--network", "none", *options, "busybox", "seq", "2000")
    path = engine.containers.get("much").log_path
    found = sorted(name for name in os.listdir(os.path.dirname(path)) if "-json.log" in name)
    assert [name.partition("-json.log")[2] for name in found] == names
    if words and "-1" not in words[0]:
        assert os.path.getsize(path) < 20_200
    kept = cli("logs", "much").stdout.split()
    assert kept == [str(number) for number in range(2001 - len(kept), 2001)]
    assert (len(kept) == 2000) == (len(names) == 1)


def test_rotated_by_default(cli: CommandLine, engine: poc.Engine) -> None:
    """30 MB at most."""
    cli("run", "--name", "much", "--network", "none", "busybox", "sh", "-c", "yes | head -n 600000")
    directory = os.path.dirname(engine.containers.get("much").log_path)
    sizes = [os.path.getsize(f"{directory}/{name}") for name in os.listdir(directory) if "-json.log" in name]
    assert len(sizes) == 3 and max(sizes) < 10_000_200 and sorted(sizes)[1] >= 10_000_000


def test_none_keeps_nothing(cli: CommandLine, engine: poc.Engine) -> None:
    done = cli("run", "--name", "quiet", "--network", "none", "--log-driver", "none", "busybox", *TALK)
    assert (done.stdout, done.stderr) == ("out\ntail end", "err\n")
    assert not os.path.exists(engine.containers.get("quiet").log_path)
    for words in ((), ("-f",)):
        refused = cli("logs", *words, "quiet")
        assert refused.exit_code == 1 and "does not support reading" in refused.stderr and refused.stdout == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--log-driver", "gelf"], "no log driver named 'gelf'"),
        (["--log-opt", "colour=red"], "unknown log opt 'colour' for json-file log driver"),
        (["--log-opt", "max-size"], "write KEY=VALUE"),
        (["--log-opt", "max-size=big"], "'big' is no size"),
        (["--log-opt", "max-size=0"], "more than 0"),
        (["--log-opt", "max-file=0"], "1 or more"),
        (["--log-opt", "compress=maybe"], "neither true nor false"),
        (["--log-opt", "compress=true", "--log-opt", "max-file=1"], "max-file of 2"),
        (["--log-opt", "tag={{.Colour}}"], "tag"),
        (["--log-opt", "env-regex=("], "no regular expression"),
        (["--log-opt", "syslog-address=udp://x"], "unknown log opt"),
        (["--log-driver", "none", "--log-opt", "max-size=1m"], "unknown log opt 'max-size' for none log driver"),
        (["--log-driver", "syslog", "--log-opt", "syslog-facility=x"], "'x' is none of kern"),
        (["--log-driver", "syslog", "--log-opt", "syslog-format=x"], "rfc3164"),
        (["--log-driver", "syslog", "--log-opt", "syslog-address=ftp://x"], "tcp://HOST"),
        (["--log-driver", "syslog", "--log-opt", "syslog-address=udp://:99999"], "not HOST"),
        (["--log-driver", "syslog", "--log-opt", "syslog-address=unix:///no/where"], "no socket"),
        (["--log-driver", "syslog", "--log-opt", "syslog-address=tcp+tls://x"], "tcp+tls is not supported"),
        (["--log-driver", "syslog", "--log-opt", "max-buffer-size=1m"], "non-blocking"),
    ],
)
def test_refusals(cli: CommandLine, words: list[str], text: str) -> None:
    done = cli("create", *words, "busybox")
    assert done.exit_code == 125 and done.stdout == "" and text in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert cli("ps", "-aq").stdout == ""


def test_nobody_to_log_to(engine: poc.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The container does not start without its log."""
    monkeypatch.setattr(journald, "SOCKET", f"{tmp_path}/none")
    with pytest.raises(Unsupported, match="no journal listens on"):
        engine.containers.run("busybox", TALK, network="none", log_driver="journald")
    with pytest.raises(Unsupported, match=r"log driver syslog: tcp://127\.0\.0\.1:1: Connection refused"):
        engine.containers.run(
            "busybox", TALK, network="none", log_driver="syslog", log_opts={"syslog-address": "tcp://127.0.0.1:1"}
        )
    assert [container.status for container in engine.containers.list(all=True)] == []


# ── the journal ──────────────────────────────────────────────────────────────────────────────────────


def _fields(message: bytes) -> dict[str, bytes]:
    """The fields of a datagram, by https://systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    fields = {}
    while message:
        line, _, message = message.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(message[:8], "little")
            value, message = message[8 : 8 + size], message[9 + size :]
        fields[name.decode()] = value
    return fields


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(journald, "SOCKET", f"{tmp_path}/journal")
    with Server(socket.AF_UNIX, socket.SOCK_DGRAM, journald.SOCKET) as server:
        yield server


def test_the_journal(engine: poc.Engine, journal: Server, cli: CommandLine) -> None:
    options = {"labels": "the.tier", "env": "MULTI", "tag": "x-{{.Name}}"}
    labels, environment = {"the.tier": "front", "_secret": "no"}, {"MULTI": "a\nb"}
    container = engine.containers.run(
        "busybox", ["sh", "-c", "echo out; sleep 0.2; printf '\\377 err' >&2"], detach=True, network="none", name="web",
        log_driver="journald", log_opts=options, labels=labels, environment=environment,
    )  # fmt: skip
    first, second = map(_fields, journal.messages(2))
    assert first == {
        "THE_TIER": b"front",
        "MULTI": b"a\nb",
        "CONTAINER_ID": container.id[:12].encode(),
        "CONTAINER_ID_FULL": container.id.encode(),
        "CONTAINER_NAME": b"web",
        "CONTAINER_TAG": b"x-web",
        "IMAGE_NAME": b"busybox",
        "SYSLOG_IDENTIFIER": b"x-web",
        "PRIORITY": b"6",
        "MESSAGE": b"out",
    }
    assert (second["PRIORITY"], second["MESSAGE"]) == (b"3", b"\xff err")
    container.wait()
    assert list(container.logs()) == [("stdout", b"out\n"), ("stderr", b"\xff err")], "kept here too"
    assert [data for _, data in container.logs(details=True, stderr=False)] == [
        b"MULTI=a%0Ab,tag=x-web,the.tier=front out\n"
    ]
    assert container.attrs["LogPath"] == ""


def test_parts_of_a_long_line_in_the_journal(engine: poc.Engine, journal: Server) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next"
    engine.containers.run("busybox", ["sh", "-c", script], network="none", log_driver="journald")
    messages = [_fields(message) for message in journal.messages(4)]
    assert [len(message["MESSAGE"]) for message in messages] == [16384, 16384, 7232, 4]
    assert ["CONTAINER_PARTIAL_MESSAGE" in message for message in messages] == [True, True, False, False]


@needs("systemd")
def test_the_journal_of_systemd(cli: CommandLine) -> None:
    words = ("--log-driver", "journald", "--log-opt", "tag=poc-test-journal")
    id = cli("run", "-d", "--network", "none", *words, "busybox", *TALK).stdout.strip()
    cli("wait", id)
    ask = ["journalctl", "--no-pager", "--output=json", "--sync", f"CONTAINER_ID_FULL={id}"]
    subprocess.run(["journalctl", "--sync"], check=True)
    ask.remove("--sync")
    rows = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
    said = [(row["MESSAGE"], row["PRIORITY"], row["SYSLOG_IDENTIFIER"]) for row in map(json.loads, rows)]
    assert sorted(said) == sorted(
        [("out", "6", "poc-test-journal"), ("err", "3", "poc-test-journal"), ("tail end", "6", "poc-test-journal")]
    )


# ── syslog ───────────────────────────────────────────────────────────────────────────────────────────

HOST = re.escape(os.uname().nodename)
OLD = rf"[A-Z][a-z][a-z] [ 123]\d \d\d:\d\d:\d\d {HOST} TAG\[\d+\]: "
FORMS = {
    "": r"[A-Z][a-z][a-z] [ 123]\d \d\d:\d\d:\d\d TAG\[\d+\]: ",
    "rfc3164": OLD,
    "rfc5424": rf"1 (\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\S+) {HOST} TAG \d+ TAG - ",
    "rfc5424micro": rf"1 (\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{6}}\S+) {HOST} TAG \d+ TAG - ",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["udp", "tcp", "unix", "unixgram"])
def test_syslog(cli: CommandLine, engine: poc.Engine, tmp_path: Path, scheme: str, form: str) -> None:
    kind = socket.SOCK_STREAM if scheme in ("tcp", "unix") else socket.SOCK_DGRAM
    local = scheme.startswith("unix")
    path = f"{tmp_path}/s"
    with Server(socket.AF_UNIX if local else socket.AF_INET, kind, path if local else ("127.0.0.1", 0)) as server:
        address = path if local else f"127.0.0.1:{server.port}"
        words = [
            f"syslog-address={scheme}://{address}",
            "syslog-facility=local3",
            f"syslog-format={form}",
            "tag=t/{{.Name}}",
        ]
        options = [f"--log-opt={word}" for word in (*words, "tag=t/{{.Name}}") if not word.endswith("=")]
        done = cli("run", "--name", "web", "--network", "none", "--log-driver=syslog", *options, "busybox", *TALK)
        assert (done.stdout, done.stderr) == ("out\ntail end", "err\n")
        messages = sorted(message.decode() for message in server.messages(3))
    head = FORMS[form].replace("TAG", "t/web")
    expected = [(19 * 8 + 3, "err\n"), (19 * 8 + 6, "out\n"), (19 * 8 + 6, "tail end\n")]
    for message, (priority, line) in zip(messages, expected, strict=True):
        match = re.fullmatch(f"<{priority}>{head}{line}", message)
        assert match, message
        if match.groups():
            assert abs(datetime.fromisoformat(match[1]).timestamp() - time.time()) < 60
    assert cli("logs", "web") == ("out\ntail end", "err\n", 0), "kept here too"


def test_syslog_of_this_host(engine: poc.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address: /dev/log, the facility daemon, the short id as the tag; nothing kept here if so wished."""
    monkeypatch.setattr(syslog, "LOCAL", (f"{tmp_path}/none", f"{tmp_path}/log"))
    with Server(socket.AF_UNIX, socket.SOCK_DGRAM, f"{tmp_path}/log") as server:
        container = engine.containers.create(
            "busybox", ["echo", "hi"], network="none", log_driver="syslog", log_opts={"cache-disabled": True}
        )
        container.start()
        (message,) = server.messages(1)
        container.wait()
    assert re.fullmatch(rf"<30>.{{15}} {container.short_id}\[\d+\]: hi\n", message.decode())
    with pytest.raises(Unsupported, match="syslog, does not support reading"):
        container.logs()
    assert not os.path.exists(container.log_path)


# ── receivers that are no good ───────────────────────────────────────────────────────────────────────


def test_a_server_that_went_away(engine: poc.Engine) -> None:
    """The container goes on; when somebody listens there again, so does the log."""
    server = Server(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    address = ("127.0.0.1", server.port)
    sender = Sender(socket.AF_INET, socket.SOCK_STREAM, address, 0)
    client, _ = server.socket.accept()
    sender.send(b"one\n")
    assert client.recv(10) == b"one\n"
    client.close()
    server.socket.close()
    begin = time.monotonic()
    for _ in range(1000):
        sender.send(b"lost\n")
    assert time.monotonic() - begin < 1
    sender._retry_at = 0.0  # it would be in 5 seconds
    with socket.create_server(address) as again:
        sender.send(b"two\n")
        client, _ = again.accept()
        with client:
            assert client.recv(10) == b"two\n"
    sender.close()


@pytest.mark.parametrize("queue", [0, 100_000], ids=["blocking", "non-blocking"])
def test_a_server_that_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: int) -> None:
    """It holds the monitor up for a moment, or not at all; what it can't take is lost, and not kept."""
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    with Server(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/s"):
        sender = Sender(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/s", queue)
        begin = time.monotonic()
        for _ in range(5000):
            sender.send(b"x" * 1000)
        assert time.monotonic() - begin < (1.0 if queue else 1.5)
        assert sender._queued <= queue
        sender.close()
        assert time.monotonic() - begin < 3


def test_a_queue_is_sent_when_there_is_room(tmp_path: Path) -> None:
    """In order, and torn nowhere."""
    with Server(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/s") as server:
        sender = Sender(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/s", 1 << 20)
        for number in range(500):
            sender.send(b"%d %b\n" % (number, b"x" * 1000))
        assert sender._queued > 0
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.extend(server.messages(500)))
        reader.start()
        sender.close()
        reader.join(10)
    assert [int(line.split()[0]) for line in found] == list(range(500))
    assert {len(line.split()[1]) for line in found} == {1000}


def test_non_blocking_by_option(engine: poc.Engine, tmp_path: Path) -> None:
    """Nobody reads, and the program is not held up."""
    with Server(socket.AF_UNIX, socket.SOCK_STREAM, f"{tmp_path}/s"):
        begin = time.monotonic()
        result = engine.containers.run(
            "busybox", ["seq", "200000"], network="none", log_driver="syslog",
            log_opts={"syslog-address": f"unix://{tmp_path}/s", "mode": "non-blocking", "max-buffer-size": "64k"},
        )  # fmt: skip
        assert result.exit_code == 0 and time.monotonic() - begin < 30


# ── what is read of options ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("text", "size"), [("10m", 10_000_000), ("1.5k", 1500), ("20KB", 20_000), ("-1", -1)])
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert options.parse_log_size(text, "max-size") == size


@pytest.mark.parametrize("text", ["{{.Name", "{{Name}}", "{{ }}", "x{{.Name}}{{.Bad}}"])
def test_tags_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="log opt tag"):
        options.expand(text, {"Name": "web"})


def test_tags() -> None:
    assert options.expand("a{{.Name}}b{{ .ID }}}}", {"Name": "web", "ID": "1"}) == "awebb1}}"
