"""Mount options of config.json by their effect: what mountinfo(5) says, and what the container can do and sees."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs
from test_runtime_cli import Bundle, Runtime, bundle, runtime  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(90)]

OWNER = "stat -c '%n %u %g' /mnt/*; touch /mnt/made"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "below", str(tree / "below")], check=True)
    yield tree
    subprocess.run(["umount", str(tree / "below")], check=True)


def _run(runtime: Runtime, bundle: Bundle, script: str, *options: str, **entry: Any) -> list[str]:  # noqa: F811
    mount = {"destination": "/mnt", "type": "bind", "options": list(options), **entry}
    bundle.config["mounts"] = [*bundle.config["mounts"][:3], mount]
    bundle.write(script)
    done = runtime("run", "--bundle", bundle.directory, "mounts")
    assert done.exit_code == 0, done
    return done.stdout.splitlines()


def _mapping(container: int, host: int, size: int) -> list[dict[str, int]]:
    return [{"containerID": container, "hostID": host, "size": size}]


def test_mapped_ids(runtime: Runtime, bundle: Bundle, tree: Path) -> None:  # noqa: F811
    """What lies on the disk stays as it is; who sees it, and writes, does so by the mount's mapping."""
    for name, uid in (("root", 0), ("user", 7), ("other", 5000)):
        (tree / name).touch()
        os.chown(tree / name, uid, uid)
    uids, gids = _mapping(0, 1000, 100), _mapping(0, 2000, 100)
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 2000}
    for options in ((), ("idmap",), ("rbind", "idmap")):
        (tree / "made").unlink(missing_ok=True)
        lines = _run(runtime, bundle, OWNER, "bind", *options, source=str(tree), uidMappings=uids, gidMappings=gids)
        assert {"/mnt/root 1000 2000", "/mnt/user 1007 2007", "/mnt/other 65534 65534"} <= set(lines)
        made = (tree / "made").stat()
        assert (made.st_uid, made.st_gid) == (0, 0)
        assert ("/mnt/below 0 0" in lines) == ("rbind" in options), "only ridmap goes further"
    lines = _run(runtime, bundle, OWNER, "rbind", "ridmap", source=str(tree), uidMappings=uids, gidMappings=gids)
    assert "/mnt/below 1000 2000" in lines


def test_ids_mapped_as_the_container_s(runtime: Runtime, bundle: Bundle, tree: Path) -> None:  # noqa: F811
    """Without mappings of its own: who is root inside owns what root owns outside."""
    (tree / "root").touch()
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"].update(uidMappings=_mapping(0, 300000, 2000), gidMappings=_mapping(0, 300000, 2000))
    lines = _run(runtime, bundle, OWNER, "bind", "idmap", source=str(tree))
    assert "/mnt/root 0 0" in lines
    assert (tree / "made").stat().st_uid == 0
    assert "/mnt/root 65534 65534" in _run(runtime, bundle, "stat -c '%n %u %g' /mnt/*", "bind", source=str(tree))
    # The parent has to make it, so outside the child's private propagation: nothing may come out all the same.
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")
    }
    inside = "mount -t tmpfs inner /mnt/below && touch /mnt/below/inner"
    _run(runtime, bundle, inside, "rbind", "ridmap", source=str(tree))
    assert os.listdir(tree / "below") == []


def test_ids_that_can_t_be_mapped(runtime: Runtime, bundle: Bundle, tree: Path) -> None:  # noqa: F811
    mapped = {"uidMappings": _mapping(0, 1, 1), "gidMappings": _mapping(0, 1, 1)}
    for entry, reason in (
        ({"source": "/proc/fs", **mapped}, "map ids of /proc/fs on /mnt: this file system does not know that"),
        ({"source": str(tree), "uidMappings": _mapping(0, 1, 1)}, "/mounts/3: of uidMappings and gidMappings"),
        ({"source": str(tree), "options": ["bind", "idmap"]}, "/mounts/3/uidMappings: missing"),
        ({"type": "tmpfs", "options": [], **mapped}, "mount /mnt: ids are mapped in bind mounts, not in tmpfs"),
    ):
        mount: dict[str, Any] = {"destination": "/mnt", "type": "bind", "options": ["bind"], **entry}
        bundle.config["mounts"] = [*bundle.config["mounts"][:3], mount]
        bundle.write("true")
        done = runtime("run", "--bundle", bundle.directory, "mounts")
        assert done.exit_code == 1 and reason in done.stderr and done.stderr.count("\n") == 1, done


