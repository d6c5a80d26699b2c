"""`poc cp` and the archives of `Container`: docker's rules, both ways, whether a container runs or not; and who can't
get out of it, or be led astray.
"""

from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import tarfile
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import leaks
import pytest
from conftest import CommandLine, needs, running

from poc.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import poc
    from poc.engine.container import Container

pytestmark = needs("root", "overlay", "program:busybox")

LARGE = 400 << 20
SLEEP = ["sleep", "600"]
STATES = ("created", "running", "paused", "exited")


def make(engine: poc.Engine, state: str = "running", **options: Any) -> Container:
    command = ["true"] if state == "exited" else SLEEP
    container: Container = engine.containers.create("busybox", command, name="cc", network="none", **options)
    if state != "created":
        container.start()
    if state == "exited":
        container.wait()
    if state == "paused":
        container.pause()
    assert container.status == state
    return container


@pytest.fixture(params=STATES)
def container(request: pytest.FixtureRequest, engine: poc.Engine) -> Container:
    return make(engine, request.param)


def members(container: Container, path: str, **options: Any) -> dict[str, tarfile.TarInfo]:
    chunks, _ = container.get_archive(path, **options)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        return {member.name: member for member in archive}


def content(container: Container, path: str) -> bytes:
    chunks, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        assert file is not None
        return file.read()


def tar_of(*infos: tuple[str, bytes, dict[str, Any]]) -> bytes:
    """An archive of members: name, content, attributes of the TarInfo."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data, attributes in infos:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """f, d/e/g, and links to the first two; owned by somebody."""
    place = tmp_path / "h"
    (place / "d" / "e").mkdir(parents=True)
    (place / "f").write_text("file\n")
    (place / "f").chmod(0o4755)
    (place / "d" / "e" / "g").write_text("deep\n")
    (place / "lf").symlink_to("f")
    (place / "ld").symlink_to("d")
    subprocess.run(["chown", "-hR", "1234:1235", place], check=True)
    (place / "f").chmod(0o4755)
    return place


# ── in every state ───────────────────────────────────────────────────────────────────────────────────────


def test_there_and_back(container: Container, tree: Path, tmp_path: Path) -> None:
    """Content, owner, mode, times to the nanosecond, links and extended attributes."""
    os.setxattr(tree / "f", "user.note", b"\x00\xff")
    os.link(tree / "f", tree / "d" / "hard")
    os.mkfifo(tree / "d" / "pipe")
    os.mknod(tree / "d" / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    container.copy_to(str(tree), "/tmp/new")
    container.copy_from("/tmp/new", str(tmp_path / "back"), archive=True)
    assert listing(tmp_path / "back") == listing(tree)
    assert os.getxattr(tmp_path / "back" / "f", "user.note") == b"\x00\xff"
    assert os.path.samefile(tmp_path / "back" / "f", tmp_path / "back" / "d" / "hard")
    assert container.status in STATES


def listing(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        entry = path.lstat()
        what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else entry.st_rdev
        found[str(path.relative_to(top))] = (
            *(entry.st_mode, entry.st_uid, entry.st_gid, what),
            0 if path.is_symlink() else entry.st_mtime_ns,
        )
    return found


def test_what_is_seen(engine: poc.Engine, container: Container, tree: Path) -> None:
    """A file that was copied in is there for the program, and one that it wrote is copied out."""
    container.copy_to(str(tree / "f"), "/root/f")
    if container.status == "paused":
        container.unpause()
    if container.status != "running":
        assert content(container, "/root/f") == b"file\n"
        return
    result = container.exec_run(["sh", "-c", "cat /root/f; stat -c '%u:%g %a' /root/f; echo made >/root/made"])
    assert result is not None and result.output == "file\n1234:1235 4755\n"
    assert content(container, "/root/made") == b"made\n"


@pytest.mark.parametrize("state", ["created", "running"])
def test_volumes(engine: poc.Engine, tmp_path: Path, state: str) -> None:
    """What is mounted in the container is copied from and to, and read-only stays that."""
    volume, fixed, single = tmp_path / "v", tmp_path / "fixed", tmp_path / "single"
    volume.mkdir()
    fixed.mkdir()
    (volume / "old").write_text("old")
    single.write_text("before, and longer")
    container = make(engine, state, volumes=[f"{volume}:/v", f"{fixed}:/v/fixed:ro", f"{single}:/etc/single"])
    assert content(container, "/v/old") == b"old"
    container.put_archive("/v", tar_of(("new", b"new", {})))
    container.put_archive("/etc", tar_of(("single", b"after", {})))
    assert (volume / "new").read_text() == "new" and single.read_text() == "after"
    with pytest.raises(InvalidArgument, match="mounted volume is marked read-only"):
        container.put_archive("/v/fixed", tar_of(("new", b"new", {})))
    assert list(fixed.iterdir()) == []


@pytest.mark.parametrize("state", ["created", "running"])
def test_named_volumes(engine: poc.Engine, cli: CommandLine, state: str) -> None:
    """A whole one, and a directory of one."""
    cli("run", "--rm", "--network", "none", "-v", "vol:/v", "busybox", "sh", "-c", "mkdir /v/sub; echo x >/v/sub/x")
    mounts = ["type=volume,source=vol,target=/v", "type=volume,source=vol,target=/s,volume-subpath=sub"]
    words = [word for mount in mounts for word in ("--mount", mount)]
    made = cli("create", "--name", "cc", "--network", "none", *words, "busybox", *SLEEP)
    assert made.exit_code == 0, made
    container = engine.containers.get("cc")
    if state == "running":
        container.start()
    container.put_archive("/s", tar_of(("y", b"y", {})))
    assert (content(container, "/s/x"), content(container, "/v/sub/y")) == (b"x\n", b"y")
    container.remove(force=True)
    assert cli("volume", "rm", "vol").exit_code == 0


def test_with_the_network_of_another(engine: poc.Engine, cli: CommandLine) -> None:
    """Which need not run: its /etc/hosts is no file of this container's."""
    assert cli("create", "--name", "other", "--network", "none", "busybox", "true").exit_code == 0
    made = cli("create", "--name", "cc", "--network", "container:other", "busybox", "true")
    assert made.exit_code == 0, made
    assert content(engine.containers.get("cc"), "/etc/group").startswith(b"root:")


