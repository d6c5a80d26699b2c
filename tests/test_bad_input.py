"""Bad input and bad luck: one clear line on stderr, docker's exit code, nothing left. What is left behind on the host
is looked for after every test; here it is looked for in the store.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT, IMAGE_CONFIG, CommandLine, needs

import poc
from poc import errors
from poc.engine.config import DEFAULTS
from poc.errors import shorten
from poc.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

pytestmark = needs("root", "overlay")

ALONE = ("--network", "none")


def refused(cli: CommandLine, code: int, *words: str | bytes) -> str:
    """The line that a command is refused with: exactly one, no traceback, and nothing is left in the store."""
    command = [*map(os.fsencode, cli.command), *map(os.fsencode, words)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    line = done.stderr.decode(errors="surrogateescape")
    assert (done.returncode, done.stdout) == (code, b""), line
    assert line.startswith("Error: ") and line.count("\n") == 1 and len(line) < 1100, line
    assert line.rstrip("\n").isprintable() and "Traceback" not in line and "unexpected" not in line
    assert left(cli.root) == []
    return line


def left(root: str) -> list[str]:
    """What a store holds beside its images and caches."""
    found = []
    for directory in ("containers", "names", "run/leases"):
        if os.path.isdir(f"{root}/{directory}"):
            found += [f"{directory}/{name}" for name in os.listdir(f"{root}/{directory}")]
    if os.path.isdir(f"{root}/run"):
        found += [f"run/{name}" for name in os.listdir(f"{root}/run") if len(name) == 64]
    return found


HUGE = "x" * 100_000


def test_hostile_words(cli: CommandLine) -> None:
    """Newlines, quotes, dots, 100 kB, bytes that are no text: in every place where a user's word goes."""
    hostile = ("a\nb", "'", '"$(reboot)"', "../../etc", "/", "..", HUGE, "\x1b[2J", b"\xff\xfe", "é" * 300, "-", "{}")
    for word in hostile:
        assert "container name" in refused(cli, 125, "run", "--name", word, *ALONE, "busybox", "true")
        assert "no such container" in refused(cli, 1, "start", b"--", word)
        refused(cli, 125, "run", *ALONE, "--", word, "true")
        assert "volume" in refused(cli, 125, "run", b"--volume=" + os.fsencode(word), *ALONE, "busybox", "true")
        assert "network" in refused(cli, 125, "run", b"--network=" + os.fsencode(word), "busybox", "true")
    for word in (HUGE, "\U0001f600" * 25_000):
        assert "File name too long" in refused(cli, 126, "run", *ALONE, "busybox", word)
    for word in ("a\nb", b"\xff", "no such", "../../bin/nosuch", "\U0001f600" * 60, ""):
        assert "not found" in refused(cli, 127, "run", *ALONE, "busybox", word)
    for word in (HUGE, "a\nb", b"\xff", "no such", "²", "9" * 5000):
        user = b"--user=" + os.fsencode(word)
        assert "user " in refused(cli, 125, "run", user, *ALONE, "busybox", "id")
    for word in ("a\nb", HUGE, b"\xff", "/"):
        assert "hostname" in refused(cli, 125, "run", b"--hostname=" + os.fsencode(word), *ALONE, "busybox", "true")


def test_hostile_words_that_are_allowed(cli: CommandLine) -> None:
    """A label, a variable, an argument may be anything; it arrives as it was."""
    for value in ("a\nb", "'\"$(reboot)\\", "../..", HUGE, b"\xff\xfe", "\x1b[2J"):
        raw = os.fsencode(value)
        words = [b"--label", b"k=" + raw, b"--env", b"E=" + raw, b"busybox", b"sh", b"-c", b'echo "$E"']
        command = [*map(os.fsencode, cli.command), b"run", b"--name=one", b"--network=none", *words]
        assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == raw + b"\n"
        for verb in (["ps", "-a"], ["ps", "-a", "--format=json"], ["inspect", "one"]):
            assert subprocess.run([*cli.command, *verb], capture_output=True, timeout=60).returncode == 0
        assert cli("rm", "one").exit_code == 0
    wide = ["printf", "%s", *["x" * 10_000] * 100]
    assert len(cli("run", "--rm", *ALONE, "busybox", *wide).stdout) == 1_000_000


