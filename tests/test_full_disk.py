"""A full disk: one clear error, nothing half made, what was there stays whole and tells the truth."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE_CONFIG, needs
from faults import MarkedCommandLine, await_nothing, leftovers

import poc
from poc.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import CommandLine, CommandResult

pytestmark = [needs("root", "overlay", "program:busybox", "program:mkfs.ext4"), pytest.mark.timeout(120)]

SIZE = 48 << 20


@pytest.fixture(params=["ext4", "tmpfs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A root directory with little space."""
    place = tmp_path / "small"
    place.mkdir()
    if request.param == "ext4":
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", place], check=True)
    try:
        yield str(place / "root")
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def cli(root: str, own_network: None, image_tar: str) -> Iterator[CommandLine]:
    Store(root).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    cli = MarkedCommandLine(root)
    yield cli
    empty(root)
    assert cli("prune", "--force", "--images").exit_code == 0


def fill(root: str) -> None:
    """To the last block: first in large pieces, then in small ones."""
    with open(f"{root}/../filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        os.fsync(file.fileno())


def empty(root: str) -> None:
    if os.path.exists(f"{root}/../filler"):
        os.unlink(f"{root}/../filler")


def is_one_line_about_space(result: CommandResult) -> bool:
    lines = result.stderr.splitlines()
    return len(lines) == 1 and lines[0].startswith("Error: ") and "No space left on device" in lines[0]


def test_nothing_half_made(root: str, cli: CommandLine, image_tar: str) -> None:
    engine = poc.Engine(root)
    assert cli("run", "--name", "old", "busybox", "sh", "-c", "echo kept; exit 3").exit_code == 3
    layers = os.listdir(f"{root}/layers")
    fill(root)
    for words in (
        ("run", "busybox", "true"),
        ("run", "-d", "--name", "new", "busybox", "true"),
        ("run", "--rm", "--network", "none", "busybox", "true"),
        ("create", "--name", "new", "busybox"),
        ("create", "--storage-opt", "size=16m", "busybox"),
        ("start", "old"),
        ("init", "--from", "tar", image_tar),
    ):
        done = cli(*words)
        assert done.exit_code in (1, 125) and is_one_line_about_space(done), (words, done)
        assert [container.name for container in engine.containers.list(all=True)] == ["old"]
    old = engine.containers.get("old")
    assert sorted(leftovers(engine)) == sorted([engine.paths.container(old.id), engine.paths.name("old")])
    assert os.listdir(f"{root}/layers") == layers
    shown = cli("ps", "-a")
    assert (shown.exit_code, shown.stderr) == (0, "") and "old" in shown.stdout

    empty(root)
    assert cli("logs", "old").stdout == "kept\n"
    assert cli("start", "-a", "old").exit_code == 3
    assert cli("run", "--rm", "busybox", "echo", "well").stdout == "well\n"


def test_containers_that_run_meanwhile(root: str, cli: CommandLine) -> None:
    """They go on; the log has a gap, the exit status is right, and they can be removed."""
    engine = poc.Engine(root)
    script = "echo first; read line; yes | head -c 3000000; read line; echo last; exit 4"
    client = cli.start(
        *("run", "--name", "loud", "-i", "busybox", "sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdin is not None and client.stdout is not None
    assert client.stdout.readline() == b"first\n"
    silent = engine.containers.run("busybox", ["sh", "-c", "sleep 60"], detach=True, name="silent", network="none")
    fill(root)
    client.stdin.write(b"\n")
    client.stdin.flush()
    assert client.stdout.read(3000000) == b"y\n" * 1500000
    silent.stop(timeout=0)
    assert (silent.status, silent.wait()) == ("exited", 137)
    silent.remove()
    fill(root)
    client.stdin.write(b"\n")
    client.stdin.flush()
    assert client.stdout.read() == b"last\n"
    assert client.wait(timeout=20) == 4
    loud = engine.containers.get("loud")
    assert (loud.status, loud.attrs["State"]["ExitCode"], loud.attrs["State"]["Error"]) == ("exited", 4, "")

    empty(root)
    lines = [line for _, line in loud.logs()]
    assert lines[0] == b"first\n" and set(lines[1:]) <= {b"y\n", b"last\n"}
    loud.start()
    await_nothing(lambda: [] if [line for _, line in loud.logs()].count(b"first\n") == 2 else ["no line yet"])
    loud.remove(force=True)
    await_nothing(lambda: leftovers(engine))


def test_full_disk_of_its_own(cli: CommandLine) -> None:
    """--storage-opt: the program is told, the container and the others are well."""
    command = ("sh", "-c", "dd if=/dev/zero of=/file bs=1M count=40 2>&1; rm /file; echo space >/again; cat /again")
    done = cli("run", "--name", "small", "--storage-opt", "size=16m", "busybox", *command)
    assert "No space left on device" in done.stdout and done.stdout.endswith("space\n")
    assert cli("start", "-a", "small").stdout.endswith("space\n")
    assert cli("rm", "small").exit_code == 0


def test_copies_and_commits(root: str, cli: CommandLine, image_tar: str, tmp_path: Path) -> None:
    """Into a container that runs and one that does not, and into the store: told, and nothing half made but a file."""
    engine = poc.Engine(root)
    assert cli("create", "--name", "still", "busybox", "true").exit_code == 0
    assert cli("run", "-d", "--name", "runs", "--network", "none", "busybox", "sleep", "600").exit_code == 0
    (tmp_path / "file").write_bytes(os.urandom(8 << 20))
    assert cli("cp", str(tmp_path / "file"), "runs:/first").exit_code == 0
    layers, images = os.listdir(f"{root}/layers"), [image.id for image in engine.images.list()]
    fill(root)
    commands: tuple[tuple[str, ...], ...] = (
        ("cp", str(tmp_path / "file"), "still:/big"),
        ("cp", str(tmp_path / "file"), "runs:/big"),
        ("cp", "runs:/first", f"{root}/../copy"),
        ("commit", "runs", "made"),
        ("import", image_tar, "made"),
        ("export", "-o", f"{root}/../exported", "runs"),
    )
    for words in commands:
        done = cli(*words)
        assert done.exit_code in (1, 125) and is_one_line_about_space(done), (words, done)
    assert os.listdir(f"{root}/layers") == layers
    assert [image.id for image in engine.images.list()] == images
    assert not os.path.exists(f"{root}/../exported")
    assert [container.status for container in engine.containers.list(all=True)] == ["running", "created"]
    assert cli("diff", "runs").stdout.startswith("A /")
    assert cli("cp", "still:/etc/passwd", f"{tmp_path}/passwd").exit_code == 0
    assert len(b"".join(engine.containers.get("runs").export())) > 8 << 20

    empty(root)
    if os.path.exists(f"{root}/../copy"):
        os.unlink(f"{root}/../copy")
    commands = (("exec", "runs", "rm", "-f", "/big"), ("commit", "runs", "made"), ("start", "still"))
    assert [cli(*words).exit_code for words in commands] == [0, 0, 0]
    assert cli("run", "--rm", "--network", "none", "made", "ls", "/first").stdout == "/first\n"
    assert cli("rm", "-f", "runs", "still").exit_code == 0
    engine.images.remove("made")
    await_nothing(lambda: leftovers(engine))
