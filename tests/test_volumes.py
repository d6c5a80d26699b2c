"""Volumes: made, filled from the image, shared, removed; whoever is killed meanwhile, and however hostile the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import IMAGE_CONFIG, CommandLine, needs
from faults import COMMAND, killed_at
from test_mount_flags import ALONE, shell

import poc
from poc.engine import volumes as engine_volumes
from poc.engine.store import listed
from poc.errors import Conflict, InvalidArgument, PocError, Unsupported, VolumeNotFound

pytestmark = needs("root", "overlay", "program:busybox")


def image_with(engine: poc.Engine, image_tar: str, tmp_path: Path, name: str, *members: Any, **config: Any) -> str:
    """An image of busybox and some members: (path, type, mode, uid, content or where a link leads)."""
    path = f"{tmp_path}/{name}.tar"
    with tarfile.open(image_tar) as old, tarfile.open(path, "w") as new:
        for entry in old:
            new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
        for member, kind, mode, uid, content in members:
            entry = tarfile.TarInfo(member)
            entry.type, entry.mode, entry.uid, entry.gid = kind, mode, uid, uid
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.linkname = content
            data = content.encode() if kind == tarfile.REGTYPE else b""
            entry.size = len(data)
            new.addfile(entry, BytesIO(data))
    engine.images.store.add_tar(path, name, config={**IMAGE_CONFIG, **config})
    os.unlink(path)
    return name


@pytest.fixture
def full(engine: poc.Engine, image_tar: str, tmp_path: Path) -> str:
    """An image with something in /data of every kind."""
    return image_with(
        engine, image_tar, tmp_path, "full",
        ("data", tarfile.DIRTYPE, 0o1750, 1000, ""),
        ("data/file", tarfile.REGTYPE, 0o4755, 7, "content"),
        ("data/again", tarfile.LNKTYPE, 0o4755, 7, "data/file"),
        ("data/link", tarfile.SYMTYPE, 0o777, 1000, "../../../etc/passwd"),
        ("data/fifo", tarfile.FIFOTYPE, 0o622, 5, ""),
        ("data/deep", tarfile.DIRTYPE, 0o700, 0, ""),
        ("data/deep/er", tarfile.DIRTYPE, 0o711, 0, ""),
        ("data/deep/er/again", tarfile.LNKTYPE, 0o4755, 7, "data/file"),
        ("data/deep/er/é\n", tarfile.REGTYPE, 0o600, 0, "x" * 100_000),
    )  # fmt: skip


FULL = ["again", "deep", "fifo", "file", "link"]


def run(engine: poc.Engine, image: str, script: str, **options: Any) -> str:
    result = engine.containers.run(image, ["sh", "-c", script], **{"remove": True, **ALONE, **options})
    assert result.exit_code == 0, result.stderr
    return str(result.output)


def names(engine: poc.Engine) -> list[str]:
    return [volume.name for volume in engine.volumes.list()]


# ── filled from the image ────────────────────────────────────────────────────────────────────────────────


def test_filled_with_all_that_the_image_has(engine: poc.Engine, full: str) -> None:
    layer = Path(engine.images.get(full).layers[0])
    os.setxattr(layer / "data" / "file", "user.note", b"kept")
    assert run(engine, full, "cat /data/file", volumes=["vol:/data"]) == "content"
    data = Path(engine.volumes.get("vol").mountpoint)

    def shape(top: Path) -> dict[str, tuple[int, int, int, int]]:
        found = {}
        for place in (top, *top.rglob("*")):
            entry = place.lstat()
            found[str(place.relative_to(top))] = (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink)
        return found

    assert shape(data) == shape(layer / "data")
    assert data.stat().st_mode & 0o7777 == 0o1750 and data.stat().st_uid == 1000
    assert (data / "file").samefile(data / "deep" / "er" / "again")
    assert os.readlink(data / "link") == "../../../etc/passwd"
    assert os.getxattr(data / "file", "user.note") == b"kept"
    assert (data / "deep" / "er" / "é\n").read_text() == "x" * 100_000
    assert (data / "file").stat().st_mtime == (layer / "data" / "file").stat().st_mtime
    assert sorted(os.listdir(data.parent)) == ["_data", "users", "volume.json"]


def test_filled_once_and_only_when_empty(engine: poc.Engine, full: str) -> None:
    assert run(engine, full, "rm -rf /data/deep; echo mine >/data/file; ls /data", volumes=["vol:/data"])
    assert run(engine, full, "cat /data/file", volumes=["vol:/data:ro"]) == "mine\n"
    assert "deep" not in run(engine, full, "ls /data", volumes=["vol:/data"]).split()
    assert run(engine, full, "ls /data", volumes=["none:/data:nocopy"]) == ""
    assert run(engine, full, "ls /data", mounts=["src=none2,dst=/data,volume-nocopy"]) == ""
    assert run(engine, full, "ls /data", volumes=["none:/data"]).split() == FULL, "it was empty still"
    assert run(engine, full, "ls /elsewhere", volumes=["else:/elsewhere"]) == ""
    assert run(engine, full, "ls /data", volumes=["/data"]).split() == FULL
    assert run(engine, full, "ls /data", mounts=["dst=/data"]).split() == FULL
    run(engine, full, "rm -rf /data/*", volumes=["vol:/data"])
    assert run(engine, full, "ls /data", volumes=["vol:/data"]).split() == FULL


def test_filled_from_all_layers(engine: poc.Engine, tmp_path: Path) -> None:
    """What an upper layer deletes or replaces is not what is copied."""
    lower, upper = tmp_path / "lower", tmp_path / "upper:,\\"
    for place, files in ((lower, ("deleted", "replaced", "below")), (upper, ("replaced", "above"))):
        (place / "data").mkdir(parents=True)
        for name in files:
            (place / "data" / name).write_text(place.name)
    os.mknod(upper / "data" / "deleted", 0o20000, os.makedev(0, 0))
    volume = engine.volumes.create("vol")
    volume.fill([str(lower), str(upper)], "/data")
    data = Path(volume.mountpoint)
    assert sorted(os.listdir(data)) == ["above", "below", "replaced"]
    assert (data / "replaced").read_text() == upper.name


def test_filled_from_an_image_that_was_committed(engine: poc.Engine, full: str) -> None:
    container = engine.containers.create(full, ["sh", "-c", "rm /data/file; echo more >/data/more"], **ALONE)
    container.start()
    container.wait(20)
    container.commit("committed")
    assert len(engine.images.get("committed").layers) > 1
    assert run(engine, "committed", "cat /data/more /data/again; echo; ls /data", volumes=["vol:/data"]).split() == [
        *("more", "content", "again", "deep", "fifo", "link", "more")
    ]


def test_a_large_hole_is_copied_as_one(engine: poc.Engine, full: str) -> None:
    layer = Path(engine.images.get(full).layers[0])
    with open(layer / "data" / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"in the middle")
    assert run(engine, full, "stat -c %s /data/sparse", volumes=["vol:/data"]) == f"{1 << 40}\n"
    with open(Path(engine.volumes.get("vol").mountpoint, "sparse"), "rb") as file:
        assert os.fstat(file.fileno()).st_blocks < 100
        file.seek(1 << 39)
        assert file.read(14) == b"in the middle\0"


def test_directories_nested_as_deep_as_can_be(engine: poc.Engine) -> None:
    """A container's own can be measured and removed; an image's are refused, and nothing is left of them."""
    script = "cd /v; i=0; while [ $i -lt 1200 ]; do mkdir d && cd d; i=$((i+1)); done; pwd | wc -c"
    assert int(shell(engine, script, volumes=["vol:/v"])) > 2400
    assert engine.volumes.get("vol").usage()["Size"] == 0
    layer = f"{engine.volumes.get('vol').mountpoint}"
    other = engine.volumes.create("other")
    with pytest.raises((PocError, OSError), match="fill volume other"):
        other.fill([layer], "/d")
    assert sorted(os.listdir(os.path.dirname(other.mountpoint))) == ["_data", "users", "volume.json"]
    assert os.listdir(other.mountpoint) == []
    assert engine.volumes.prune(all=True)["VolumesDeleted"] == ["other", "vol"]


def test_one_in_use_is_filled_as_it_is(engine: poc.Engine, full: str) -> None:
    """The directory stays the one that a running container has mounted."""
    reader = engine.containers.run(
        "busybox", ["sh", "-c", "until [ -e /v/file ]; do sleep 0.01; done; cat /v/file"],
        volumes=["vol:/v"], detach=True, **ALONE,
    )  # fmt: skip
    run(engine, full, "true", volumes=["vol:/data"])
    assert reader.wait(20) == 0
    assert list(reader.logs()) == [("stdout", b"content")]


@pytest.mark.parametrize("target", ["/etc", "../../../../../../etc", "/mnt/../etc"])
def test_a_link_at_the_destination_stays_in_the_image(
    engine: poc.Engine, image_tar: str, tmp_path: Path, target: str
) -> None:
    image = image_with(engine, image_tar, tmp_path, "linked", ("place", tarfile.SYMTYPE, 0o777, 0, target))
    script = "ls /etc; echo new >/place/new; grep -c ' /etc ' /proc/self/mountinfo"
    found = run(engine, image, script, volumes=["vol:/place"]).split()
    assert {"passwd", "group", "1"} <= set(found) and "shadow" not in found
    assert not os.path.exists("/etc/new")
    assert Path(engine.volumes.get("vol").mountpoint, "new").read_text() == "new\n"


def test_destinations_that_can_not_be(engine: poc.Engine, image_tar: str, tmp_path: Path) -> None:
    image = image_with(engine, image_tar, tmp_path, "looped", ("loop", tarfile.SYMTYPE, 0o777, 0, "loop"))
    for destination, reason in (
        ("/proc", "nothing may hide what the kernel tells in /proc"),
        ("/etc/passwd", "cannot mount volume over existing file"),
        ("/etc/passwd/below", "cannot mount volume over existing file"),
        ("/loop", "Too many levels of symbolic links"),
        ("/" + "a" * 100_000, "File name too long"),
        ("/" + "a/" * 50_000, "File name too long"),
    ):
        with pytest.raises((PocError, OSError)) as refused:
            run(engine, image, "true", volumes=[f"vol:{destination}"])
        assert reason in str(refused.value) and len(str(refused.value)) < 1000
    assert engine.containers.list(all=True) == []
    engine.volumes.get("vol").remove()


# ── what a container does with them ──────────────────────────────────────────────────────────────────────


def test_shared_and_kept(engine: poc.Engine) -> None:
    script = "echo here >/v/file; until [ -e /v/back ]; do sleep 0.01; done"
    writer = engine.containers.run("busybox", ["sh", "-c", script], volumes=["vol:/v"], detach=True, **ALONE)
    assert shell(engine, "until grep here /v/file; do sleep 0.01; done; touch /v/back", volumes=["vol:/v"])
    assert writer.wait(20) == 0
    writer.remove(v=True)
    assert names(engine) == ["vol"], "nobody's -v takes a named one"
    assert shell(engine, "cat /v/file", volumes=["vol:/v"]) == "here\n"


def test_anonymous_ones_go_with_their_container_where_it_says_so(cli: CommandLine, engine: poc.Engine) -> None:
    assert cli("run", "--rm", "--network=none", "-v", "/v", "-v", "kept:/k", "busybox", "touch", "/v/x").exit_code == 0
    assert names(engine) == ["kept"]
    for arguments, stays in ((("rm", "one"), True), (("rm", "-v", "one"), False), (("rm", "-fv", "one"), False)):
        assert cli("create", "--name", "one", "--network=none", "-v", "/v", "busybox").stderr == ""
        assert len(names(engine)) == 2
        assert cli(*arguments) == ("one\n", "", 0)
        assert (len(names(engine)) == 2) == stays
        engine.volumes.prune()
    first = engine.containers.create("busybox", ["true"], volumes=["/v"], **ALONE)
    second = engine.containers.create("busybox", ["true"], volumes_from=[first.id], **ALONE)
    first.remove(v=True)
    assert len(names(engine)) == 2, "the second has it still"
    second.remove(v=True)
    assert names(engine) == ["kept"]
    with pytest.raises(PocError):
        engine.containers.run("busybox", ["/no/such"], volumes=["/v"], **ALONE)
    assert names(engine) == ["kept"], "it never was"


def test_those_of_the_image(engine: poc.Engine, image_tar: str, tmp_path: Path) -> None:
    member = ("data/file", tarfile.REGTYPE, 0o644, 0, "content")
    image = image_with(engine, image_tar, tmp_path, "declared", member, Volumes={"/data": {}, "/other": {}})
    container = engine.containers.create(image, ["sh", "-c", "cat /data/file; rm /data/file"], **ALONE)
    assert sorted(entry["Destination"] for entry in container.attrs["Mounts"]) == ["/data", "/other"]
    assert container.attrs["Config"]["Volumes"] == {"/data": {}, "/other": {}}
    container.start()
    assert container.wait(20) == 0 and list(container.logs()) == [("stdout", b"content")]
    assert os.listdir(engine.paths.container(container.id, "upper")) != ["data"], "it went to the volume"
    container.start()
    assert container.wait(20) == 1, "at the second start it is the same"
    container.remove(v=True)
    assert names(engine) == []


def test_subpath(engine: poc.Engine) -> None:
    shell(
        engine,
        "mkdir -p /v/a/b; echo deep >/v/a/b/file; ln -s ../../../../etc /v/out; ln -s a /v/in",
        volumes=["vol:/v"],
    )
    sub = "src=vol,dst=/s,volume-subpath="
    for runtime in ("poc", *(["runc"] if os.path.exists("/usr/sbin/runc") else [])):
        assert shell(engine, "cat /s/file; touch /s/new", mounts=[f"{sub}a/b"], runtime=runtime) == "deep\n"
        assert shell(engine, "cat /s/b/file", mounts=[f"{sub}in,readonly"], runtime=runtime) == "deep\n"
        both = [f"{sub}a/b", "src=vol,dst=/file,volume-subpath=a/b/file"]
        assert shell(engine, "cat /file /s/file", mounts=both, runtime=runtime) == "deep\ndeep\n"
        for path in ("out", "nosuch"):
            with pytest.raises((PocError, OSError), match=f"subpath {path}: No such file"):
                shell(engine, "ls /s", mounts=[f"{sub}{path}"], runtime=runtime)
    assert Path(engine.volumes.get("vol").mountpoint, "a", "b", "new").exists()


def test_driver_options(engine: poc.Engine, full: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    volume = engine.volumes.create("bound", driver_opts={"type": "none", "o": "bind", "device": str(here)})
    assert run(engine, full, "ls /data", volumes=["bound:/data"]).split() == FULL
    assert sorted(os.listdir(here)) == FULL and os.listdir(volume.mountpoint) == []
    assert volume.attrs["Options"] == {"type": "none", "o": "bind", "device": str(here)}
    volume.remove()
    assert sorted(os.listdir(here)) == FULL, "what the host has stays"

    options = "type=volume,src=memory,dst=/data,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=1m"
    script = "df -k /data | tail -1 | awk '{print $1, $2}'; ls /data"
    assert run(engine, full, script, mounts=[options]).split() == ["tmpfs", "1024", *FULL]
    holder = engine.containers.run("busybox", ["sleep", "100"], volumes=["memory:/v"], detach=True, **ALONE)
    with pytest.raises(Conflict, match=f"in use by {holder.short_id}: poc can't share it"):
        shell(engine, "true", volumes=["memory:/v"])
    holder.remove(force=True)
    with pytest.raises(Conflict, match="exists with other options"):
        engine.volumes.create("memory", driver_opts={"type": "tmpfs", "device": "tmpfs"})
    with pytest.raises(Unsupported, match="there is only local"):
        engine.volumes.create("other", driver="rexray")
    gone = engine.volumes.create("gone", driver_opts={"type": "none", "o": "bind", "device": f"{tmp_path}/gone"})
    with pytest.raises(InvalidArgument, match="is no directory"):
        shell(engine, "true", volumes=["gone:/v"])
    gone.remove()


@pytest.mark.parametrize("runtime", [pytest.param("runc", marks=needs("program:runc"))])
def test_under_another_runtime(engine: poc.Engine, full: str, tmp_path: Path, runtime: str) -> None:
    (tmp_path / "file").write_text("host")
    script = "cat /data/file /bound/file; touch /bound/new 2>/dev/null || echo .; stat -c %a /t; echo kept >/data/new"
    mounts = ["type=tmpfs,dst=/t,tmpfs-mode=700", f"type=bind,src={tmp_path},dst=/bound,ro"]
    assert run(engine, full, script, runtime=runtime, volumes=["vol:/data", "/anonymous"], mounts=mounts) == (
        "contenthost.\n700\n"
    )
    assert run(engine, full, "cat /data/new", volumes=["vol:/data"]) == "kept\n"
    assert names(engine) == ["vol"]


# ── the verbs ────────────────────────────────────────────────────────────────────────────────────────────


def test_create_ls_inspect_rm(cli: CommandLine, engine: poc.Engine) -> None:
    assert cli("volume", "create", "--label", "a=b", "--label", "c", "one") == ("one\n", "", 0)
    assert cli("volume", "create", "one") == ("one\n", "", 0), "one that is there is content"
    anonymous = cli("volume", "create").stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", anonymous)
    heading, *lines = cli("volume", "ls").stdout.splitlines()
    assert heading.split("   ")[-1].strip() == "VOLUME NAME" and heading.startswith("DRIVER")
    assert [line.split() for line in lines] == [["local", anonymous], ["local", "one"]]
    assert cli("volume", "ls", "-q").stdout.split() == [anonymous, "one"]
    for filters, found in (
        (("label=a",), ["one"]), (("label=a=x",), []), (("label=a=b", "label=c"), ["one"]), (("name=on",), ["one"]),
        (("driver=local",), [anonymous, "one"]), (("driver=x",), []), (("dangling=false",), []),
        (("dangling=true", "name=one"), ["one"]),
    ):  # fmt: skip
        arguments = [word for text in filters for word in ("--filter", text)]
        assert cli("volume", "ls", "-q", *arguments).stdout.split() == found, filters
    assert json.loads(cli("volume", "ls", "-f", "name=one", "--format", "json").stdout)["Labels"] == "a=b,c="
    assert cli("volume", "ls", "--format", "{{.Name}} {{.Driver}}").stdout.splitlines()[1] == "one local"

    [attrs] = json.loads(cli("volume", "inspect", "one").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", attrs.pop("CreatedAt"))
    assert attrs == {
        **{"Driver": "local", "Labels": {"a": "b", "c": ""}, "Mountpoint": f"{cli.root}/volumes/one/_data"},
        **{"Name": "one", "Options": None, "Scope": "local"},
    }
    assert os.stat(attrs["Mountpoint"]).st_mode & 0o7777 == 0o755
    assert os.stat(f"{cli.root}/volumes").st_mode & 0o7777 == 0o700, "setuid programs in it are for nobody here"
    assert cli("volume", "inspect", "one", "nosuch")[1:] == ("Error: no such volume: nosuch\n", 1)
    assert cli("volume", "rm", "one", anonymous) == (f"one\n{anonymous}\n", "", 0)
    assert cli("volume", "rm", "one") == ("", "Error: no such volume: one\n", 1)
    assert cli("volume", "rm", "-f", "one") == ("one\n", "", 0)
    assert names(engine) == []


def test_one_in_use_is_not_removed(cli: CommandLine, engine: poc.Engine) -> None:
    container = engine.containers.create("busybox", ["true"], volumes=["vol:/v"], **ALONE)
    for force in ((), ("-f",)):
        result = cli("volume", "rm", *force, "vol")
        assert result == ("", f"Error: remove vol: volume is in use - [{container.id}]\n", 1)
    assert cli("volume", "ls", "-q", "-f", "dangling=true").stdout == ""
    for place in ("vol", "/v"):
        assert cli("ps", "-aq", "--filter", f"volume={place}").stdout == f"{container.short_id}\n"
    assert cli("ps", "-aq", "--filter", "volume=other").stdout == ""
    assert engine.volumes.prune(all=True)["VolumesDeleted"] == []
    assert engine.volumes.get("vol").usage() == {"Size": 0, "RefCount": 1}
    container.remove()
    assert cli("volume", "rm", "vol") == ("vol\n", "", 0)


def test_prune(cli: CommandLine, engine: poc.Engine) -> None:
    for name, labels in (("named", {}), ("labelled", {"keep": "yes"})):
        Path(engine.volumes.create(name, labels=labels).mountpoint, "file").write_bytes(b"x" * 1000)
    anonymous = engine.volumes.create()
    Path(anonymous.mountpoint, "file").write_bytes(b"x" * 500)
    os.link(f"{anonymous.mountpoint}/file", f"{anonymous.mountpoint}/again")
    assert cli("volume", "prune", input="n\n").stdout == ""
    assert "Are you sure you want to continue? [y/N]" in cli("volume", "prune").stderr
    assert cli("volume", "prune", "-f") == (
        f"Deleted Volumes:\n{anonymous.name}\n\nTotal reclaimed space: 500B\n", "", 0,
    )  # fmt: skip
    assert cli("volume", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
    assert cli("volume", "prune", "-af", "--filter", "label!=keep").stdout.split()[2] == "named"
    assert names(engine) == ["labelled"]
    assert engine.volumes.prune(filters={"all": True, "label": "keep=yes"}) == {
        **{"VolumesDeleted": ["labelled"], "SpaceReclaimed": 1000}
    }
    assert cli("volume", "prune", "-f", "--filter", "colour=red").exit_code == 1


def test_hostile_names(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    (tmp_path / "volume.json").write_text('{"name": "x"}')
    for name in ("../x", "..", "a", "-a", "a b", "a\nb", "é", "a" * 256, "x" * 100_000, f"../../{tmp_path}"):
        with pytest.raises(InvalidArgument):
            engine.volumes.create(name)
        with pytest.raises(VolumeNotFound) as missing:
            engine.volumes.get(name)
        assert len(str(missing.value)) < 300
    for verb in ("inspect", "rm"):
        assert cli("volume", verb, "--", "../images").exit_code == 1
    assert engine.volumes.create("a" * 255).name == "a" * 255
    assert names(engine) == ["a" * 255]


def test_events(engine: poc.Engine) -> None:
    engine.volumes.create("vol")
    since = time.time() - 60
    id = engine.containers.run("busybox", ["true"], volumes=["vol:/v:ro"], detach=True, **ALONE).id
    engine.containers.get(id).wait(20)
    engine.containers.get(id).remove()
    engine.volumes.get("vol").remove()
    found = [event for event in engine.events(since, follow=False) if event["Type"] == "volume"]
    mine = [event for event in found if event["Actor"]["ID"] == "vol"]
    assert [event["Action"] for event in mine][-4:] == ["create", "mount", "unmount", "destroy"]
    assert mine[-3]["Actor"]["Attributes"] == {
        **{"container": id, "destination": "/v", "driver": "local", "propagation": "", "read/write": "false"}
    }


def test_the_forms_of_a_real_caller(cli: CommandLine, tmp_path: Path) -> None:
    """Green Metrics Tool's, as it types them."""
    (tmp_path / "file").write_text("here")
    workspace = f"type=bind,source={tmp_path},target=/t,ro"
    script = "touch /workspace/x && cat /t/file && touch /t/new 2>/dev/null || echo -n ' ro'"
    assert cli(
        "run", "--rm", "--network", "none", "--mount", "type=volume,dst=/workspace", "--mount", workspace, "busybox",
        "sh", "-c", script,
    ) == ("here ro", "", 0)  # fmt: skip
    assert cli("volume", "ls", "-q").stdout == ""
    started = cli(
        "run", "-it", "-d", "--name", "n1", "--network", "none",
        "--mount", f"type=bind,source={tmp_path},target=/a,readonly", "-v", f"{tmp_path}:/b", "-v", "vol:/c",
        "busybox", "sh", "-c", "cp /a/file /b/copy; touch /a/new",
    )  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}\n", started.stdout) and started[1:] == ("", 0)
    assert cli("wait", "n1").stdout == "1\n" and (tmp_path / "copy").read_text() == "here"
    mountpoint = cli("volume", "inspect", "vol", "--format={{.Mountpoint}}")
    assert mountpoint == (f"{cli.root}/volumes/vol/_data\n", "", 0)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────