def test_more_than_the_kernel_takes(engine: poc.Engine) -> None:
    with pytest.raises(errors.CommandNotExecutable, match="Argument list too long"):
        engine.containers.run("busybox", ["echo", "x" * 200_000], network="none")
    with pytest.raises(errors.CommandNotExecutable, match="Argument list too long"):
        engine.containers.run("busybox", ["echo"], environment={"A": "x" * 200_000}, network="none")
    with pytest.raises(errors.CommandNotExecutable, match="File name too long"):
        engine.containers.run("busybox", ["/" + "x" * 5000], network="none")
    assert left(engine.paths.data) == []


def test_commands(cli: CommandLine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "text").write_text("just text")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "nointerpreter").write_text("#!/no/such/interpreter\n")
    (tmp_path / "nointerpreter").chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    volume = ("-v", f"{tmp_path}:/v")
    for command, code, reason in (
        ("nosuch", 127, "'nosuch' not found in PATH in the container"),
        ("/no/such", 127, "'/no/such' not found in the container"),
        ("/etc/passwd/x", 127, "not found"),
        ("/v/nointerpreter", 127, "not found"),
        ("", 127, "not found"),
        ("/v/plain", 126, "Permission denied"),
        ("/v/text", 126, "Exec format error"),
        ("/etc", 126, "Permission denied"),
        ("/v", 126, "Permission denied"),
    ):
        for options in ((), ("-d",), ("--init",), ("-t",), ("--rm", "-u", "user")):
            assert reason in refused(cli, code, "run", *options, *ALONE, *volume, "busybox", command)
    created = cli("create", "--name", "broken", *ALONE, "busybox", "nosuch")
    assert created.exit_code == 0
    for _ in range(2):
        started = cli("start", "broken")
        assert (started.exit_code, started.stderr.count("\n")) == (1, 1) and "'nosuch' not found" in started.stderr
    assert cli("rm", "broken").exit_code == 0


