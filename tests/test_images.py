"""The image store: what a tarball holds arrives, hostile and broken ones do no harm, and nothing half-made stays."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from conftest import CHECKOUT, needs, wait_until
from hypothesis import given
from hypothesis import strategies as st

from poc import _fs, _libc, errors
from poc.images import archive, references
from poc.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from poc.images.store import Image

needs_root = needs("root")
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")  # vfs_cap_data: cap_net_raw=ep


# References


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("ubuntu", "ubuntu:latest"),
        ("ubuntu:24.04", "ubuntu:24.04"),
        ("docker.io/library/ubuntu", "ubuntu:latest"),
        ("index.docker.io/library/ubuntu:1", "ubuntu:1"),
        ("library/ubuntu", "ubuntu:latest"),
        ("docker.io/user/app", "user/app:latest"),
        ("localhost:5000/a/b:V_1", "localhost:5000/a/b:V_1"),
        ("ghcr.io/library/x", "ghcr.io/library/x:latest"),
        ("Registry.Example/x", "Registry.Example/x:latest"),
        (f"app@sha256:{'0' * 64}", f"app@sha256:{'0' * 64}"),
    ],
)
def test_the_spellings_of_a_reference_are_one(written: str, normal: str) -> None:
    assert references.normalize(written) == normal
    assert references.normalize(normal) == normal
    assert references.from_file_name(references.file_name(normal)) == normal


HOSTILE_REFERENCES = (
    *("", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", "/a", "a:", "a:b:c", ":a", "-a", "a-", "a..b"),
    *("UPPER", "a b", "a\nb", "a\0b", "a\\b", "a%2fb", "a+b", "ä", "\udcff", "a:-t", "a:t/", f"a:{'t' * 129}"),
    *("x" * 256, "y" * 10_000, "0" * 64, "a@sha256:12", "a@md5:x", "-h/a", "h_o:1/a", "h:x/a", "a:.", "a:.."),
)


@pytest.mark.parametrize("reference", HOSTILE_REFERENCES, ids=range(len(HOSTILE_REFERENCES)))
def test_what_is_no_reference_is_refused_in_one_short_line(reference: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        references.normalize(reference)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    with pytest.raises((errors.InvalidArgument, errors.ImageNotFound)):
        Store(str(tmp_path)).get(reference)
    assert not os.listdir(tmp_path)


@given(st.text(alphabet="aZ09._-/:@+%\n \0é", max_size=40) | st.text(max_size=300))
def test_a_reference_is_a_file_name_or_an_error(text: str) -> None:
    try:
        reference = references.normalize(text)
    except errors.InvalidArgument:
        return
    name = references.file_name(reference)
    assert "/" not in name and "\0" not in name and name not in (".", "..") and len(os.fsencode(name)) <= 255
    assert references.from_file_name(name) == reference == references.normalize(reference)


# What a tarball holds arrives


def _make_tree(root: str) -> None:
    """Everything that unpacking is known to lose."""
    os.makedirs(f"{root}/bin")
    os.makedirs(f"{root}/{'d' * 120}/{'e' * 120}")
    _write(f"{root}/bin/ping", b"#!ping", 0o755)
    os.setxattr(f"{root}/bin/ping", "security.capability", CAP_NET_RAW)
    _write(f"{root}/bin/su", b"su", 0o4755)
    _write(f"{root}/bin/write", b"write", 0o2755, uid=3, gid=70_000)
    os.chown(f"{root}/bin/write", 3_000_000, 70_000)
    os.chmod(f"{root}/bin/write", 0o6711)  # chown has taken the setuid bit
    os.link(f"{root}/bin/su", f"{root}/bin/sudo")
    os.symlink("/bin/su", f"{root}/absolute")
    os.symlink("../../../../up", f"{root}/bin/up")
    os.link(f"{root}/absolute", f"{root}/absolute-again", follow_symlinks=False)
    os.mkfifo(f"{root}/fifo", 0o622)
    os.mknod(f"{root}/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(f"{root}/disk", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    _write(f"{root}/{'d' * 120}/{'e' * 120}/{'f' * 120}", b"long", 0o600)
    _write(os.fsencode(root) + b"/bytes \xff\n\t*", b"odd name", 0o644)
    _write(f"{root}/-rf", b"an option?", 0o644)
    _write(f"{root}/notes", b"x", 0o640)
    os.setxattr(f"{root}/notes", "user.a", b"\0binary\n=\xff")
    os.setxattr(f"{root}/notes", "trusted.b", b"b")
    os.setxattr(f"{root}/notes", "system.posix_acl_access", _acl_for_user(1000))
    with open(f"{root}/sparse", "wb") as file:
        file.truncate(50 << 20)
        os.pwrite(file.fileno(), b"middle", 20 << 20)
    os.mkdir(f"{root}/tmp")
    os.chmod(f"{root}/tmp", 0o1777)
    os.setxattr(f"{root}/tmp", "user.dir", b"yes")
    _write(f"{root}/empty", b"", 0o000)
    for number, path in enumerate(sorted(os.listdir(root))):
        os.utime(f"{root}/{path}", ns=(0, 1_000_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(f"{root}/empty", (0, 0))
    os.chmod(root, 0o751)
    os.utime(root, (0, 1_234_567_890))


def _write(path: str | bytes, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def _acl_for_user(uid: int) -> bytes:
    """user::rw-, user:UID:r--, group::r--, mask::r--, other::--- as posix_acl_xattr.h lays it out."""
    entries = ((1, 6, -1), (2, 4, uid), (4, 4, -1), (16, 4, -1), (32, 0, -1))
    packed = [tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + _id(who) for tag, mode, who in entries]
    return (2).to_bytes(4, "little") + b"".join(packed)


def _id(who: int) -> bytes:
    return (who & 0xFFFFFFFF).to_bytes(4, "little")


def _describe(root: str) -> dict[bytes, tuple[object, ...]]:
    """Path → all that can be seen of it; two trees are the same when these are."""
    seen: dict[bytes, tuple[object, ...]] = {}
    links: dict[int, bytes] = {}
    base = os.fsencode(root)
    pending = [base]
    while pending:
        path = pending.pop()
        entry = os.lstat(path)
        name = os.path.relpath(path, base)
        if stat.S_ISDIR(entry.st_mode):
            pending += sorted((os.path.join(path, child) for child in os.listdir(path)), reverse=True)
        first = links.setdefault(entry.st_ino, name)
        xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattrs(path)}
        device = entry.st_rdev if stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode) else 0
        ownership = (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_mtime_ns, device)
        seen[name] = (*ownership, first if not stat.S_ISDIR(entry.st_mode) else None, xattrs, _content(path, entry))
    return seen


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def _content(path: bytes, entry: os.stat_result) -> object:
    if stat.S_ISLNK(entry.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(entry.st_mode):
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return entry.st_size, digest, entry.st_blocks * 512 < entry.st_size / 10  # the last: it has holes


@pytest.fixture
def tree(tmp_path: Path) -> str:
    root = str(tmp_path / "tree")
    os.mkdir(root)
    _make_tree(root)
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _tar(tree: str, target: str, *options: str) -> str:
    everything = ("--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner")
    subprocess.run(
        ("tar", "--create", f"--file={target}", f"--directory={tree}", *everything, *options, "."), check=True
    )
    return target


@needs_root
def test_all_that_a_tarball_holds_arrives(tree: str, store: Store, tmp_path: Path) -> None:
    tarball = _tar(tree, str(tmp_path / "a.tar"), "--format=pax")
    image = store.add_tar(tarball, "everything")
    [layer] = image.layers
    assert _describe(layer) == _describe(tree)
    with open(tarball, "rb") as file:
        assert os.path.basename(layer) == hashlib.file_digest(file, "sha256").hexdigest()
    assert 0 < image.size < 1 << 20
    # Linux's own word that the capability is one, and that the setuid program is setuid.
    assert subprocess.check_output(["getcap", f"{layer}/bin/ping"], text=True).split()[1] == "cap_net_raw=ep"
    assert os.stat(layer).st_mode & 0o7777 == 0o751


@needs_root
def test_a_copied_directory_is_the_same(tree: str, store: Store) -> None:
    before = _describe(tree)
    image = store.add_directory(tree, "copy")
    assert _describe(image.layers[0]) == before == _describe(tree)
    assert archive.digest_of(tree) == archive.digest_of(image.layers[0]) == _diff_id(image.layers[0])


def _diff_id(layer: str) -> str:
    return f"sha256:{os.path.basename(layer)}"


def _zstd_frames(data: bytes) -> bytes:
    compress = zstandard.ZstdCompressor().compress
    return compress(data[: len(data) // 2]) + compress(data[len(data) // 2 :])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip in two members": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd in two frames": _zstd_frames,
}


@needs_root
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_gives_the_same_layer(compression: str, store: Store, tmp_path: Path) -> None:
    data = _tarball(("a/b", b"text" * 5000), ("c", b""))
    path = tmp_path / "archive"
    path.write_bytes(COMPRESSIONS[compression](data))
    steps: list[tuple[str, int, int]] = []
    image = store.add_tar(str(path), "x", progress=lambda *step: steps.append(step))
    assert os.path.basename(image.layers[0]) == hashlib.sha256(data).hexdigest()
    assert _fs.read_bytes(f"{image.layers[0]}/a/b") == b"text" * 5000
    assert steps[-1][1:] == (path.stat().st_size, path.stat().st_size)
    with open(path, "rb") as file:  # as a stream of unknown length: standard input
        assert store.add_tar(file, "y").layers == image.layers
        assert not file.closed


def _tarball(*members: tuple[str, bytes] | tarfile.TarInfo, end: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
        if not end:
            return buffer.getvalue()
    return buffer.getvalue()


def _member(name: str, kind: bytes, link: str = "", **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@needs_root
def test_xattrs_as_go_writes_them_arrive_but_orders_to_overlayfs_do_not(store: Store, tmp_path: Path) -> None:
    value = CAP_NET_RAW.decode("utf-8", "surrogateescape")
    ping = _member(
        "ping", tarfile.REGTYPE, pax_headers={"SCHILY.xattr.security.capability": value, "LIBARCHIVE.x": "unknown"}
    )
    trap = _member("d", tarfile.DIRTYPE, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})
    opaque = _member("o", tarfile.DIRTYPE, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})
    implied = ("a/b", b"")
    before = os.umask(0o077)
    try:
        [layer] = store.add_tar(io.BytesIO(_tarball(ping, trap, opaque, implied)), "x").layers
    finally:
        os.umask(before)
    assert os.getxattr(f"{layer}/ping", "security.capability") == CAP_NET_RAW
    assert os.listxattr(f"{layer}/d") == os.listxattr(f"{layer}/o") == []
    for directory in (layer, f"{layer}/a"):  # without entries of their own, and whatever the caller's umask
        assert os.stat(directory).st_mode & 0o7777 == 0o755


# Hostile tarballs


def _symlink(name: str, target: str) -> tarfile.TarInfo:
    return _member(name, tarfile.SYMTYPE, target)


def _hardlink(name: str, target: str) -> tarfile.TarInfo:
    return _member(name, tarfile.LNKTYPE, target)


Hostile = list["tuple[str, bytes] | tarfile.TarInfo"]


def _hostile_tarballs(outside: str) -> dict[str, Hostile]:
    up = "../" * 30 + outside.lstrip("/")
    return {
        "dotdot": [("../evil", b"evil"), ("a/../../evil", b"evil"), (f"{up}/evil", b"evil")],
        "absolute": [(f"{outside}/evil", b"evil"), (f"{outside}/victim", b"evil")],
        "through a symlink": [_symlink("s", outside), ("s/evil", b"evil"), ("s/victim", b"evil")],
        "through an upward symlink": [_symlink("s", up), ("s/evil", b"evil")],
        "through two symlinks": [_symlink("b", "a"), _symlink("a", outside), ("b/evil", b"evil")],
        "through a symlink and dotdot": [_symlink("a/s", ".."), ("a/s/../../evil", b"evil")],
        "over a symlink": [_symlink("s", f"{outside}/victim"), ("s", b"evil")],
        "symlink as the root": [_symlink(".", outside), ("evil", b"evil")],
        "symlink then directory": [
            _symlink("s", outside),
            _member("s", tarfile.DIRTYPE, mode=0o777),
            _member("s/evil", tarfile.DIRTYPE),
        ],
        "hard link out": [_hardlink("h", f"{outside}/victim"), ("h", b"evil")],
        "hard link up": [_hardlink("h", f"{up}/victim"), ("h", b"evil")],
        "hard link through a symlink": [_symlink("s", outside), _hardlink("h", "s/victim"), ("h", b"evil")],
        "hard link to a symlink": [_symlink("s", f"{outside}/victim"), _hardlink("h", "s"), ("h", b"evil")],
        "device through a symlink": [
            _symlink("s", outside),
            _member("s/evil", tarfile.CHRTYPE, devmajor=1, devminor=3),
        ],
        "mode through a symlink": [_symlink("s", f"{outside}/victim"), _member("s", tarfile.DIRTYPE, mode=0o777)],
        "long name up": [("../" * 100 + "evil", b"evil")],
    }


@needs_root
@pytest.mark.parametrize("name", _hostile_tarballs("/x"))
def test_a_hostile_tarball_stays_inside(name: str, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("unharmed")
    store.prepare()
    before = _describe(str(outside)), sorted(os.listdir(tmp_path)), sorted(os.listdir(store.data))
    try:
        image = store.add_tar(io.BytesIO(_tarball(*_hostile_tarballs(str(outside))[name])), "hostile")
    except errors.InvalidArgument as error:
        assert str(error).count("\n") == 0
        assert _contents(store) == {}
    else:
        assert store.list() == [] or store.get("hostile").id == image.id
        inodes = {entry.inode() for directory in _directories(image.layers[0]) for entry in os.scandir(directory)}
        assert os.stat(outside / "victim").st_ino not in inodes
    after = _describe(str(outside)), sorted(os.listdir(tmp_path)), sorted(os.listdir(store.data))
    assert after == before


def _directories(root: str) -> list[str]:
    return [directory for directory, _, _ in os.walk(root)]


def _contents(store: Store) -> dict[str, list[str]]:
    """All that a store holds, without its four directories."""
    places = (store.blobs, store.layers, store.images, store.named)
    return {place: found for place in places if os.path.isdir(place) and (found := os.listdir(place))}


# Broken tarballs


def _broken() -> dict[str, bytes]:
    noise = random.Random(1).randbytes(100_000)
    whole = _tarball(("a", noise[:3000]), ("b", b"b" * 3000), ("c", b"c" * 3000))
    boundary = 512 + 3072
    broken = {
        "empty": b"",
        "text": b"this is no tarball\n" * 100,
        "noise": noise,
        "zeros in a header": whole[:boundary] + b"\1" * 512 + whole[boundary + 512 :],
        **{f"cut at {end}": whole[:end] for end in (1, 100, 511, 512, 1000, boundary, boundary + 512, 3 * boundary)},
    }
    for name in ("gzip", "bzip2", "xz", "zstd"):
        packed = COMPRESSIONS[name](whole)
        broken |= {f"{name} cut at {end}": packed[:end] for end in (3, 7, len(packed) // 2, len(packed) - 1)}
        middle = len(packed) // 2
        broken[f"{name} with a flaw"] = packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 9])
        broken[f"{name} of text"] = COMPRESSIONS[name](b"no tarball\n" * 1000)
    return broken


BROKEN = _broken()


@needs_root
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tarball_is_one_clear_line_and_leaves_nothing(name: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(BROKEN[name])
    with pytest.raises(errors.InvalidArgument, match=r"broken\.tar") as caught:
        store.add_tar(str(path), "x")
    assert str(caught.value).count("\n") == 0
    assert _contents(store) == {}


@needs_root
def test_what_is_no_file_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        store.add_tar(str(tmp_path / "nowhere"), "x")
    with pytest.raises(errors.InvalidArgument, match="is a directory"):
        store.add_tar(str(tmp_path), "x")
    with pytest.raises(errors.InvalidArgument, match="not a directory"):
        store.add_directory(str(tmp_path / "nowhere"), "x")
    with pytest.raises(errors.InvalidArgument, match="own store"):
        store.add_directory(str(tmp_path), "x")
    assert _contents(store) == {}


@needs_root
def test_a_tree_deeper_than_the_stack_comes_and_goes(store: Store) -> None:
    deep = _member("d/" * 1900, tarfile.DIRTYPE)
    image = store.add_tar(io.BytesIO(_tarball(deep, ("beside", b""))), "deep")
    assert image.size > 1900 * 4096
    store.remove("deep")
    assert _contents(store) == {}


@contextlib.contextmanager
def _small_disk(path: str, size: str) -> Iterator[None]:
    os.mkdir(path)
    _libc.mount("tmpfs", path, "tmpfs", 0, f"size={size}")
    try:
        yield
    finally:
        _libc.umount(path)


@needs_root
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    big = tmp_path / "big.tar"
    big.write_bytes(_tarball(*((f"{number}", os.urandom(1 << 20)) for number in range(12))))
    with _small_disk(str(tmp_path / "disk"), "8m"):
        store = Store(str(tmp_path / "disk"))
        with pytest.raises(OSError, match="No space left on device") as caught:
            store.add_tar(str(big), "big")
        assert caught.value.errno == errno.ENOSPC
        assert _contents(store) == {}
        store.add_tar(io.BytesIO(_tarball(("small", b"small"))), "small")
        with pytest.raises(OSError, match="No space left on device"):
            store.add_tar(str(big), "big")
        assert [image.references for image in store.list()] == [["small:latest"]]
        assert len(os.listdir(store.layers)) == len(os.listdir(store.blobs)) == 1


# Images and their names


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., str]:
    def make(*members: tuple[str, bytes]) -> str:
        path = str(tmp_path / f"{time.monotonic_ns()}.tar")
        with open(path, "wb") as file:
            file.write(_tarball(*members))
        return path

    return make


@needs_root
def test_an_image_is_what_its_tarball_and_configuration_make_it(store: Store, small: Callable[..., str]) -> None:
    release = b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian"\n'
    plain = store.add_tar(small(("bin/sh", b""), ("etc/os-release", release)), "docker.io/library/app:1")
    assert plain.config == {"Env": [plain.config["Env"][0]], "Cmd": ["/bin/sh"]}
    assert plain.config["Env"][0].startswith("PATH=/usr/local/sbin:")
    assert plain.distribution == "debian:12" and plain.references == ["app:1"] and plain.os == "linux"
    assert store.add_tar(small(("bin/bash", b"")), "b").config["Cmd"] == ["/bin/bash"]
    own = store.add_tar(
        small(("x", b"")), "own", config={"Cmd": ["x"], "User": "7", "Labels": {"a": "b"}}, origin="why"
    )
    assert own.config["Cmd"] == ["x"] and own.config["User"] == "7" and "Env" in own.config
    found = store.get("own")
    assert (found.id, found.config, found.layers, found.origin) == (own.id, own.config, own.layers, "why")
    for image in store.list():
        blob = f"{store.blobs}/{image.id[7:]}"
        with open(blob, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == image.id[7:]
        [layer] = image.layers
        assert f'"diff_ids":["{_diff_id(layer)}"]' in _fs.read_text(blob)


@needs_root
def test_a_reference_out_of_the_rootfs_tells_nothing(store: Store, small: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("ID=secret\n")
    outside = _symlink("etc/os-release", str(tmp_path / "secret"))
    image = store.add_tar(io.BytesIO(_tarball(outside)), "x")
    assert image.distribution == ""
    escape = store.add_tar(io.BytesIO(_tarball(("etc/os-release", b'ID="\x1b[31m"'))), "z")
    assert escape.distribution == ""
    rolling = store.add_tar(io.BytesIO(_tarball(("etc/os-release", b"ID=arch\n"))), "a")
    assert rolling.distribution == "arch:latest"
    fifo = _member("etc/os-release", tarfile.FIFOTYPE)
    assert store.add_tar(io.BytesIO(_tarball(fifo)), "y").distribution == ""


@needs_root
def test_names_and_ids_find_an_image(store: Store, small: Callable[..., str]) -> None:
    one, two = store.add_tar(small(("1", b"")), "one"), store.add_tar(small(("2", b"")), "r.example/two:v1")
    for name in ("one", "one:latest", "docker.io/library/one", one.id, one.id[7:], one.id[:20], one.id[7:19]):
        assert store.get(name).id == one.id
    assert store.get("r.example/two:v1").id == two.id
    for name in ("two", "one:v1", "r.example/two", "0" * 64, f"sha256:{'0' * 64}"):
        with pytest.raises(errors.ImageNotFound, match=name):
            store.get(name)
    assert [image.id for image in sorted(store.list(), key=lambda image: image.references)] == [one.id, two.id]
    for number in range(3, 20):  # of 17 ids, two begin with the same digit
        store.add_tar(small((str(number), b"")), f"n{number}")
    digits = [image.id[7] for image in store.list()]
    twice = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(errors.InvalidArgument, match=f"{digits.count(twice)} image ids"):
        store.get(f"sha256:{twice}")


@needs_root
def test_two_references_are_an_alias_and_the_last_one_takes_the_image_along(
    store: Store, small: Callable[..., str]
) -> None:
    tarball = small(("f", b"shared"))
    image = store.add_tar(tarball, "ubuntu")
    assert store.tag("ubuntu", "debian:12").references == ["debian:12", "ubuntu:latest"]
    other = store.add_tar(tarball, "other", config={"Cmd": ["other"]})
    assert other.id != image.id and other.layers == image.layers
    with pytest.raises(errors.Conflict, match=r"debian:12, ubuntu:latest"):
        store.remove(image.id)
    assert store.remove("ubuntu") == (["ubuntu:latest"], [])
    with pytest.raises(errors.ImageNotFound):
        store.get("ubuntu")
    assert store.get("debian:12").id == image.id

    def forbid(going: Image) -> None:
        raise errors.Conflict(f"{going.id} is in use")

    with pytest.raises(errors.Conflict, match=f"{image.id} is in use"):
        store.remove("debian:12", force=True, before_delete=forbid)
    assert store.get("debian:12").complete
    assert store.remove("debian:12") == (["debian:12"], [image.id])
    assert os.path.isdir(other.layers[0])  # the other image has it
    store.tag("other", "again")
    assert store.remove(other.id[7:20], force=True) == (["again:latest", "other:latest"], [other.id])
    assert _contents(store) == {} and store.list() == []
    with pytest.raises(errors.ImageNotFound):
        store.remove("other")


@needs_root
def test_a_reference_that_moves_leaves_an_image_without_one(store: Store, small: Callable[..., str]) -> None:
    old = store.add_tar(small(("old", b"")), "app")
    new = store.add_tar(small(("new", b"")), "app")
    assert {image.id: image.references for image in store.list()} == {old.id: [], new.id: ["app:latest"]}
    store.clean()  # a container may still use the old one
    assert store.get(old.id).complete
    assert store.remove(old.id) == ([], [old.id])
    assert [image.id for image in store.list()] == [new.id]


@needs_root
def test_adding_the_same_again_changes_nothing_and_repairs_a_lost_layer(
    store: Store, small: Callable[..., str]
) -> None:
    tarball = small(("f", b"text"))
    image = store.add_tar(tarball, "app")
    assert store.add_tar(tarball, "app").id == image.id
    subprocess.run(["rm", "-r", *image.layers], check=True)
    assert not store.get("app").complete
    again = store.add_tar(tarball, "app")
    assert again.id == image.id and again.complete and len(store.list()) == 1


@needs_root
def test_a_layer_is_closed_to_other_users(store: Store, small: Callable[..., str]) -> None:
    image = store.add_tar(small(("f", b"text")), "app")
    found = subprocess.run(["cat", f"{image.layers[0]}/f"], user=65534, group=65534, extra_groups=[], check=False)
    assert found.returncode == 1


def test_finding_an_image_reads_one_file_and_loads_nothing_heavy(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "images/by-id")
    os.makedirs(tmp_path / "images/by-reference")
    record = {"id": f"sha256:{'a' * 64}", "layers": ["b"], "config": {}, "created": "", "size": 1}
    (tmp_path / f"images/by-id/{'a' * 64}.json").write_text(
        str(record | {"architecture": "", "os": ""}).replace("'", '"')
    )
    os.symlink(f"../by-id/{'a' * 64}.json", tmp_path / "images/by-reference/ubuntu:latest")
    program = """if True:
        import sys
        import poc._fs, poc.errors
        before = set(sys.modules)
        from poc.images.store import Store
        opened = []
        sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
        image = Store(sys.argv[1]).get("ubuntu")
        print(len(opened), *sorted(name for name in set(sys.modules) - before if not name.startswith("poc.")))
    """
    output = subprocess.check_output([sys.executable, "-c", program, str(tmp_path)], text=True, cwd=CHECKOUT)
    assert output.split() == ["1", "fcntl"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "images/by-reference")
    (tmp_path / "images/by-reference/ubuntu:latest").write_text("{")
    with pytest.raises(errors.PocError, match="by-reference/ubuntu:latest is damaged"):
        Store(str(tmp_path)).get("ubuntu")


# Several at once, and killed ones

ADD = """if True:
    import sys
    from poc.images.store import Store
    store = Store(sys.argv[1])
    for name in sys.argv[3:]:
        if name.startswith("-"):
            store.remove(name[1:])
        else:
            store.add_tar(sys.argv[2] if sys.argv[2] != "-" else sys.stdin.buffer, name)
