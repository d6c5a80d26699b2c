"""The base image, made for real: by mmdebstrap where an archive can be reached, of a tarball or directory anywhere."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from conftest import CHECKOUT, needs, wait_until
from test_images import CAP_NET_RAW, _contents, _describe, _small_disk

from poc import _fs, errors
from poc.images import archive, bootstrap
from poc.images.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from poc.images.store import Image

needs_root = needs("root")
needs_mmdebstrap = needs("root", "program:mmdebstrap")
slow = pytest.mark.timeout(600)

MAKE_BASE = """if True:
    import json, sys
    from poc.images.bootstrap import make_base, summary
    from poc.images.store import Store
    from poc.errors import PocError
    texts = {}
    def progress(text, done, total):
        assert 0 <= done <= total
        if text not in texts:
            texts[text] = done
            print(text, file=sys.stderr, flush=True)
    try:
        image = make_base(Store(sys.argv[1]), *sys.argv[2:], progress=progress)
    except PocError as error:
        sys.exit(str(error))
    print(json.dumps([image.id, summary(image), list(texts)]))
"""


def _start(store: Store, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = (*prefix, sys.executable, "-c", MAKE_BASE, store.data, *arguments)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=CHECKOUT, start_new_session=True)


# Without a network


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=debian\nVERSION_ID='12'\n")
    (root / "program").write_text("#!")
    return str(root)


@needs_root
def test_a_directory_and_a_tarball_become_the_base_image(rootfs: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    image = bootstrap.make_base(store, "dir", rootfs)
    assert image.references == ["debian:12", "ubuntu:latest"]
    assert bootstrap.summary(image) == image.note == f"ubuntu is an alias of debian:12 (made from {rootfs})"
    assert bootstrap.make_base(store, "dir", rootfs).id == image.id
    assert bootstrap.make_base(store).id == image.id  # there is one: nothing to do
    store.remove("debian:12")
    assert bootstrap.make_base(store).references == ["debian:12", "ubuntu:latest"]

    tarball = str(tmp_path / "rootfs.tar.zst")
    (tmp_path / "rootfs/etc/os-release").write_text('ID="ubuntu"\nVERSION_ID="24.04"\n')
    with archive.pack(rootfs) as stream, open(tarball, "wb") as file:
        zstandard.ZstdCompressor().copy_stream(stream, file)
    other = bootstrap.make_base(store, "tar", tarball)
    assert other.references == ["ubuntu:24.04", "ubuntu:latest"] and other.source == "tar"
    assert bootstrap.summary(other) == f"ubuntu is ubuntu:24.04 (made from {tarball})" and other.note == ""
    assert store.get("debian:12").id == image.id

    store.add_directory(rootfs, "mine", {"User": "1"})
    mine = store.tag("mine", "ubuntu")
    assert bootstrap.make_base(store).id == mine.id
    assert bootstrap.summary(mine) == "ubuntu is ubuntu:24.04, which was here already"


@needs_root
@pytest.mark.parametrize("text", ["", "ID=../../x\nVERSION_ID=1\n", 'ID=x\nVERSION_ID="a b"\n', "ID='", "\0\n=\n"])
def test_a_rootfs_may_say_anything_of_itself(text: str, rootfs: str, tmp_path: Path) -> None:
    (tmp_path / "rootfs/etc/os-release").write_text(text)
    image = bootstrap.make_base(Store(str(tmp_path / "store")), "dir", rootfs)
    assert image.references == ["ubuntu:latest"]
    assert bootstrap.summary(image).isprintable()


@needs_root
def test_a_source_that_can_not_be_used_is_one_line(
    rootfs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    for source, argument, reason in (
        ("floppy", None, "there are registry, bootstrap, docker, tar, dir"),
        ("tar", None, "--from tar needs"),
        ("bootstrap", "x", "takes no argument"),
        ("dir", f"{rootfs}/program", "not a directory"),
        ("tar", f"{rootfs}/program", "not"),
    ):
        with pytest.raises(errors.InvalidArgument, match=reason):
            bootstrap.make_base(store, source, argument)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bootstrap.make_base(store, "tar", "/nowhere")
    with pytest.raises(
        errors.Unsupported, match=r"not supported yet.*use --from bootstrap, docker, tar FILE, dir PATH"
    ):
        bootstrap.make_base(store, "registry")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        errors.Unsupported, match=r"registry: .*bootstrap: mmdebstrap is not installed.*docker: docker is"
    ):
        bootstrap.make_base(store)
    assert _contents(store) == {}


UBUNTU_THAT_LACKS_ALL = """if True:
    import http.server, os, subprocess, sys, threading
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            there = self.path.endswith("/Release.gpg")
            self.send_response(200 if there else 404)
            self.send_header("Content-Length", "1" if there else "0")
            self.end_headers()
            self.wfile.write(b"x" * there)
        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.2", 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@needs_mmdebstrap