@pytest.mark.parametrize("state", ["created", "running"])
def test_read_only_root(engine: poc.Engine, state: str) -> None:
    container = make(engine, state, read_only=True)
    with pytest.raises(InvalidArgument, match="container rootfs is marked read-only"):
        container.put_archive("/root", tar_of(("new", b"new", {})))
    assert "passwd" in content(container, "/etc/passwd").decode() or content(container, "/etc/passwd")


@pytest.mark.parametrize("state", ["created", "running", "exited"])
def test_disk_of_its_own(engine: poc.Engine, state: str) -> None:
    container = make(engine, state, storage_opt={"size": "16m"})
    container.put_archive("/root", tar_of(("new", b"new", {})))
    assert content(container, "/root/new") == b"new"
    with pytest.raises(OSError, match="big: No space left on device"):
        container.put_archive("/root", tar_of(("big", os.urandom(20 << 20), {})))
    assert content(container, "/root/new") == b"new"


def test_own_files(engine: poc.Engine) -> None:
    """/etc/hosts is mounted on; it is read and written as the container sees it."""
    container = make(engine)
    container.put_archive("/etc", tar_of(("hosts", b"127.0.0.1 me\n", {})))
    assert content(container, "/etc/hosts") == b"127.0.0.1 me\n"
    result = container.exec_run(["sh", "-c", "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/self/mountinfo"])
    assert result is not None and result.output == "127.0.0.1 me\n1\n"