def test_many_at_once_fill_once(engine: poc.Engine, full: str) -> None:
    outputs: list[str] = []
    script = "ls /data; until [ $(ls /data | grep -c ^by) = 6 ]; do touch /data/by$$$1; sleep 0.02; done"

    def one(number: int) -> None:
        command = ["sh", "-c", script, "sh", str(number)]
        outputs.append(engine.containers.run(full, command, remove=True, volumes=["vol:/data"], **ALONE).output)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outputs) == 6
    for output in outputs:
        assert set(FULL) <= set(output.split()), "nobody has seen it half filled"


def check_whole(engine: poc.Engine, full: str) -> None:
    """After a command was killed: the next finds all of it, and nothing of the killed one stays."""
    for volume in engine.volumes.list():
        assert volume.users() == []
    assert engine.containers.list(all=True) == []
    assert run(engine, full, "find /data | wc -l; cat /data/deep/er/é* | wc -c", volumes=["vol:/data"]).split() == [
        *("10", "100000")
    ]
    [volume] = engine.volumes.list()
    assert sorted(os.listdir(os.path.dirname(volume.mountpoint))) == ["_data", "users", "volume.json"]
    volume.remove()
    assert listed(engine.paths.volumes) == []


def test_killed_at_each_step_of_filling(engine: poc.Engine, full: str) -> None:
    """Each system call of the command that makes container and volume, one after the other, for a while."""
    run(engine, full, "true")

    def make() -> None:
        engine.containers.create(full, ["true"], volumes=["vol:/data", "/data/anonymous"], **ALONE)

    step, reached = 0, True
    while reached:
        reached = killed_at(step, COMMAND, make).reached
        if reached:
            check_killed(engine, full)
        step += 3 if step % 2 else 4  # all of them would take minutes; odd and even ones both have their turn
    assert step > 150
    for container in engine.containers.list(all=True):
        container.remove(v=True)
    check_whole(engine, full)


