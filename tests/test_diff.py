"""`Container.diff` and `poc diff`: what a container has changed of its image's files, in docker's letters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CommandLine, needs

from poc.errors import ContainerNotFound

if TYPE_CHECKING:
    import poc
    from poc.engine.container import Container

pytestmark = needs("root", "overlay", "program:busybox")

ADDED = [("/new", 1), ("/new/sub", 1), ("/new/sub/file", 1)]


def ran(engine: poc.Engine, script: str, **options: Any) -> Container:
    container: Container = engine.containers.create("busybox", ["sh", "-ec", script], network="none", **options)
    container.start()
    assert container.wait() == 0, list(container.logs())
    return container


def changed(container: Container) -> list[tuple[str, int]]:
    return [(change["Path"], change["Kind"]) for change in container.diff()]


def test_nothing(engine: poc.Engine) -> None:
    """What poc mounts on is not the container's doing, nor is looking at files."""
    assert changed(engine.containers.create("busybox", ["true"])) == []
    assert changed(ran(engine, "cat /etc/passwd /etc/hosts; ls -lR / >/dev/null")) == []


@pytest.mark.parametrize("storage", [{}, {"size": "16m"}], ids=["upper", "disk"])
def test_kinds(engine: poc.Engine, storage: dict[str, str]) -> None:
    script = (
        "mkdir -p /new/sub; echo x >/new/sub/file; echo y >>/etc/passwd; rm /etc/group; rmdir /mnt; "
        "touch /tmp/gone; rm /tmp/gone; chmod 700 /home/user; rm /home/user/x 2>/dev/null || mkfifo /root/pipe"
    )
    container = ran(engine, script, storage_opt=storage)
    assert changed(container) == [
        ("/etc", 0),
        ("/etc/group", 2),
        ("/etc/passwd", 0),
        ("/home", 0),
        ("/home/user", 0),
        ("/mnt", 2),
        *ADDED,
        ("/root", 0),
        ("/root/pipe", 1),
    ]


@pytest.mark.parametrize("storage", [{}, {"size": "16m"}], ids=["upper", "disk"])
def test_while_it_runs(engine: poc.Engine, storage: dict[str, str]) -> None:
    script = "mkdir -p /new/sub; echo x >/new/sub/file; echo ready; read line; rm -r /new; echo done; sleep 60"
    options: dict[str, Any] = {"network": "none", "storage_opt": storage, "detach": True, "stdin_open": True}
    container = engine.containers.run("busybox", ["sh", "-c", script], **options)
    assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
    assert changed(container) == ADDED
    container.pause()
    assert changed(container) == ADDED


def test_directory_made_anew(engine: poc.Engine) -> None:
    """It hides all that was in it, and what has the same name again is changed."""
    script = "rm -r /home; mkdir -p /home/other; echo x >/home/file; rm -r /var; echo y >/var"
    assert changed(ran(engine, script)) == [
        ("/home", 0),
        ("/home/file", 1),
        ("/home/other", 1),
        ("/home/user", 2),
        ("/var", 0),
    ]


def test_renamed(engine: poc.Engine) -> None:
    """No file is a mere reference to one of the image's, whatever overlayfs could do."""
    container = ran(engine, "mv /etc/passwd /etc/p; mv /home /house; ln /etc/group /etc/g")
    found = changed(container)
    assert {("/etc/passwd", 2), ("/etc/p", 1), ("/home", 2), ("/house", 1), ("/house/user", 1), ("/etc/g", 1)} <= {
        *found
    }
    upper = container.bundle.overlay()["upper"]
    for name in ("etc/p", "house"):
        assert not [key for key in os.listxattr(f"{upper}/{name}") if key.endswith(("redirect", "metacopy"))]


def test_mount_point_that_was_used(engine: poc.Engine) -> None:
    """A directory for a mount is shown when the user has asked for it."""
    assert changed(ran(engine, "echo x >/scratch/file", tmpfs=["/scratch"])) == [("/scratch", 1)]


def test_deep(engine: poc.Engine) -> None:
    script = "i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done"
    found = changed(ran(engine, script, working_dir="/tmp"))
    assert len(found) == 1501 and found[-1] == ("/tmp" + "/d" * 1500, 1)


def test_command(cli: CommandLine, engine: poc.Engine) -> None:
    container = ran(engine, "echo x >/a; echo y >/etc/b; rm /etc/group")
    assert cli("diff", container.name) == ("A /a\nC /etc\nA /etc/b\nD /etc/group\n", "", 0)
    missing = cli("diff", "nobody")
    assert (missing.stdout, missing.exit_code) == ("", 1) and "no such container: nobody" in missing.stderr
    container.remove()
    with pytest.raises(ContainerNotFound):
        container.diff()