LOOK = "grep -E ' /mnt(/below)? ' /proc/self/mountinfo"
# The options of a bind mount, what mountinfo(5) has then of it and of what is mounted below it, and what it has not.
BOUND = (
    ("rbind,defaults,loud", "rw", "rw", "nosuid"),
    ("rbind,ro", "ro", "rw", ""),
    ("rbind,rro", "ro", "ro", ""),
    ("rbind,rro,rrw", "rw", "rw", "ro"),
    ("rbind,ro,rw", "rw", "rw", "ro"),
    ("rbind,nosuid,nodev,noexec,nosymfollow", "nosuid nodev noexec nosymfollow", "", ""),
    ("rbind,rnosuid,rnodev,rnoexec,rnosymfollow", *["nosuid nodev noexec nosymfollow"] * 2, ""),
    ("rbind,rnosuid,rsuid,rnodev,rdev,rnoexec,rexec", "rw", "rw", "nosuid nodev noexec"),
    ("rbind,rnosymfollow,rsymfollow,suid,dev,exec", "rw", "rw", "nosymfollow"),
    ("rbind,noatime,nodiratime", "noatime nodiratime", "relatime", "relatime"),
    ("rbind,rnoatime,rnodiratime", *["noatime nodiratime"] * 2, ""),
    ("rbind,strictatime", "rw", "relatime", "relatime noatime"),
    ("rbind,rstrictatime", "rw", "rw", "relatime noatime"),
    ("rbind,rnoatime,rrelatime", "relatime", "relatime", "noatime"),
)  # fmt: skip


@pytest.mark.parametrize(("options", "top", "below", "without"), BOUND, ids=[bound[0] for bound in BOUND])
def test_options_of_bind_mounts(
    runtime: Runtime,  # noqa: F811
    bundle: Bundle,  # noqa: F811
    tree: Path,
    options: str,
    top: str,
    below: str,
    without: str,
) -> None:
    """Those that begin with r are for all below, too; of two that contradict each other the last counts."""
    lines = _run(runtime, bundle, LOOK, *options.split(","), source=str(tree), type="none")
    seen = {line.split()[4]: set(line.split()[5].split(",")) for line in lines}
    assert set(top.split()) <= seen["/mnt"] and not set(without.split()) & seen["/mnt"], seen
    assert set(below.split()) <= seen["/mnt/below"], seen


def test_options_of_file_systems(runtime: Runtime, bundle: Bundle, tree: Path) -> None:  # noqa: F811
    """Flags of the mount, flags of the file system, and what only tmpfs knows."""
    options = "sync,dirsync,lazytime,silent,ro,nodev,size=64k,uid=7,mode=751"
    (line,) = _run(runtime, bundle, LOOK, *options.split(","), type="tmpfs", source="tmpfs")
    left, _, right = line.partition(" - ")
    assert {"ro", "nodev"} <= set(left.split()[5].split(","))
    assert {"ro", "sync", "dirsync", "lazytime", "size=64k", "uid=7", "mode=751"} <= set(right.split()[2].split(","))
    script = f"{LOOK} | cut -d' ' -f7; touch /mnt/x && echo made"
    for kind, shown in (("private", "-"), ("rslave", "-"), ("unbindable", "unbindable"), ("rshared", "shared")):
        first, made = _run(runtime, bundle, script, kind, type="tmpfs", source="tmpfs")
        assert first.startswith(shown) and made == "made", kind