def test_archives_that_fail_are_both_named(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 archive.ubuntu.com security.ubuntu.com ports.ubuntu.com\n")
    store = Store(str(tmp_path / "store"))
    inside = f"ip link set lo up && mount --bind {hosts} /etc/hosts && exec " + '"$@"'
    prefix = ("unshare", "--mount", "--net", "sh", "-c", inside, "sh", sys.executable, "-c", UBUNTU_THAT_LACKS_ALL)
    with _start(store, "bootstrap", prefix=prefix) as process:
        message = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 1
    assert re.search(r"mmdebstrap failed on Ubuntu's archive: .*ubuntu\.com", message)
    assert "mmdebstrap failed on this host's apt sources: " in message
    assert "use --from docker, tar FILE, dir PATH" in message
    assert _contents(store) == {}


@needs("root", "program:apt-get")
def test_an_archive_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A network that swallows every packet, name look-ups included."""
    links = (
        "link add d0 type veth peer name d1",
        "link set d1 up",
        "address add 192.0.2.1/24 dev d0",
        "link set d0 up",
    )
    inside = "".join(f"ip {words} && " for words in (*links, "route add default dev d0")) + 'exec "$@"'
    program = "from poc.images import bootstrap as b; print(b._reachable('http://archive.ubuntu.com/', '/nowhere'))"
    command = ("unshare", "--net", "sh", "-c", inside, "sh", sys.executable, "-c", program)
    assert subprocess.check_output(command, text=True, cwd=CHECKOUT, timeout=60) == "False\n"


# The real thing


@pytest.fixture(scope="module")
def network(run_directory: str) -> None:
    uris = bootstrap._output(
        "apt-get", "indextargets", "--format", "$(REPO_URI)dists/$(RELEASE)/InRelease", "--no-release-info"
    )
    if not any(bootstrap._reachable(uri, run_directory) for uri in dict.fromkeys(uris.splitlines()[:3])):
        pytest.skip("needs an apt archive that can be reached")


@pytest.fixture(scope="module")
def base(network: None, run_directory: str) -> tuple[Store, Image]:
    """Made by two calls at once: one of them does it, both have it."""
    store = Store(f"{run_directory}/base")
    with _start(store) as one, _start(store) as two:
        results = [process.communicate() for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), results
    (one_id, summary, one_texts), (two_id, _, two_texts) = (json.loads(output) for output, _ in results)
    assert one_id == two_id
    assert sorted(texts[0] for texts in (one_texts, two_texts)) == [
        "looking for an archive of packages",
        "waiting for another `poc init`",
    ]
    image = store.get("ubuntu")
    assert image.id == one_id and summary == bootstrap.summary(image)
    return store, image


@slow
@needs_mmdebstrap
def test_the_base_image_says_what_it_is(base: tuple[Store, Image]) -> None:
    store, image = base
    release = _fs.read_text(f"{image.layers[0]}/usr/lib/os-release")
    name = re.search(r"^ID=(\S+)", release, re.MULTILINE)
    version = re.search(r'^VERSION_ID="(\S+)"', release, re.MULTILINE)
    assert name and version and image.distribution == f"{name[1]}:{version[1]}"
    assert image.references == sorted(["ubuntu:latest", image.distribution])
    assert image.source == "bootstrap" and image.config["Cmd"] == ["/bin/bash"]
    assert 50 << 20 < image.size < 400 << 20
    assert archive.digest_of(image.layers[0])[7:] == os.path.basename(image.layers[0])
    texts: list[str] = []
    again = bootstrap.make_base(store, progress=lambda *step: texts.append(step[0]))
    assert again.id == image.id and texts == []
    assert bootstrap.make_base(store, "bootstrap").id == image.id


def _inside(root: str, script: str) -> str:
    """What a script prints that runs in a rootfs, which it can't change."""
    enter = f"mount --bind {root} {root} && mount -o remount,bind,ro {root} && exec chroot {root} bash -ec " + '"$0"'
    return subprocess.check_output(["unshare", "--mount", "--net", "sh", "-c", enter, script], text=True)


@slow
@needs_mmdebstrap
def test_the_base_image_holds_what_it_should_and_nothing_of_this_host(base: tuple[Store, Image]) -> None:
    root = base[1].layers[0]
    script = "sysbench --version && python3 -c 'import json; print(json.__cached__)' && ping -V && ip -V && apt-get -v"
    output = _inside(root, script)
    assert os.path.exists(root + output.splitlines()[1])  # compiled already
    assert os.getxattr(f"{root}/usr/bin/ping", "security.capability")[8:] == CAP_NET_RAW[8:]
    assert os.stat(f"{root}/usr/bin/passwd").st_mode & stat.S_ISUID
    assert os.stat(root).st_mode & 0o7777 == 0o755
    assert os.stat(f"{root}/tmp").st_mode & 0o7777 == 0o1777
    for path in ("etc/hostname", "etc/hosts", "etc/resolv.conf"):
        entry = os.lstat(f"{root}/{path}")
        assert stat.S_ISREG(entry.st_mode) and entry.st_mode & 0o777 == 0o644
    assert _fs.read_text(f"{root}/etc/hostname") == "localhost"
    assert _fs.read_text(f"{root}/etc/resolv.conf") == ""
    assert not [name for name in os.listdir(f"{root}/etc/apt/apt.conf.d") if "mmdebstrap" in name]
    assert "Created-By: Packages" in _inside(root, "apt-get indextargets --no-release-info")
    assert not [name for name in os.listdir(f"{root}/var/cache/apt/archives") if name.endswith(".deb")]


@slow
@needs_mmdebstrap
def test_the_base_image_survives_a_tarball(base: tuple[Store, Image], tmp_path: Path) -> None:
    layer = base[1].layers[0]
    with archive.pack(layer) as stream:
        copy = Store(str(tmp_path)).add_tar(stream, "copy")
    assert os.path.basename(copy.layers[0]) == os.path.basename(layer)
    assert _describe(copy.layers[0]) == _describe(layer)


@slow
@needs_mmdebstrap
def test_without_ubuntus_archive_it_is_this_hosts_distribution(network: None, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost archive.ubuntu.com security.ubuntu.com ports.ubuntu.com\n")
    store = Store(str(tmp_path / "store"))
    # nor have the sources of this host ever been fetched, as on a fresh machine
    lists = tmp_path / "lists"
    (lists / "partial").mkdir(parents=True)
    inside = f'mount --bind {hosts} /etc/hosts && mount --bind {lists} /var/lib/apt/lists && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", inside, "sh")
    with _start(store, prefix=prefix) as process:
        output, problems = process.communicate()
    assert process.returncode == 0, problems
    image = store.get("ubuntu")
    host = _fs.read_text("/etc/os-release")
    assert image.distribution.partition(":")[0] in re.findall(r"^ID=(\S+)$", host, re.MULTILINE)
    assert image.references == sorted([image.distribution, "ubuntu:latest"])
    if image.distribution.startswith("debian:"):
        assert json.loads(output)[1] == (
            f"ubuntu is an alias of {image.distribution} (Ubuntu's archive could not be reached)"
        )
    assert len(_inside(image.layers[0], "type -P sysbench ping ip python3").split()) == 4


@slow
@needs_mmdebstrap
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("downloading packages with apt", signal.SIGKILL),
        ("installing essential packages", signal.SIGKILL),
        ("installing remaining packages inside the chroot", signal.SIGINT),
    ],
)
def test_killed_half_way_it_leaves_no_process_no_mount_and_nothing_after_the_next_run(
    stage: str, number: signal.Signals, network: None, rootfs: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    with _start(store, "bootstrap") as process:
        assert process.stderr
        for line in process.stderr:
            if line.strip() == stage:
                break
        time.sleep(0.3)
        process.send_signal(number)
        process.stderr.read()
    if number == signal.SIGINT:
        assert _contents(store) == {}
    wait_until(lambda: not _processes_naming(store.data))
    assert store.data not in _fs.read_text("/proc/self/mountinfo")
    bootstrap.make_base(store, "dir", rootfs)
    assert len(os.listdir(store.layers)) == 1


def _processes_naming(path: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if path.encode() in _fs.read_bytes(f"/proc/{pid}/cmdline"):
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@slow
@needs_mmdebstrap
@pytest.mark.parametrize("size", ["20m", "60m"])
def test_a_full_disk_stops_mmdebstrap_and_is_said(size: str, network: None, tmp_path: Path) -> None:
    with _small_disk(str(tmp_path / "disk"), size):
        store = Store(str(tmp_path / "disk"))
        with pytest.raises(OSError, match="No space left on device") as caught:
            bootstrap.make_base(store, "bootstrap")
        assert caught.value.errno == errno.ENOSPC
        assert _contents(store) == {}