# ── docker's rules ───────────────────────────────────────────────────────────────────────────────────────

# source, destination in the container, what is there afterwards (file or directory listing); or the refusal.
# Each was tried with docker 20.10.
INTO: tuple[tuple[str, str, str], ...] = (
    ("f", "/tmp/new", "/tmp/new"),
    ("f", "/tmp", "/tmp/f"),
    ("f", "/tmp/", "/tmp/f"),
    ("f", "relative", "/relative"),
    ("f", "/tmp/../etc", "/etc/f"),
    ("f", "/etc/group", "/etc/group"),
    ("d", "/tmp/new", "/tmp/new /tmp/new/e /tmp/new/e/g"),
    ("d", "/tmp/new/", "/tmp/new /tmp/new/e /tmp/new/e/g"),
    ("d/", "/tmp", "/tmp/d /tmp/d/e /tmp/d/e/g"),
    ("d/.", "/tmp/new", "/tmp/new /tmp/new/e /tmp/new/e/g"),
    ("d/.", "/home/user", "/home/user /home/user/e /home/user/e/g"),
    ("d", "/home/user", "/home/user/d /home/user/d/e /home/user/d/e/g"),
    ("lf", "/tmp/new", "/tmp/new@f"),
    ("ld", "/tmp", "/tmp/ld@d"),
    ("ld/", "/tmp", "/tmp/ld /tmp/ld/e /tmp/ld/e/g"),
    ("-L lf", "/tmp", "/tmp/lf"),
    ("-L ld", "/tmp/new", "/tmp/new /tmp/new/e /tmp/new/e/g"),
    ("-L ld", "/tmp", "/tmp/ld /tmp/ld/e /tmp/ld/e/g"),
    ("f", "/link", "/etc/f"),
    ("f", "/dangling", "/nowhere"),
    ("f", "/chain", "/etc/group"),
    ("f", "/tmp/new/", "!no such directory"),
    ("f", "/tmp/no/such", "!Could not find the file /tmp/no in container cc"),
    ("d", "/etc/passwd", "!cannot copy directory"),
    ("d", "/etc/passwd/", '!cannot overwrite non-directory "passwd" with directory'),
    ("f", "/etc/passwd/", "!no such directory"),
    ("f", "/etc/passwd/x", "!must be a directory"),
    ("d/e", "/clash", '!cannot overwrite non-directory "e" with directory'),
    ("f", "/clash", '!cannot overwrite directory "f" with non-directory'),
    ("f", "/dev/null", "!must be a directory or a regular file"),
    ("f", "/loop", "!too many levels of symbolic links"),
    ("none", "/tmp", "!none: No such file or directory"),
    ("f", "", "!no path in a container"),
)


@pytest.fixture
def prepared(engine: poc.Engine, cli: CommandLine) -> Container:
    container = make(engine)
    script = (
        "ln -s /etc /link; ln -s nowhere /dangling; ln -s /link/../link/group /hop; ln -s hop /chain; "
        "ln -s loop /loop; mkdir -p /clash/f; echo x >/clash/e"
    )
    assert container.exec_run(["sh", "-c", script]).exit_code == 0  # type: ignore[union-attr]
    return container


def test_rules_into(prepared: Container, cli: CommandLine, tree: Path) -> None:
    wrong: list[object] = []
    for source, destination, expected in INTO:
        *flags, name = source.split()
        done = cli("cp", *flags, f"{tree}/{name}", f"cc:{destination}")
        if expected.startswith("!"):
            if done.exit_code not in (1, 125) or expected[1:] not in done.stderr or done.stderr.count("\n") != 1:
                wrong.append((source, destination, done))
            continue
        paths, _, target = expected.partition("@")
        top = paths.split()[0]
        found = prepared.exec_run(["sh", "-c", f"find {top} | sort; [ ! -L {top} ] || readlink {top}"])
        assert found is not None
        if done != ("", "", 0) or found.output.split() != [*paths.split(), *([target] if target else [])]:
            wrong.append((source, destination, (done, found.output)))
        prepared.exec_run(["rm", "-rf", "/tmp/new", "/tmp/f", "/tmp/d", "/tmp/ld", "/tmp/lf", "/etc/f", "/home/user/e"])
    assert wrong == []