"""


def _start(store: Store, tarball: str, *names: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", ADD, store.data, tarball, *names]
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=CHECKOUT)


def _check_invariants(store: Store) -> None:
    """Every reference leads to a whole image, and there is nothing that none leads to."""
    images = store.list()
    assert sorted(name for names in store.references().values() for name in names) == sorted(
        name for image in images for name in image.references
    )
    assert all(image.complete for image in images)
    assert {os.path.basename(layer) for image in images for layer in image.layers} == set(os.listdir(store.layers))
    assert {image.id[7:] for image in images} == set(os.listdir(store.blobs))
    assert {f"{image.id[7:]}.json" for image in images} == set(os.listdir(store.images))


@needs_root
def test_a_live_call_is_left_alone_and_a_killed_one_cleaned_up(store: Store, small: Callable[..., str]) -> None:
    with open(small(("a", os.urandom(5 << 20)), ("b", b"b")), "rb") as file:
        data = file.read()
    with _start(store, "-", "live") as live, _start(store, "-", "killed") as killed:
        assert live.stdin and killed.stdin
        for process in (live, killed):
            process.stdin.write(data[: 3 << 20])  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        wait_until(lambda: sum(os.path.exists(f"{store.layers}/{w}/rootfs/a") for w in _entries(store.layers)) >= 2)
        store.clean()
        assert len(os.listdir(store.layers)) == 2
        killed.kill()
        killed.wait()
        _clean_until(store, works=1)  # its tar needs a moment to notice
        live.stdin.write(data[3 << 20 :])
        live.stdin.close()
        assert live.wait() == 0
    assert [image.references for image in store.list()] == [["live:latest"]]
    _check_invariants(store)


def _entries(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def _clean_until(store: Store, works: int) -> None:
    """`clean`, again until only so many work directories are there: a lock is the kernel's to take back."""
    deadline = time.monotonic() + 20
    while True:
        store.clean()
        if sum(name.startswith(".work-") for name in os.listdir(store.layers)) == works:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_root