def test_images_and_names(cli: CommandLine) -> None:
    done = cli("run", "--xyzzy", "busybox")
    assert (done.exit_code, done.stderr) == (125, "poc: unknown flag: --xyzzy (see 'poc run --help')\n")
    for image in ("nosuch", "busybox:nosuch", "sha256:" + "0" * 64, "deadbeef", "busybox@sha256:" + "0" * 64):
        assert f"no such image: {image}" in refused(cli, 125, "run", *ALONE, image)
    assert cli("create", "--name", "taken", *ALONE, "busybox").exit_code == 0
    done = cli("run", "--name", "taken", *ALONE, "busybox", "true")
    assert (done.exit_code, done.stderr.count("\n")) == (125, 1) and "'taken' is in use" in done.stderr
    assert len(left(cli.root)) == 2
    assert cli("rm", "taken").exit_code == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--cpus", "0"), "--cpus"),
        (("--cpus", "64000"), "there are"),
        (("--memory", "1k"), "the minimum is 6m"),
        (("--memory", "much"), "'much' is not a size"),
        (("--cpuset-cpus", "4096"), "cpuset"),
        (("-v", "tmp"), "invalid volume specification: 'tmp'"),
        (("-v", "/a:/b:ro:x"), "invalid volume specification"),
        (("-u", "nosuch"), "unable to find user nosuch"),
        (("--network", "nosuch"), "no such network: nosuch"),
        (("--mount", "type=bind,src=/no/such/place,dst=/x"), "bind source path does not exist: /no/such/place"),
        (("-v", "/etc/hostname:/etc"), "mount bind /etc/hostname on /etc: Is a directory"),
        (("-v", "/tmp:/etc/passwd"), "mount bind /tmp on /etc/passwd: Not a directory"),
        (("-v", "/tmp:/etc/passwd/x"), "Not a directory"),
        (("-v", "/tmp:/proc"), "nothing may hide what the kernel tells in /proc"),
        (("-v", "/etc/hostname:/proc/self/status"), "nothing may hide"),
        (("--tmpfs", "/proc/self/attr"), "nothing may hide"),
        (("--tmpfs", "/etc/passwd"), "mount tmpfs on /etc/passwd: Not a directory"),
        (("--tmpfs", "/x:colour=red"), "mount tmpfs on /x with colour=red: Invalid argument"),
        (("--tmpfs", "/x:size=much"), "mount tmpfs on /x with size=much: Invalid argument"),
        (("-w", "/etc/passwd"), "working directory /etc/passwd: Not a directory"),
        (("-w", "/etc/passwd/x"), "Not a directory"),
        (("-w", "x"), "it must be an absolute path"),
        (("--env-file", "/no/such/file"), "/no/such/file: No such file or directory"),
        (("--env-file", "/etc"), "/etc: Is a directory"),
        (("--cap-add", "FLY"), "unknown capability: 'FLY'"),
        (("--storage-opt", "size=1k"), "size must be 8m or more"),
        (("--storage-opt", "size=900p"), "a disk of 1013309916158361600 bytes: File too large"),
        (("--shm-size", "x"), "--shm-size"),
        (("--device-read-bps", "/dev/null:1m"), "not a block device"),
        (("--stop-signal", "NOSUCH"), "invalid signal: NOSUCH"),
        (("--volumes-from", "nosuch"), "no such container: nosuch"),
        (("-l", "=value"), "invalid label: '=value' has no name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_options(cli: CommandLine, options: tuple[str, ...], reason: str) -> None:
    assert reason in refused(cli, 125, "run", *ALONE, *options, "busybox", "true")
    assert reason in refused(cli, 125, "run", "--rm", "-d", *ALONE, *options, "busybox", "true")


def test_nul_characters(engine: poc.Engine) -> None:
    """Only the library can be given one."""
    for options in (
        {"command": ["a\0b"]},
        {"environment": ["A=\0"]},
        {"working_dir": "/a\0b"},
        {"name": "a\0b"},
        {"hostname": "a\0b"},
        {"user": "a\0b"},
        {"volumes": ["/tmp\0:/a"]},
        {"tmpfs": ["/a\0b"]},
        {"image": "a\0b"},
    ):
        with pytest.raises(errors.PocError):
            engine.containers.run(**{"image": "busybox", "command": ["true"], "network": "none", **options})  # type: ignore[arg-type]
    assert left(engine.paths.data) == []


def test_not_root(cli: CommandLine, engine_root: str, tmp_path: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for words in (["run", "busybox", "true"], ["ps"], ["prune", "-f"], ["images"]):
        done = subprocess.run([*nobody, *cli.command, *words], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (125, "", 1)
        assert "needs root" in done.stderr
    program = "import sys, poc; poc.Engine(sys.argv[1]).containers.run('busybox', ['true'])"
    library = [*nobody, cli.command[0], "-c", program, engine_root]
    done = subprocess.run(library, capture_output=True, text=True, timeout=60, cwd=CHECKOUT)
    assert done.returncode == 1 and "PermissionError" in done.stderr.splitlines()[-1]
    assert left(engine_root) == []


# ── bad luck ──


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """A file system of 16 MB and few files."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=2000", "tmpfs", str(place)], check=True)
    yield str(place)
    subprocess.run(["umount", str(place)], check=True)


def free(place: str) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_a_full_disk(own_network: None, small_disk: str, image_tar: str) -> None:
    """Wherever it gets full, from no block free to enough of them."""
    root = f"{small_disk}/e"
    Store(root).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    engine, cli = poc.Engine(root), CommandLine(root)
    assert engine.containers.run("busybox", ["true"], remove=True, network="none").exit_code == 0
    ballast = f"{small_disk}/ballast"
    outcomes = set()
    for spare in (0, 1, 2, 3, 4, 5, 6, 8, 12, 16):
        with open(ballast, "wb") as file:
            file.truncate(0)
            os.posix_fallocate(file.fileno(), 0, free(small_disk) - spare * 4096)
        try:
            result = engine.containers.run("busybox", ["echo", "hi"], remove=True, network="none")
            outcomes.add("ran")
            assert result.exit_code == 0
        except (OSError, errors.PocError) as error:
            outcomes.add("refused")
            assert "No space left on device" in str(error) or "is the disk full?" in str(error), error
        assert left(root) == [], spare
        done = cli("run", "--rm", *ALONE, "busybox", "echo", "hi")
        assert done in (("hi\n", "", 0), ("", done.stderr, 125)) and done.stderr.count("\n") == done.exit_code // 125
        assert left(root) == [], spare
        os.unlink(ballast)
    assert outcomes == {"ran", "refused"}
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(small_disk) - 200_000)
    chatty = ["sh", "-c", r"head -c 1000000 /dev/zero | tr '\0' '\n'; dd if=/dev/zero of=/big bs=64k 2>&1; echo $?"]
    result = engine.containers.run("busybox", chatty, remove=True, network="none")
    assert result.output.count("\n") > 1_000_000 and "No space left on device" in result.output
    assert result.output.endswith("1\n") and result.exit_code == 0, "its log has a gap, it goes on"
    os.unlink(ballast)
    engine.prune(images=True)
    assert not os.path.exists(root)


def test_no_more_files(own_network: None, small_disk: str, image_tar: str) -> None:
    """The same for inodes: each file that a start makes is once the one too many."""
    root = f"{small_disk}/e"
    Store(root).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    engine = poc.Engine(root)
    engine.containers.run("busybox", ["true"], remove=True, network="none")
    ballast = f"{small_disk}/ballast"
    os.mkdir(ballast)
    number = 0
    while os.statvfs(small_disk).f_favail:
        number += 1
        os.mknod(f"{ballast}/{number}")
    outcomes: list[str] = []
    while not outcomes or outcomes[-1] == "refused":
        try:
            engine.containers.run("busybox", ["true"], remove=True, network="none")
            outcomes.append("ran")
        except (OSError, errors.PocError) as error:
            outcomes.append("refused")
            assert "No space left on device" in str(error) or "is the disk full?" in str(error), error
        assert left(root) == [], len(outcomes)
        os.unlink(f"{ballast}/{number}")
        number -= 1
    assert 5 < len(outcomes) < 60
    shutil.rmtree(ballast)
    engine.prune(images=True)


def test_it_ends_while_it_is_being_started(engine: poc.Engine, cli: CommandLine) -> None:
    """By itself at once, or killed at any moment by somebody who does not wait."""
    for network in ("none", "bridge"):
        for code in (0, 3):
            container = engine.containers.run("busybox", ["sh", "-c", f"exit {code}"], detach=True, network=network)
            assert container.wait(timeout=20) == code
            container.remove()
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            for container in engine.containers.list(all=True):
                try:
                    pid = container.attrs["State"]["Pid"]
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                except (OSError, errors.NotFound):
                    pass

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for network in ("none", "bridge") * 5:
            for detach in (False, True):
                try:
                    result = engine.containers.run(
                        "busybox", ["sleep", "1000"], remove=not detach, detach=detach, network=network
                    )
                except (OSError, errors.PocError) as error:
                    assert "Traceback" not in str(error)
                    continue
                if isinstance(result, poc.Container):
                    assert result.wait(timeout=20) == 137
                    result.remove()
                else:
                    assert result.exit_code == 137
    finally:
        stop.set()
        killer.join()
    assert left(engine.paths.data) == []


def test_removed_while_it_is_being_started(engine: poc.Engine) -> None:
    def race(_: int) -> None:
        container = engine.containers.create("busybox", ["sleep", "1000"], network="none")
        with ThreadPoolExecutor(2) as pool:
            starting, removing = pool.submit(container.start), pool.submit(container.remove, True)
            try:
                starting.result(timeout=30)
            except (OSError, errors.PocError):
                pass  # the other was first
            removing.result(timeout=30)

    for number in range(10):
        race(number)
    assert left(engine.paths.data) == []


def test_a_store_that_is_no_directory(own_network: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    places = (f"{tmp_path}/file", f"{tmp_path}/loop", f"{tmp_path}/file/below", "/proc/nosuch", "/dev/null", "x" * 5000)
    for root in places:
        done = CommandLine(root)("run", "--rm", *ALONE, "busybox", "true")
        assert (done.stdout, done.exit_code) == ("", 125) and done.stderr.count("\n") == 1
        assert CommandLine(root)("ps").stderr.count("\n") <= 1


WORDS = (
    *("", "a\nb", "'", '"$(reboot)"', "../../etc", "/", "..", HUGE, "\x1b[2J", "\udcff\udcfe", "é" * 300),
    *("-", "{}", "\0", "=", ":", ","),
)
STRICT = {"image", "healthcheck", "tty", "stdin_open", "remove", "init", "read_only", "privileged", "oom_kill_disable"}


def test_hostile_values_of_every_option(engine: poc.Engine) -> None:
    """Each is refused with a line that says so, or it makes a container that can be looked at."""
    made: set[str] = set()
    values: list[tuple[str, object]] = []
    for key in sorted(DEFAULTS.keys() - STRICT):
        for word in WORDS:
            for value in ([word], [f"a={word}"], [f"{word}:{word}"]) if DEFAULTS[key] in ([], {}) else (word,):
                wishes: dict[str, Any] = {"network": "none", key: value}
                try:
                    container = engine.containers.create("busybox", **wishes)
                except (errors.PocError, OSError) as error:
                    assert shorten(str(error), 1000).strip(), (key, word[:100])
                    continue
                made.add(key)
                values.append((key, value))
                json.dumps(container.attrs)
                assert engine.containers.get(container.id).attrs == container.attrs
                container.remove()
    assert left(engine.paths.data) == []
    assert {"labels", "environment", "annotations", "command", "entrypoint"} <= made
    assert not made & {"name", "ulimits", "sysctls", "devices", "device_cgroup_rules", "runtime"}, values


def test_hostile_words_arrive_byte_for_byte(cli: CommandLine) -> None:
    """In a container's environment and arguments, and as `inspect` shows them and its labels and annotations."""
    for value in ("a\nb\n", "'\"$(reboot)\\", "../..", HUGE, b"\xff\xfe\x80", "\x1b[2J\t\r", "=,:{}", "\u2028é"):
        raw = os.fsencode(value)
        flags = [b"--label=k=" + raw, b"--annotation=k=" + raw, b"--env=E=" + raw]
        command = [*map(os.fsencode, cli.command), b"run", b"--name=one", b"--network=none", *flags]
        words = [b"busybox", b"sh", b"-c", b'printf "%s|" "$E" "$@"', b"-", raw, b"", raw]
        done = subprocess.run([*command, *words], capture_output=True, timeout=60, check=True)
        assert done.stdout == b"|".join([raw, raw, b"", raw, b""])
        shown = subprocess.run([*cli.command, "inspect", "one"], capture_output=True, timeout=60, check=True).stdout
        (attrs,) = json.loads(shown)
        assert os.fsencode(attrs["Config"]["Labels"]["k"]) == raw
        assert os.fsencode(attrs["HostConfig"]["Annotations"]["k"]) == raw
        assert b"E=" + raw in map(os.fsencode, attrs["Config"]["Env"])
        assert [os.fsencode(word) for word in attrs["Args"][3:]] == [raw, b"", raw]
        assert cli("rm", "one").exit_code == 0


def test_hostile_files(cli: CommandLine, tmp_path: Path) -> None:
    """--env-file and --label-file with what is no text, and a --cidfile where none can be."""
    file = tmp_path / "file"
    good, bad = (b"A=\xff\xfe\nB", b"A=1\r\n# no\n\n"), (b"A B=1\n", b"=x\n", b"A=\0\n")
    for content, code in (*((content, 0) for content in good), *((content, 125) for content in bad)):
        file.write_bytes(content)
        for flag in ("--env-file", "--label-file"):
            words = ("run", "--rm", f"{flag}={file}", *ALONE, "busybox", "true")
            if code and not (flag == "--label-file" and b"\0" in content):
                refused(cli, code, *words)
            else:
                assert cli(*words).exit_code == 0
    for place in (tmp_path, tmp_path / "no" / "such", tmp_path / "a\nb" / "c", tmp_path / HUGE):
        refused(cli, 125, "run", f"--cidfile={place}", *ALONE, "busybox", "true")
    assert cli("run", "--rm", f"--cidfile={tmp_path}/id\n1", *ALONE, "busybox", "true").exit_code == 0
    assert len((tmp_path / "id\n1").read_text()) == 64
