"""-v, --mount, --tmpfs and --volumes-from: what is read from them, what is refused, and what the container then has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs

from poc._libc import MS_PRIVATE, MS_REC, mount
from poc.engine import mounts
from poc.engine.config import ContainerConfig
from poc.errors import ContainerNotFound, InvalidArgument, PocError, Unsupported
from poc.namespaces import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import CommandLine

    import poc

real = needs("root", "overlay", "program:busybox")
ALONE: dict[str, Any] = {"network": "none"}


def volume(entry: str) -> dict[str, Any]:
    [wish] = mounts.parse_volumes([entry])
    return wish


def of(text: str) -> dict[str, Any]:
    [wish] = mounts.parse_mounts([text])
    return wish


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────


def test_v_in_all_of_its_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {"readonly": False, "propagation": "", "nocopy": False, "mode": ""}
    assert volume("/a/./b//c/../d:/x/../y/") == {**plain, "source": "/a/b/d", "destination": "/y"}
    assert volume("./a:/x")["source"] == f"{tmp_path}/a"
    assert volume("../a:/x")["source"] == f"{tmp_path.parent}/a"
    assert volume(".:/x")["source"] == str(tmp_path)
    assert volume("/:/host")["source"] == "/"
    assert volume("name:/x") == {**plain, "source": "name", "destination": "/x"}
    assert volume("/x") == {**plain, "source": "", "destination": "/x"}
    assert volume("name:/x:ro,nocopy,z") == {
        **{"source": "name", "destination": "/x", "readonly": True, "propagation": "", "nocopy": True},
        "mode": "ro,nocopy,z",
    }
    for word in mounts.PROPAGATIONS:
        assert volume(f"/a:/x:{word}")["propagation"] == word
    for word in ("consistent", "cached", "delegated", "z", "Z", "rw"):
        assert volume(f"/a:/x:{word}")["readonly"] is False
    assert len(mounts.parse_volumes(["/x", "/x", "/y"])) == 2


def test_v_as_docker_py_has_it() -> None:
    found = mounts.parse_volumes(
        {
            "/a": {"bind": "/x", "mode": "ro"},
            "name": {"bind": "/y", "mode": "rw"},
            "/b": {"bind": "/z", "ro": True, "propagation": "rslave"},
            "/c:d": "/w",
        }
    )
    assert [(wish["source"], wish["destination"], wish["readonly"], wish["propagation"]) for wish in found] == [
        ("/a", "/x", True, ""),
        ("name", "/y", False, ""),
        ("/b", "/z", True, "rslave"),
        ("/c:d", "/w", False, ""),
    ]


def test_mount_in_all_of_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bind = {"Type": "bind", "Source": "/a", "Target": "/x"}
    for source in ("src", "source"):
        for target in ("dst", "target", "destination"):
            assert of(f"type=bind,{source}=/a,{target}=/x") == bind
    for word in ("readonly", "ro", "ro=true", "readonly=1", "RO=T"):
        assert of(f"type=bind,src=/a,dst=/x,{word}") == {**bind, "ReadOnly": True}
    assert of("type=bind,src=/a,dst=/x,readonly=false")["ReadOnly"] is False
    assert of("type=bind,src=./a,dst=/x")["Source"] == f"{tmp_path}/a"
    assert of("type=bind,src=/a,dst=/x,bind-propagation=rshared")["BindOptions"] == {"Propagation": "rshared"}
    assert of("type=bind,src=/a,dst=/x,bind-nonrecursive")["BindOptions"] == {"NonRecursive": True}
    assert of("type=bind,src=/a,dst=/x,bind-recursive=disabled")["BindOptions"] == {"NonRecursive": True}
    assert of("type=bind,src=/a,dst=/x,consistency=cached")["Consistency"] == "cached"
    assert of("dst=/x") == {"Type": "volume", "Target": "/x"}
    assert of("type=VOLUME,dst=/x,volume-nocopy,volume-label=a=b=c,volume-label=d,volume-driver=local") == {
        "Type": "volume",
        "Target": "/x",
        "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b=c", "d": ""}, "DriverConfig": {"Name": "local"}},
    }
    options = of('src=v1,dst=/x,volume-opt=type=none,"volume-opt=o=bind,ro",volume-opt=device=/a')["VolumeOptions"]
    assert options == {"DriverConfig": {"Options": {"type": "none", "o": "bind,ro", "device": "/a"}}}
    tmpfs = of("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770")
    assert tmpfs == {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}


def test_mount_in_quotes() -> None:
    assert of('type=bind,"source=/a,b",target=/x')["Source"] == "/a,b"
    assert of('type=bind,"source=/a:b",target=/x')["Source"] == "/a:b"
    assert of('type=bind,"source=/a""b",target=/x')["Source"] == '/a"b'
    assert of('type=bind,"source=/a\nb",target=/x')["Source"] == "/a\nb"
    assert of("type=bind,source=/a\nb,target=/x")["Source"] == "/a\nb"


def test_mount_as_docker_py_has_it() -> None:
    given = {
        "Type": "volume",
        "Source": None,
        "Target": "/x/../y",
        "VolumeOptions": {"NoCopy": True},
    }
    assert mounts.parse_mounts([given]) == [{"Type": "volume", "Target": "/y", "VolumeOptions": {"NoCopy": True}}]
    assert given["Target"] == "/x/../y", "the caller's stays as it was"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"volumes": ["/a:/x:ro,rw"]}, "invalid mode: 'ro,rw'"),
        ({"volumes": ["/a:/x:shared,slave"]}, "invalid mode"),
        ({"volumes": ["/a:/x:"]}, "invalid volume specification"),
        ({"volumes": ["/x:ro"]}, "an anonymous volume has no options"),
        ({"volumes": ["/a:/x:nocopy"]}, "nocopy is for volumes"),
        ({"volumes": ["name:/x:rshared"]}, "rshared is for directories of the host"),
        ({"volumes": ["a:/x"]}, "too short"),
        ({"volumes": ["-a:/x"]}, "includes invalid characters"),
        ({"volumes": ["a/b:/x"]}, "includes invalid characters"),
        ({"volumes": [".hidden:/x"]}, "includes invalid characters"),
        ({"volumes": ["a\nb:/x"]}, "includes invalid characters"),
        ({"volumes": ["a" * 256 + ":/x"]}, "includes invalid characters"),
        ({"volumes": ["a" * 100_000 + ":/x"]}, "includes invalid characters"),
        ({"volumes": {"/a": {"target": "/x"}}}, "the keys of its value are bind"),
        ({"volumes": {"/a": {"bind": "/x", "ro": True, "mode": "rw"}}}, "exclude each other"),
        ({"mounts": ["type=bind,src=/a"]}, "target is required"),
        ({"mounts": ["type=bind,dst=/x"]}, "field Source must not be empty"),
        ({"mounts": ["type=bind,src=a,dst=/x"]}, "must be absolute"),
        ({"mounts": ["type=bind,src=/a,dst=x"]}, "must be absolute"),
        ({"mounts": ["type=bind,src=/a,dst=/"]}, "must be absolute, and not /"),
        ({"mounts": ["type=floppy,dst=/x"]}, "unknown type 'floppy'"),
        ({"mounts": ["dst=/x,colour=red"]}, "unexpected key 'colour'"),
        ({"mounts": ["dst"]}, "must be a key=value pair"),
        ({"mounts": [""]}, "unexpected key ''"),
        ({"mounts": ['dst=/x,"a']}, "unexpected end of data"),
        ({"mounts": ["dst=/x,ro=perhaps"]}, "invalid value for ro: 'perhaps'"),
        ({"mounts": ["dst=/x,ro"]}, "must not set ReadOnly mode when using anonymous volumes"),
        ({"mounts": ["dst=/x,volume-subpath=a"]}, "must not set Subpath"),
        ({"mounts": ["src=v1,dst=/x,volume-subpath=../a"]}, "must be a relative path"),
        ({"mounts": ["src=v1,dst=/x,volume-subpath=/a"]}, "must be a relative path"),
        ({"mounts": ["src=a,dst=/x"]}, "too short"),
        ({"mounts": ["dst=/x,volume-driver=nfs"]}, "there is only local"),
        ({"mounts": ["dst=/x,volume-opt=type=nfs,volume-opt=device=:/a"]}, "poc mounts tmpfs, and directories"),
        ({"mounts": ["dst=/x,volume-opt=type=tmpfs"]}, "missing required volume option: 'device'"),
        ({"mounts": ["dst=/x,volume-opt=size=1g"]}, "can't limit a volume"),
        ({"mounts": ["dst=/x,volume-opt=colour=red"]}, "invalid volume option: 'colour'"),
        ({"mounts": ["type=bind,src=/a,dst=/x,volume-nocopy"]}, "cannot mix 'volume-*' options with mount type 'bind'"),
        ({"mounts": ["type=tmpfs,dst=/x,bind-propagation=shared"]}, "cannot mix 'bind-*'"),
        ({"mounts": ["dst=/x,tmpfs-size=1m"]}, "cannot mix 'tmpfs-*'"),
        ({"mounts": ["type=tmpfs,src=a,dst=/x"]}, "Source must not be specified"),
        ({"mounts": ["type=tmpfs,dst=/x,tmpfs-size=much"]}, "invalid value for tmpfs-size"),
        ({"mounts": ["type=tmpfs,dst=/x,tmpfs-mode=9"]}, "invalid value for tmpfs-mode"),
        ({"mounts": ["type=bind,src=/a,dst=/x,bind-propagation=loud"]}, "invalid value for bind-propagation"),
        ({"mounts": ["type=bind,src=/a,dst=/x,bind-recursive=writable"]}, "requires 'readonly'"),
        ({"mounts": ["type=bind,src=/a,dst=/x,bind-recursive=readonly"]}, "requires 'readonly'"),
        ({"mounts": ["type=bind,src=/a,dst=/x,ro,bind-recursive=readonly"]}, "requires 'bind-propagation=rprivate'"),
        ({"mounts": ["type=bind,src=/a,dst=/x,bind-recursive=some"]}, "invalid value for bind-recursive"),
        ({"mounts": [{"Type": "bind", "target": "/x"}]}, "unknown key 'target'"),
        ({"mounts": ["dst=/x", "type=tmpfs,dst=/y/../x"]}, "duplicate mount point: /x"),
        ({"mounts": ["dst=/x"], "volumes": ["/a:/x"]}, "duplicate mount point: /x"),
        ({"mounts": ["dst=/x"], "tmpfs": ["/x"]}, "duplicate mount point: /x"),
        ({"volumes_from": [""]}, "is not CONTAINER"),
        ({"volumes_from": ["a:wo"]}, "is not CONTAINER"),
        ({"volumes_from": ["a:"]}, "is not CONTAINER"),
        ({"volumes_from": ["a:shared"]}, "is not CONTAINER"),
    ],
    ids=lambda value: repr(value)[:70],
)
def test_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((InvalidArgument, Unsupported)) as refused:
        ContainerConfig(**options)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 400


# ── what becomes of it ───────────────────────────────────────────────────────────────────────────────────


def plan(image_volumes: tuple[str, ...] = (), inherited: tuple[Any, ...] = (), **wishes: Any) -> dict[str, Any]:
    points = mounts.plan(ContainerConfig(**wishes).values, image_volumes, inherited)
    return {point["destination"]: (point["type"], point["source"] or point["name"]) for point in points}


def test_who_has_a_place_when_several_want_it() -> None:
    image = ("/image", "/bound", "/named", "/tmp")
    wishes = {"volumes": ["/a:/bound", "/bound", "/free"], "mounts": ["src=name,dst=/named"], "tmpfs": ["/tmp", "/t"]}
    inherited = [{**mounts.POINT, "source": f"/old{place}", "destination": place} for place in ("/bound", "/own", "/t")]
    assert plan(image, tuple(inherited), **wishes) == {
        "/own": ("bind", "/old/own"),
        "/bound": ("bind", "/a"),
        "/named": ("volume", "name"),
        "/image": ("volume", ""),
        "/free": ("volume", ""),
    }


def options_of(**wishes: Any) -> list[str]:
    config = ContainerConfig(**wishes)
    [entry] = mounts.oci(mounts.plan(config.values, (), ()), config.tmpfs)
    return entry["options"]


def test_oci_options() -> None:
    assert options_of(volumes=["/a:/x"]) == ["rbind", "rprivate", "rw"]
    assert options_of(volumes=["/a:/x:ro,rslave"]) == ["rbind", "rslave", "rro"]
    assert options_of(mounts=["type=bind,src=/a,dst=/x,ro,bind-recursive=writable"]) == ["rbind", "rprivate", "ro"]
    assert options_of(mounts=["type=bind,src=/a,dst=/x,ro,bind-nonrecursive"]) == ["bind", "rprivate", "ro"]
    assert options_of(volumes=["name:/x:ro"]) == ["rbind", "rprivate", "rro"]
    assert options_of(mounts=["type=tmpfs,dst=/x,ro,tmpfs-size=2m,tmpfs-mode=700"]) == [
        *("noexec", "nosuid", "nodev", "size=2097152", "mode=700", "ro")
    ]


# ── in a container ───────────────────────────────────────────────────────────────────────────────────────


def shell(engine: poc.Engine, script: str, **options: Any) -> str:
    result = engine.containers.run("busybox", ["sh", "-c", script], remove=True, **{**ALONE, **options})
    assert result.exit_code == 0, result.stderr
    return str(result.output)


@real
def test_a_missing_source_is_made_by_v_and_refused_by_mount(engine: poc.Engine, tmp_path: Path) -> None:
    source = tmp_path / "new" / "deep"
    with pytest.raises(InvalidArgument, match="bind source path does not exist"):
        shell(engine, "true", mounts=[f"type=bind,src={source},dst=/x"])
    assert not source.parent.exists()
    shell(engine, "echo made >/x/file", volumes=[f"{source}:/x"])
    assert (source / "file").read_text() == "made\n"
    assert shell(engine, "cat /x", volumes=[f"{source}/file:/x"]) == "made\n"

    container = engine.containers.create("busybox", ["touch", "/x/again"], volumes=[f"{source}:/x"], **ALONE)
    (source / "file").unlink()
    source.rmdir()
    container.start()
    assert container.wait(20) == 0 and (source / "again").exists(), "it is made at each start"


@real
def test_a_relative_source_is_the_callers(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    command = [*cli.command, "run", "--rm", "--network", "none", "-v", "./file:/x"]
    done = subprocess.run([*command, "busybox", "cat", "/x"], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"here", b"")


@real
def test_hostile_sources(engine: poc.Engine, tmp_path: Path) -> None:
    for name in ("a,b", "c:d", "e\nf", 'g"h', "i j", "ü", "$(x)", "\udcff"):
        place = tmp_path / name
        place.mkdir()
        (place / "file").write_text("content")
        quoted = name.replace('"', '""')
        text = f'type=bind,"source={tmp_path}/{quoted}",target=/x'
        assert shell(engine, "cat /x/file", mounts=[text]) == "content"
    for source in ("/" + "a" * 100_000, "/" + "a/" * 50_000):
        with pytest.raises((PocError, OSError)) as refused:
            shell(engine, "true", volumes=[f"{source}:/x"])
        assert "File name too long" in str(refused.value) and len(str(refused.value)) < 1000


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "below", str(tree / "below")], check=True)
    (tree / "below" / "file").touch()
    yield tree
    subprocess.run(["umount", str(tree / "below")], check=True)


@real
def test_read_only_means_all_below_unless_said_otherwise(engine: poc.Engine, tree: Path) -> None:
    def writable(mount: str) -> tuple[list[str], list[str]]:
        script = "for d in /x /x/below; do touch $d/new 2>/dev/null && echo $d; done; echo --; ls /x/below"
        there, _, files = shell(engine, script, mounts=[f"type=bind,src={tree},dst=/x{mount}"]).partition("--\n")
        return there.split(), files.split()

    for option in (",ro", ",ro,bind-propagation=rprivate,bind-recursive=readonly"):
        assert writable(option) == ([], ["file"])
    assert writable(",ro,bind-recursive=writable") == (["/x/below"], ["file", "new"])
    assert writable(",ro,bind-nonrecursive")[1] == []
    assert writable(",bind-recursive=disabled")[0] == ["/x", "/x/below"]
    (tree / "below" / "new").unlink()
    assert shell(engine, "touch /x/below/new 2>&1 || echo refused", volumes=[f"{tree}:/x:ro"]).endswith("refused\n")


@real
def test_tmpfs(engine: poc.Engine) -> None:
    script = "stat -c %a /x; df -k /x | tail -1 | awk '{print $2}'; touch /x/a && echo written; true"
    mount = "type=tmpfs,dst=/x,tmpfs-size=2m,tmpfs-mode=1750"
    assert shell(engine, script, mounts=[mount]).split() == ["1750", "2048", "written"]
    assert shell(engine, script + " 2>/dev/null", mounts=[mount + ",ro"]).split() == ["1750", "2048"]
    cannot = "cp /bin/busybox /x/busybox && /x/busybox true && echo ran; true"
    assert shell(engine, cannot, tmpfs=["/x:size=8m"]) == ""
    assert shell(engine, cannot, tmpfs=["/x:exec,size=8m"]) == "ran\n"


def in_mount_namespace(work: Callable[[], None]) -> None:
    """Do it where mounts are nobody else's. Fails with what it prints."""
    pid = os.fork()
    if pid == 0:
        try:
            leave(["mount"])
            mount(None, "/", None, MS_PRIVATE | MS_REC)
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