def test_killed_at_any_moment_the_store_is_whole(store: Store, small: Callable[..., str]) -> None:
    tarball = small(*((f"{number}", os.urandom(20_000)) for number in range(40)))
    kept = store.add_tar(small(("kept", b"kept")), "kept")
    started = time.monotonic()
    assert _start(store, tarball, "a", "b", "-a", "-b").wait() == 0
    duration = time.monotonic() - started
    choose = random.Random(2)
    for _ in range(25):
        with _start(store, tarball, "a", "b", "-a", "-b") as process:
            time.sleep(choose.uniform(0.2, 1.2) * duration)
            process.send_signal(signal.SIGKILL)
        for image in store.list():
            assert image.complete
        _clean_until(store, works=0)
        _check_invariants(store)
        for image in store.list():
            if image.id != kept.id:
                store.remove(image.id, force=True)
    assert store.get("kept").complete
    _check_invariants(store)


@needs_root
def test_many_add_and_remove_at_once(store: Store, small: Callable[..., str]) -> None:
    tarball = small(*((f"{number}", b"x" * 1000) for number in range(50)))
    failures: list[BaseException] = []

    def add_and_remove(number: int) -> None:
        try:
            for _ in range(5):
                store.add_tar(tarball, f"n{number}")
                assert store.get(f"n{number}").complete
                store.clean()
                store.remove(f"n{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add_and_remove, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert _contents(store) == {}
