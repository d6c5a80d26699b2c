"""`Container.export` and `poc export`: the whole root file system as a tar archive, and `poc import` of one."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, needs, shell

if TYPE_CHECKING:
    from pathlib import Path

    import poc
    from poc.engine.container import Container

pytestmark = needs("root", "overlay", "program:busybox")

SCRIPT = (
    "mkdir /d; echo x >/d/file; ln /d/file /d/hard; ln -s /d /link; mkfifo /d/pipe; mknod /d/node c 1 3; "
    "rm /etc/group; "
    "chmod 4711 /d/file; chown 7:8 /d; truncate -s 3145728 /d/sparse; echo mounted >/tmpfs/file; echo ready; read line"
)


@pytest.fixture(params=["running", "exited"])
def container(request: pytest.FixtureRequest, engine: poc.Engine) -> Container:
    options = {"network": "none", "tmpfs": ["/tmpfs"], "stdin_open": True, "name": "source"}
    container: Container = engine.containers.run("busybox", ["sh", "-c", SCRIPT], detach=True, **options)  # type: ignore[arg-type]
    assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
    if request.param == "exited":
        container.stop(timeout=0)
    return container


def test_what_is_in_it(container: Container) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as archive:
        found = {member.name: member for member in archive}
    assert {"bin/busybox", "etc/passwd", "proc", "sys", "dev", "tmpfs"} <= found.keys()
    assert not [name for name in found if name.startswith(("proc/", "sys/", "tmpfs/", "/", "."))]
    assert "etc/group" not in found
    assert found["d/hard"].islnk() and found["d/hard"].linkname == "d/file"
    assert (found["d/file"].mode, found["d"].uid, found["d"].gid) == (0o4711, 7, 8)
    assert found["link"].linkname == "/d" and found["d/pipe"].isfifo()
    assert (found["d/node"].devmajor, found["d/node"].devminor) == (1, 3)
    assert found["d/sparse"].size == 3 << 20


def test_command(container: Container, cli: CommandLine, tmp_path: Path) -> None:
    """To stdout and to a file the same, which GNU tar understands."""
    out = subprocess.run([*cli.command, "export", "source"], capture_output=True, timeout=60, check=True)
    assert out.stderr == b""
    assert cli("export", "-o", str(tmp_path / "file"), "source") == ("", "", 0)
    listed = subprocess.run(["tar", "-tf", tmp_path / "file"], capture_output=True, check=True)
    assert listed.stderr == b"" and b"d/hard\n" in listed.stdout
    assert out.stdout == (tmp_path / "file").read_bytes()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_refused(container: Container, cli: CommandLine, tmp_path: Path) -> None:
    for words, text in (
        (("nobody",), "no such container: nobody"),
        (("-o", "/none/x", "source"), "invalid output path: directory '/none' does not exist"),
    ):
        done = cli("export", *words)
        assert (done.stdout, done.exit_code) == ("", 1) and text in done.stderr
    full = cli("export", "-o", "/dev/full", "source")
    assert full.exit_code == 125 and full.stderr.count("\n") == 1 and "No space left" in full.stderr


def test_there_and_back(container: Container, cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    """What was exported is imported as an image, with what the changes say."""
    assert cli("export", "-o", str(tmp_path / "file"), "source").exit_code == 0
    changes = ("-c", "CMD cat /d/file; stat -c %h /d/hard; echo $WHO", "-c", "ENV WHO=me", "-m", "from a file")
    done = cli("import", *changes, str(tmp_path / "file"), "imported:1")
    assert done.stderr == "" and done.exit_code == 0
    image = engine.images.get("imported:1")
    assert done.stdout == f"{image.id}\n"
    assert cli("run", "--rm", "--network", "none", "imported:1").stdout == "x\n2\nme\n"


def test_import_from_a_pipe(container: Container, cli: CommandLine, engine: poc.Engine) -> None:
    """Without a name, and without anything said of how to run it."""
    with subprocess.Popen([*cli.command, "export", "source"], stdout=subprocess.PIPE) as export:
        with subprocess.Popen([*cli.command, "import", "-"], stdin=export.stdout, stdout=subprocess.PIPE) as command:
            id = command.communicate(timeout=60)[0].decode().strip()
        assert command.returncode == 0
    assert export.returncode == 0
    assert engine.images.get(id).references == []
    refused = cli("run", "--network", "none", id)
    assert refused.exit_code == 125 and "no command specified" in refused.stderr
    assert shell(engine, "cat /d/file", image=id) == "x\n"


def test_bad_imports(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"x" * 5000)
    before = engine.images.list()
    for words, code in (
        (("/none",), 125),
        ((str(tmp_path / "garbage"), "bad"), 1),
        (("-c", "RUN x", str(tmp_path / "garbage")), 1),
        ((str(tmp_path / "garbage"), "Not:A:Name"), 1),
        (("http://example.org/x.tar",), 1),
    ):
        done = cli("import", *words)
        assert (done.stdout, done.exit_code, done.stderr.count("\n")) == ("", code, 1), done
    assert [image.id for image in engine.images.list()] == [image.id for image in before]