SHARED = "mount -t tmpfs host {0} && mount --make-{1} {0}"


@real
@pytest.mark.parametrize("runtime", ["poc", pytest.param("runc", marks=needs("program:runc"))])
@pytest.mark.parametrize(
    ("option", "from_host", "from_container"),
    [("rprivate", False, False), ("rslave", True, False), ("rshared", True, True), ("shared", True, True)],
)
def test_propagation(
    engine: poc.Engine, tmp_path: Path, option: str, from_host: bool, from_container: bool, runtime: str
) -> None:
    """Mounts made later: by the host below the source, and by the container below the destination."""
    place = tmp_path / "shared"
    place.mkdir()
    wait = "until [ -e /x/go ]; do sleep 0.01; done"
    script = f"mkdir /x/inner; mount -t tmpfs inner /x/inner && echo ready; {wait}; ls /x/outer"

    def work() -> None:
        subprocess.run(SHARED.format(place, "shared"), shell=True, check=True)
        (place / "outer").mkdir()
        container = engine.containers.run(
            *("busybox", ["sh", "-c", script]),
            volumes=[f"{place}:/x:{option}"], privileged=True, detach=True, runtime=runtime, **ALONE,
        )  # fmt: skip
        assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
        mountinfo = Path("/proc/self/mountinfo").read_text()
        assert (f"{place}/inner " in mountinfo) == from_container
        assert engine.paths.data not in mountinfo.replace(str(place), ""), "nothing else came out"
        subprocess.run(["mount", "-t", "tmpfs", "outer", str(place / "outer")], check=True)
        (place / "outer" / "seen").touch()
        (place / "go").touch()
        assert container.wait(20) == 0
        assert (b"seen\n" in [data for _, data in container.logs()]) == from_host
        [shown] = container.attrs["Mounts"]
        assert shown["Propagation"] == option and shown["Mode"] == option
        container.remove()

    in_mount_namespace(work)