OUT: tuple[tuple[str, str, str], ...] = (
    ("/etc/passwd", "new", "new"),
    ("/etc/passwd", "d", "d/passwd"),
    ("/etc/passwd", "d/", "d/passwd"),
    ("/etc/passwd", "f", "f"),
    ("/a", "new", "new new/b new/b/c"),
    ("/a/", "new/", "new new/b new/b/c"),
    ("/a/.", "new", "new new/b new/b/c"),
    ("/a", "d/e", "d/e/a d/e/a/b d/e/a/b/c"),
    ("/a/.", "d/e", "d/e d/e/b d/e/b/c d/e/g"),
    ("/link", "new", "new@/a"),
    ("/link/", "d", "d/link d/link/b d/link/b/c"),
    ("-L /link", "d", "d/link d/link/b d/link/b/c"),
    ("-L /link", "new", "new new/b new/b/c"),
    ("/etc/passwd", "ld", "d/passwd"),
    ("/etc/passwd", "lf", "f"),
    ("/none", "new", "!Could not find the file /none in container cc"),
    ("/etc/passwd/", "new", "!Could not find the file /etc/passwd/ in container cc"),
    ("/etc/passwd", "no/dir", "!invalid output path: directory"),
    ("/etc/passwd", "new/", "!no such directory"),
    ("/a", "f", "!cannot copy directory"),
    ("/a/b/c", "clash", '!cannot overwrite directory "c" with non-directory'),
    ("/etc/passwd", "/dev/null", "!must be a directory or a regular file"),
)


def test_rules_out(engine: poc.Engine, cli: CommandLine, tree: Path) -> None:
    container = make(engine)
    container.exec_run(["sh", "-c", "mkdir -p /a/b; echo c >/a/b/c; ln -s /a /link"])
    wrong: list[object] = []
    for source, destination, expected in OUT:
        subprocess.run(["cp", "-a", tree, f"{tree}.copy"], check=True)
        os.makedirs(f"{tree}.copy/clash/c")
        *flags, path = source.split()
        place = destination if destination.startswith("/") else f"{tree}.copy/{destination}"
        done = cli("cp", *flags, f"cc:{path}", place)
        if expected.startswith("!"):
            if done.exit_code != 1 or expected[1:] not in done.stderr or done.stderr.count("\n") != 1:
                wrong.append((source, destination, done))
        else:
            paths, _, target = expected.partition("@")
            top = f"{tree}.copy/{paths.split()[0]}"
            found = subprocess.run(["find", top, "-printf", "%p %l\n"], capture_output=True, text=True, check=True)
            names = sorted(found.stdout.replace(f"{tree}.copy/", "").split())
            if done != ("", "", 0) or names != sorted([*paths.split(), *([target] if target else [])]):
                wrong.append((source, destination, (done, names)))
        subprocess.run(["rm", "-r", f"{tree}.copy"], check=True)
    assert wrong == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("cc:/a", "cc:/b"), "copying between containers is not supported"),
        (("f", "./c:g"), "must specify at least one container source"),
        (("f", "nobody:/"), "no such container: nobody"),
        (("f",), "requires 2 arguments"),
    ],
)
def test_command_lines_that_are_refused(
    cli: CommandLine, engine: poc.Engine, words: tuple[str, ...], text: str
) -> None:
    make(engine, "created")
    done = cli("cp", *words)
    assert done.exit_code == 1 and text in done.stderr and done.stdout == ""