def check_killed(engine: poc.Engine, full: str) -> None:
    users = [id for volume in engine.volumes.list() for id in volume.users()]
    assert all(engine.paths.has(id) for id in users), "whoever removes a volume next is not held up by a ghost"
    for container in engine.containers.list(all=True):
        container.remove(v=True)  # it was killed right after it was done
    assert set(names(engine)) <= {"vol"}, "no anonymous one stays"
    if names(engine):
        volume = engine.volumes.get("vol")
        assert volume.users() == []
        layers = engine.images.get(full).layers
        with engine_volumes.take(engine.paths, "vol"):
            volume.fill(layers, "/data")
        assert sorted(os.listdir(volume.mountpoint)) == FULL
        assert sorted(os.listdir(os.path.dirname(volume.mountpoint))) == ["_data", "users", "volume.json"]
        volume.remove()
    assert listed(engine.paths.volumes) == []


def test_killed_at_each_step_of_removing(engine: poc.Engine, full: str) -> None:
    step, reached = 0, True
    while reached:
        container = engine.containers.create("busybox", ["true"], volumes=["/v"], **ALONE)
        reached = killed_at(step, COMMAND, lambda: container.remove(v=True)).reached  # noqa: B023
        left = engine.containers.list(all=True)
        assert len(names(engine)) == len(left), f"step {step}: the volume goes where its container goes"
        for container in left:
            container.remove(v=True)
        assert names(engine) == [] and listed(engine.paths.volumes) == []
        step += 2
    assert step > 20


def test_a_full_disk(run_directory: str, image_tar: str, own_network: None, tmp_path: Path) -> None:
    """What does not fit is not there half; and with room it is there."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", str(place)], check=True)
    try:
        engine = poc.Engine(str(place))
        data = ("data/big", tarfile.REGTYPE, 0o644, 0, "x" * (4 << 20))
        image = image_with(engine, image_tar, tmp_path, "big", ("data/a", tarfile.REGTYPE, 0o644, 0, "a"), data)
        free = os.statvfs(place)
        filler = place / "filler"
        filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - (3 << 20)))
        with pytest.raises(OSError, match="fill volume vol from /data of the image: No space left on device"):
            engine.containers.create(image, ["true"], volumes=["vol:/data", "/other"], **ALONE)
        assert engine.containers.list(all=True) == []
        assert names(engine) == ["vol"] and os.listdir(engine.volumes.get("vol").mountpoint) == []
        filler.unlink()
        assert run(engine, image, "wc -c /data/*", volumes=["vol:/data"]).split()[::2] == ["1", "4194304", "4194305"]
        engine.prune(images=True, volumes=True)
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