@real
def test_propagation_takes_a_shared_mount(engine: poc.Engine, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()

    def work() -> None:
        subprocess.run(SHARED.format(place, "private"), shell=True, check=True)
        for option in ("rshared", "rslave"):
            with pytest.raises(PocError, match=f"path {place} is mounted on {place} but it is not a shared"):
                shell(engine, "true", volumes=[f"{place}:/x:{option}"])

    in_mount_namespace(work)


@real
def test_volumes_from(engine: poc.Engine, tmp_path: Path) -> None:
    origin = engine.containers.create(
        *("busybox", ["true"]), name="origin", volumes=[f"{tmp_path}:/bound:ro", "/anonymous", "shared:/named"], **ALONE
    )
    script = "for d in /bound /anonymous /named; do touch $d/$1 2>/dev/null && echo $d; done; true"
    run: dict[str, Any] = {"mounts": ["type=tmpfs,dst=/own"], **ALONE}
    for mode, written in (("", "/anonymous\n/named\n"), (":rw", "/anonymous\n/named\n"), (":ro", "")):
        command = ["sh", "-c", script, "sh", f"file{mode[1:]}"]
        done = engine.containers.run("busybox", command, remove=True, volumes_from=[f"origin{mode}"], **run)
        assert done.output == written
    assert shell(engine, "ls /named /anonymous", volumes_from=["origin"]).split() == [
        *("/anonymous:", "file", "filerw", "/named:", "file", "filerw")
    ]
    assert shell(engine, "ls /named", volumes_from=["origin"], volumes=[f"{tmp_path}:/named"]) == ""
    with pytest.raises(ContainerNotFound):
        shell(engine, "true", volumes_from=["nosuch"])
    origin.remove(v=True)
    assert [volume.name for volume in engine.volumes.list()] == ["shared"]


@real
def test_inspect(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    created = cli(
        "create", "--network", "none", "--name", "shown", "-v", f"{tmp_path}:/a:ro", "-v", "named:/b", "-v", "/c",
        "--mount", f"type=bind,src={tmp_path},dst=/d,bind-propagation=rslave", "--mount", "type=tmpfs,dst=/e",
        "--tmpfs", "/f:size=1m", "busybox",
    )  # fmt: skip
    assert created.stderr == "" and created.exit_code == 0
    attrs = engine.containers.get("shown").attrs
    found = {entry.pop("Destination"): entry for entry in attrs["Mounts"]}
    bind = {"Type": "bind", "Source": str(tmp_path)}
    assert found["/a"] == {**bind, "Mode": "ro", "RW": False, "Propagation": "rprivate"}
    assert found["/d"] == {**bind, "Mode": "", "RW": True, "Propagation": "rslave"}
    assert found["/e"] == {"Type": "tmpfs", "Source": "", "Mode": "", "RW": True, "Propagation": ""}
    source = engine.volumes.get("named").mountpoint
    assert found["/b"] == {
        **{"Type": "volume", "Name": "named", "Source": source, "Driver": "local", "Mode": "z", "RW": True},
        "Propagation": "",
    }
    assert len(found["/c"]["Name"]) == 64 and found["/c"]["Mode"] == ""
    host = attrs["HostConfig"]
    assert host["Binds"] == [f"{tmp_path}:/a:ro", "named:/b"]
    assert [entry["Target"] for entry in host["Mounts"]] == ["/d", "/e"]
    assert (host["VolumesFrom"], host["Tmpfs"]) == (None, {"/f": "size=1m"})
    assert attrs["Config"]["Volumes"] == {"/c": {}}