def test_colons(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """A path of this host begins with / or . where it holds one; one in a container may hold any."""
    make(engine, "created")
    (tmp_path / "x:y").write_text("colon")
    assert cli("cp", str(tmp_path / "x:y"), "cc:/a:b") == ("", "", 0)
    os.chdir(tmp_path)
    try:
        assert cli("cp", "cc:/a:b", "./new:name") == ("", "", 0)
    finally:
        os.chdir("/")
    assert (tmp_path / "new:name").read_text() == "colon"


def test_owners(engine: poc.Engine, cli: CommandLine, tree: Path, tmp_path: Path) -> None:
    """Into a container the source's, or with -a the container's user's; out of it the caller's, or with -a as there."""
    container = make(engine, user="user")
    for flags, name in (((), "plain"), (("-a",), "archive")):
        assert cli("cp", *flags, str(tree / "f"), f"cc:/{name}").exit_code == 0
        assert cli("cp", *flags, "cc:/plain", str(tmp_path / name)).exit_code == 0
    owners = {name: member for name in ("plain", "archive") for member in members(container, f"/{name}").values()}
    assert [(owner.uid, owner.gid, owner.mode) for owner in owners.values()] == [
        (1234, 1235, 0o4755),
        (1000, 1000, 0o4755),
    ]
    found = [(tmp_path / name).stat() for name in ("plain", "archive")]
    assert [(entry.st_uid, entry.st_gid, stat.S_IMODE(entry.st_mode)) for entry in found] == [
        (0, 0, 0o755),
        (1234, 1235, 0o4755),
    ]


def test_devices_stay_inside(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """Out of a container, only -a makes one."""
    container = make(engine)
    container.exec_run(["sh", "-c", "mkdir /d; mknod -m 666 /d/disk b 8 0; echo x >/d/file"])
    done = cli("cp", "cc:/d", str(tmp_path / "plain"))
    assert done == ("", "Warning: 1 devices were left out; -a copies them too\n", 0)
    assert os.listdir(tmp_path / "plain") == ["file"]
    assert cli("cp", "-a", "cc:/d", str(tmp_path / "archive")) == ("", "", 0)
    assert (tmp_path / "archive" / "disk").is_block_device()


# ── as a tar stream ──────────────────────────────────────────────────────────────────────────────────────


def test_stream(engine: poc.Engine, cli: CommandLine, tree: Path) -> None:
    container = make(engine, "created")
    with subprocess.Popen(["tar", "-C", str(tree), "-cz", "d", "f"], stdout=subprocess.PIPE) as tar:
        assert cli.start("cp", "-", "cc:/home/user", stdin=tar.stdout).wait(timeout=60) == 0
    assert tar.returncode == 0
    out = subprocess.run([*cli.command, "cp", "cc:/home/user", "-"], capture_output=True, timeout=60)
    listed = subprocess.run(["tar", "-t"], input=out.stdout, capture_output=True, check=True).stdout.decode()
    assert listed.splitlines() == ["user/", "user/d/", "user/d/e/", "user/d/e/g", "user/f"]
    assert out.stderr == b"" and out.returncode == 0
    assert list(members(container, "/home/user/.")) == [".", "./d", "./d/e", "./d/e/g", "./f"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"this is no archive" * 1000, "not a tar archive"),
        (tar_of(("a", bytes(3000), {}))[:2000], "not a tar archive, or not whole: unexpected end of data"),
        (tar_of(("a", b"a", {}), ("b", b"b", {}))[:1200], "not whole"),
    ],
    ids=["garbage", "cut", "cut header"],
)
def test_bad_streams(engine: poc.Engine, data: bytes, text: str) -> None:
    container = make(engine, "created")
    with pytest.raises(InvalidArgument, match=text):
        container.put_archive("/tmp", data)
    assert container.put_archive("/tmp", b"") and container.put_archive("/tmp", iter([tar_of(("ok", b"ok", {}))]))
    assert content(container, "/tmp/ok") == b"ok"


def test_stat(engine: poc.Engine) -> None:
    """What docker's API tells beside an archive."""
    container = make(engine)
    container.exec_run(["sh", "-c", "ln -s ../etc/passwd /tmp/link; chmod 4750 /home/user"])
    _, link = container.get_archive("/tmp/link")
    assert (link["name"], link["mode"], link["linkTarget"]) == ("link", 1 << 27 | 0o777, "/etc/passwd")
    chunks, directory = container.get_archive("/home/user")
    assert (directory["name"], directory["mode"]) == ("user", 1 << 31 | 1 << 23 | 0o750)
    _, file = container.get_archive("/etc/hosts")
    assert abs(datetime.fromisoformat(file["mtime"]).timestamp() - time.time()) < 60 and file["size"] > 20
    del chunks


def test_strange_names(engine: poc.Engine, tmp_path: Path) -> None:
    """Newlines, quotes, bytes that are no UTF-8, and as long as a name can be."""
    names = [b"new\nline", b"quo\"'te", b"\xff\xfe", b"-rf", b"x" * 255, "ünï".encode()]
    source = os.fsencode(tmp_path / "names")
    os.mkdir(source)
    for name in names:
        with open(os.path.join(source, name), "wb") as file:
            file.write(name)
    container = make(engine, "created")
    container.copy_to(os.fsdecode(source), "/tmp/names")
    container.copy_from("/tmp/names", str(tmp_path / "back"))
    back = os.fsencode(tmp_path / "back")
    assert sorted(os.listdir(back)) == sorted(names)
    for name in names:
        with open(os.path.join(back, name), "rb") as file:
            assert file.read() == name


# ── who means harm ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["../escaped", "../" * 20 + "tmp/escaped", "a/../../../../../../../escaped"])
def test_names_that_lead_out(engine: poc.Engine, name: str) -> None:
    container = make(engine, "created")
    with pytest.raises(InvalidArgument, match="leads out"):
        container.put_archive("/tmp", tar_of((name, b"x", {})))
    assert "/escaped" not in str(container.diff())


@pytest.mark.parametrize("state", ["created", "running"])
def test_links_that_lead_out(engine: poc.Engine, tmp_path: Path, state: str) -> None:
    """Absolute and climbing links, made by the archive or there before: all end in the container's own root."""
    container = make(engine, state)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = {"type": tarfile.SYMTYPE}
    data = tar_of(
        ("abs", b"", {**link, "linkname": str(outside)}),
        ("up", b"", {**link, "linkname": "../" * 40 + str(outside).lstrip("/")}),
        ("procs", b"", {**link, "linkname": "/proc/1/root"}),
        (str(outside).lstrip("/") + "/mark", b"inside", {}),
        ("abs/1", b"inside", {}),
        ("up/2", b"inside", {}),
        ("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "abs/1"}),
    )
    container.put_archive("/", data)
    assert list(outside.iterdir()) == []
    assert sorted(members(container, str(outside))) == ["outside", "outside/1", "outside/2", "outside/mark"]
    assert content(container, "/hard") == b"inside"
    with pytest.raises((OSError, NotFound)):
        container.put_archive("/proc/self/root/" if state == "created" else "/proc/1/root", tar_of(("x", b"", {})))


def test_a_container_that_is_a_trap(engine: poc.Engine, tmp_path: Path) -> None:
    """Its tools, libraries and links are never used: only its files are read."""
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    container = make(engine)
    script = (
        f"mkdir -p /trap; ln -s {secret} /trap/link; ln -s / /trap/root; mkfifo /trap/pipe; "
        "mkdir -p /lib64 /usr/lib; for f in /lib64/libnss_files.so.2 /usr/lib/libz.so.1; do echo evil >$f; done; "
        "mount -t tmpfs none /proc 2>/dev/null; rm -f /bin/tar"
    )
    container.exec_run(["sh", "-c", script])
    container.copy_from("/trap", str(tmp_path / "out"))
    assert os.readlink(tmp_path / "out" / "link") == str(secret)
    assert sorted(os.listdir(tmp_path / "out")) == ["link", "pipe", "root"]
    with pytest.raises(NotFound):
        container.get_archive(f"/trap/root{secret}")


def test_links_of_the_destination(engine: poc.Engine, tmp_path: Path) -> None:
    """What a container gave a first time leads nowhere the second time."""
    container = make(engine)
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    container.exec_run(["sh", "-c", f"mkdir /d; ln -s {outside} /d/x"])
    container.copy_from("/d", str(out))
    container.exec_run(["sh", "-c", "rm /d/x; mkdir /d/x; echo evil >/d/x/file"])
    with pytest.raises(InvalidArgument, match="cannot overwrite non-directory"):
        container.copy_from("/d/.", str(out))
    assert list(outside.iterdir()) == []


def test_race(engine: poc.Engine, tmp_path: Path) -> None:
    """CVE-2018-15664: a directory that becomes a symlink to the host's files, and back, while they are copied."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("the host's")
    swap = "mv /swap/x /swap/dir; mv /swap/link /swap/x; mv /swap/x /swap/link; mv /swap/dir /swap/x"
    script = (
        f"mkdir -p /swap/x /swap{outside} {outside}; echo own >/swap/x/file; echo own >{outside}/file; "
        f"ln -s {outside} /swap/link; echo ready; while :; do {swap}; done"
    )
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
    data = tar_of(("x/file", b"own\n", {}), ("x/more", b"own\n", {}))
    ended, seen = time.monotonic() + 4, set()
    while time.monotonic() < ended:
        for attempt in (
            lambda: seen.add(content(container, "/swap/x/file")),
            lambda: container.put_archive("/swap", data),
        ):
            try:
                attempt()
            except (NotFound, InvalidArgument, OSError):
                pass  # it was on its way
    assert seen == {b"own\n"}
    assert (outside / "file").read_text() == "the host's" and os.listdir(outside) == ["file"]


def test_file_that_becomes_a_device(engine: poc.Engine) -> None:
    """Looked at as a file, opened as the host's memory? Nothing but files is ever opened."""
    script = (
        "cd /tmp; echo own >own; mknod dev c 1 5; mkfifo pipe; ln own x; echo ready; "
        "while :; do ln -f dev y; mv y x; ln -f own y; mv y x; ln -f pipe y; mv y x; ln -f own y; mv y x; done"
    )
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
    ended = time.monotonic() + 2
    kinds: set[tuple[bytes, int]] = set()
    while time.monotonic() < ended:
        with suppress(NotFound):
            kinds.update((member.type, member.size) for member in members(container, "/tmp/x").values())
    assert kinds <= {(tarfile.REGTYPE, 4), (tarfile.CHRTYPE, 0), (tarfile.FIFOTYPE, 0)} and len(kinds) > 1


# ── large, slow, interrupted ─────────────────────────────────────────────────────────────────────────────


def test_a_large_file(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """More than the memory that it may have goes each way, and holes stay holes."""
    make(engine, "created")
    with open(tmp_path / "big", "wb") as file:
        file.write(b"begin")
        file.seek(LARGE)
        file.write(b"end")
    for words in ((str(tmp_path / "big"), "cc:/big"), ("cc:/big", str(tmp_path / "back"))):
        command = cli.start("cp", *words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (160 << 20, -1)))
        assert command.wait(timeout=60) == 0
    with open(tmp_path / "back", "rb") as file:
        assert os.fstat(file.fileno()).st_size == LARGE + 3
        assert os.fstat(file.fileno()).st_blocks < 2 << 11
        assert file.read(5) == b"begin" and os.pread(file.fileno(), 3, LARGE) == b"end"


def test_no_longer_wanted(engine: poc.Engine) -> None:
    """Who stops reading lets go of the container; so does who forgets the iterator."""
    container = make(engine, "created")
    chunks, _ = container.get_archive("/bin")
    assert next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    chunks, _ = container.get_archive("/bin")
    del chunks
    container.start()
    assert container.status == "running"


def test_interrupted(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """Ctrl-C and kill: the container can be used, and nobody is left behind."""
    container = make(engine, "created")
    for number, code in ((2, 130), (9, -9)):
        with running(cli.start("cp", "-", "cc:/tmp", stdin=subprocess.PIPE)) as command:
            assert command.stdin is not None
            command.stdin.write(tar_of(("half", os.urandom(1 << 20), {}))[: 1 << 19])
            command.stdin.flush()
            time.sleep(0.5)
            command.send_signal(number)
            assert command.wait(timeout=10) == code
    await_gone()
    container.start()
    container.remove(force=True)


def await_gone() -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and [p for p in leaks.our_processes() if p.command.startswith("python")]:
        time.sleep(0.01)


def test_stopped_container_is_kept_from_starting(engine: poc.Engine) -> None:
    """Two overlays over the same directories would not know of each other: a start waits until a copy is done."""
    container = make(engine, "created")
    chunks, _ = container.get_archive("/bin")
    child = os.fork()
    if child == 0:
        try:
            container.start()
        finally:
            os._exit(0 if container.status == "running" else 1)
    time.sleep(0.3)
    assert container.status == "created"
    assert sum(len(chunk) for chunk in chunks) > 1 << 20
    assert os.waitpid(child, 0)[1] == 0


def test_several_at_once(engine: poc.Engine, cli: CommandLine, tree: Path) -> None:
    for state in ("created", "running"):
        container = make(engine, state)
        commands = [cli.start("cp", str(tree), f"cc:/tmp/{number}") for number in range(4)]
        assert [command.wait(timeout=60) for command in commands] == [0] * 4
        assert len(members(container, "/tmp")) == 1 + 4 * 7
        container.remove(force=True)


def test_events(engine: poc.Engine, cli: CommandLine, tree: Path) -> None:
    container = make(engine, "created")
    cli("cp", str(tree), "cc:/tmp")
    cli("cp", "cc:/etc/passwd", "/dev/null/x")
    cli("cp", "cc:/etc/passwd", str(tree / "out"))
    actions = [event["Action"] for event in engine.events(until=time.time())]
    assert [action for action in actions if "-" in action] == ["extract-to-dir", "archive-path"]
    assert container.name == "cc"


def test_progress(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """On a terminal one line says what was copied, and what takes longer than a second shows how far it is."""
    make(engine, "created")
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    quiet = subprocess.run(
        ["script", "-qec", " ".join([*cli.command, "cp", "-q", f"{tmp_path}/file", "cc:/a"]), "/dev/null"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert quiet.stdout.strip() == b""
    loud = subprocess.run(
        ["script", "-qec", " ".join([*cli.command, "cp", f"{tmp_path}/file", "cc:/a"]), "/dev/null"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert loud.stdout.strip() == b"Successfully copied 1.05MB to cc:/a"


@pytest.fixture(autouse=True)
def fresh_name(engine: poc.Engine) -> Iterator[None]:
    """Every container here is called cc."""
    yield
    for container in engine.containers.list(all=True):
        container.remove(force=True)


@needs("program:runc")
def test_with_another_runtime(engine: poc.Engine, tree: Path) -> None:
    container = make(engine, runtime="runc")
    container.copy_to(str(tree), "/tmp/new")
    assert content(container, "/tmp/new/f") == b"file\n"
    assert ("/tmp/new/f", 1) in [(change["Path"], change["Kind"]) for change in container.diff()]
    assert b"".join(container.export()).count(b"tmp/new/d/e/g") > 0
    assert len(container.commit("made").layers) == 2
    assert container.status == "running"
