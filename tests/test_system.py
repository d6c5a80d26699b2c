"""info, version, system df, the prunes that docker has, doctor and stats: what they say is what there is."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, needs, wait_until

from poc import _fs, cgroups
from poc.cli.commands import system_doctor
from poc.engine import doctor
from poc.engine.cleaning import Wanted
from poc.engine.doctor import Finding
from poc.engine.sizes import tree_size
from poc.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

    import poc

pytestmark = needs("root", "overlay")
ALONE = ("--network", "none")


def test_info_counts_and_describes_the_host(cli: CommandLine, engine: poc.Engine) -> None:
    cli("create", *ALONE, "busybox")
    for name in ("up", "held"):
        cli("run", "-d", "--name", name, *ALONE, "busybox", "sleep", "100")
    cli("pause", "held")
    found = json.loads(cli("info", "--format", "{{json .}}").stdout)
    assert [found[f"Containers{state}"] for state in ("", "Running", "Paused", "Stopped")] == [3, 1, 1, 1]
    assert found["Images"] == len(engine.images.list()) and found["DockerRootDir"] == cli.root
    assert found["KernelVersion"] == os.uname().release
    assert found["CgroupVersion"] == ("2" if cgroups.host().v2("memory") else "1")
    with open("/proc/meminfo") as file:
        kibibytes = int(file.readline().split()[1])
    assert found["MemTotal"] == kibibytes * 1024
    template = "{{.NCPU}} {{json .RegistryConfig.Mirrors}} {{.Runtimes.poc.path}} {{index .SecurityOptions 0}}"
    words = cli("info", "-f", template).stdout
    assert words == f"{os.cpu_count()} [] poc-runtime name=seccomp,profile=builtin\n"
    lines = cli("system", "info")
    assert " Running: 1\n" in lines.stdout and lines[1:] == ("", 0)
    assert cli("info", "--format", "{{.Nope}}").exit_code == 1


def test_version(cli: CommandLine) -> None:
    found = json.loads(cli("version", "--format", "json").stdout)
    assert found["Server"]["KernelVersion"] == os.uname().release
    words = cli("version", "-f", "{{.Server.Os}} {{.Server.Arch}} {{.Client.Version}}").stdout.split()
    assert words == ["linux", found["Server"]["Arch"], found["Client"]["Version"]]
    assert found["Server"]["Arch"] in ("amd64", "arm64", os.uname().machine)


def test_df_measures(cli: CommandLine, engine: poc.Engine) -> None:
    write = "head -c 3000000 /dev/zero >/three"
    cli("run", "--name", "writer", "-v", "kept:/data", *ALONE, "busybox", "sh", "-c", f"{write}; cp /three /data")
    cli("run", "-d", "--name", "up", *ALONE, "busybox", "sh", "-c", f"{write}; sleep 100")
    cli("volume", "create", "idle")
    wait_until(lambda: engine.containers.get("up").sizes()[0] >= 3_000_000)
    rows = {row["Type"]: row for row in map(json.loads, cli("system", "df", "--format", "json").stdout.splitlines())}
    assert rows["Containers"] == {
        **{"Type": "Containers", "TotalCount": "2", "Active": "1", "Size": "6MB", "Reclaimable": "3MB (50%)"},
    }
    volumes = rows["Local Volumes"]
    assert (volumes["TotalCount"], volumes["Active"], volumes["Size"]) == ("2", "1", "3MB")
    assert rows["Images"]["Active"] == "1" and rows["Build Cache"]["Size"] == "0B"
    every = json.loads(cli("system", "df", "-v", "--format", "{{json .}}").stdout)
    assert {volume["Name"]: (volume["Size"], volume["Links"]) for volume in every["Volumes"]} == {
        **{"kept": ("3MB", "1"), "idle": ("0B", "0")},
    }
    assert {row["Names"]: row["Size"] for row in every["Containers"]} == {"writer": "3MB", "up": "3MB"}
    assert "VOLUME NAME" in cli("system", "df", "-v").stdout
    assert engine.df()["LayersSize"] == sum(image.size for image in engine.images.list())


def test_a_tree_is_measured_once_and_within_its_disk(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(1000))
    os.link(tmp_path / "deep" / "file", tmp_path / "again")
    os.symlink("/" * 100, tmp_path / "link")
    assert tree_size(str(tmp_path)) == 1100
    assert tree_size(f"{tmp_path}/nosuch") == 0
    place = os.open(tmp_path, os.O_PATH)
    for _ in range(20):  # deeper than a path can say, as a container can have it
        os.mkdir("d" * 250, dir_fd=place)
        above, place = place, os.open("d" * 250, os.O_PATH, dir_fd=place)
        os.close(above)
    os.close(place)
    assert tree_size(str(tmp_path)) == 1100
    _fs.remove_tree(f"{tmp_path}/{'d' * 250}")


def test_prune_takes_what_does_not_run(cli: CommandLine, engine: poc.Engine) -> None:
    cli("run", "--name", "done", *ALONE, "busybox", "sh", "-c", "head -c 2000000 /dev/zero >/two")
    cli("create", "--name", "made", "-l", "keep=1", *ALONE, "busybox")
    cli("run", "-d", "--name", "up", *ALONE, "busybox", "sleep", "100")
    ids = {container.name: container.id for container in engine.containers.list(all=True)}
    for prune in (("container", "prune"), ("image", "prune", "-a"), ("system", "prune"), ("volume", "prune")):
        refused = cli(*prune, input="n\n")
        assert refused.exit_code == 0 and "[y/N]" in refused.stderr and refused.stdout == "", "as docker's"
    assert engine.images.list() and "done" in cli("ps", "-a").stdout
    kept = cli("container", "prune", "-f", "--filter", "label!=keep", "--filter", "until=1h")
    assert kept == ("Total reclaimed space: 0B\n", "", 0), "none is that old"
    pruned = cli("container", "prune", "-f", "--filter", "label!=keep")
    assert pruned == (f"Deleted Containers:\n{ids['done']}\n\nTotal reclaimed space: 2MB\n", "", 0)
    pruned = cli("system", "prune", input="y\n")
    assert pruned.stdout == f"Deleted Containers:\n{ids['made']}\n\nTotal reclaimed space: 0B\n"
    assert "all stopped containers" in pruned.stderr
    assert [container.name for container in engine.containers.list(all=True)] == ["up"]
    assert cli("system", "prune", "--force", "--volumes") == ("Total reclaimed space: 0B\n", "", 0)


def test_prune_of_images_and_volumes(cli: CommandLine, engine: poc.Engine) -> None:
    engine.containers.run("busybox", ["touch", "/x"], name="source", network="none")
    cli("commit", "source", "extra:1")
    extra = engine.images.get("extra:1").id
    cli("run", "--name", "user", "-v", "/anonymous", "-v", "named:/named", *ALONE, "extra:1", "true")
    assert cli("image", "prune", "-af").stdout.count("untagged") == 0, "both have containers"
    cli("rm", "user")  # its anonymous volume stays
    assert cli("image", "prune", "-f").stdout == "Total reclaimed space: 0B\n", "it has a name"
    pruned = engine.prune_unused(volumes=True, filters={"label!": "keep"})
    assert len(pruned["VolumesDeleted"]) == 1 and len(pruned["ContainersDeleted"]) == 1
    assert [volume.name for volume in engine.volumes.list()] == ["named"]
    cli("create", "--name", "holder", *ALONE, "busybox")
    lines = cli("image", "prune", "--all", "--force").stdout.splitlines()
    assert lines[:3] == ["Deleted Images:", "untagged: extra:1", f"deleted: {extra}"]
    assert [image.references for image in engine.images.list()] == [["busybox:latest"]]
    wrong = cli("system", "prune", "-f", "--volumes", "--filter", "until=1h")
    assert wrong.exit_code == 1 and "until" in wrong.stderr


def test_what_a_prune_filter_takes() -> None:
    labels = {"a": "1", "b": ""}
    for filters, taken in (
        ([], True),
        (["label=a"], True),
        (["label=a=2"], False),
        (["label=a", "label=c"], False),
        (["label!=a"], False),
        (["label!=a=2"], True),
        (["until=10m"], False),
        (["until=2099-01-01"], True),
    ):
        assert Wanted(filters).takes(time.time(), labels) is taken, filters
    for text in ("colour=red", "until=soon"):
        with pytest.raises(InvalidArgument, match="--filter"):
            Wanted([text])


def test_doctor_looks_at_this_host(cli: CommandLine, engine: poc.Engine) -> None:
    found = {finding.name: finding for finding in engine.doctor()}
    known = cgroups.host()
    assert known.mode in found["cgroups"].detail
    for name in ("cpu", "memory", "pids"):
        here = name in known.controllers
        assert found[f"cgroup {name}"].ok is here
        if here:
            assert found[f"cgroup {name}"].detail == ("on v2" if known.v2(name) else "on v1")
    assert found["kernel"].ok and found["overlay"].ok and not doctor.failed(found.values())
    result = cli("system", "doctor")
    assert result[1:] == ("", 0) and re.search(r"^ok     kernel: Linux ", result.stdout, re.M)
    rows = [json.loads(line) for line in cli("system", "doctor", "--format", "json").stdout.splitlines()]
    assert {row["Name"]: row["Ok"] for row in rows} == {name: finding.ok for name, finding in found.items()}


def test_doctor_tells_what_lacks(
    cli: CommandLine, engine: poc.Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("poc.engine.doctor.shutil.which", lambda name, **more: None)
    lacking = [finding for finding in engine.doctor() if not finding.ok]
    programs = {finding.name for finding in lacking}
    assert {"tar", "du", "ps", "mkfs.ext4"} <= programs and doctor.failed(lacking)
    assert all(finding.effect and finding.remedy for finding in lacking)
    hybrid = cgroups.Hierarchies({"cpu": "/cpu"}, "/unified", ["pids"], {"swap": False})
    monkeypatch.setattr("poc.engine.doctor.cgroups.host", lambda: hybrid)
    found = {finding.name: finding for finding in doctor._cgroups(engine.paths)}
    assert [found[f"cgroup {name}"].ok for name in ("cpu", "pids", "memory")] == [True, True, False]
    assert "--memory" in found["cgroup memory"].effect
    system_doctor._print(found["cgroup memory"])
    shown = capsys.readouterr().out
    assert "lacks  cgroup memory" in shown and "stops working: --memory" in shown and "to mend it:" in shown
    missing = [Finding("x", False, "", essential=True)]
    monkeypatch.setattr(type(engine), "doctor", lambda self: missing)
    from poc.cli.main import main

    assert main(["--root", cli.root, "system", "doctor"]) == 1


def test_stats_of_what_runs_and_what_does_not(cli: CommandLine) -> None:
    cli("run", "-d", "--name", "busy", *ALONE, "busybox", "sh", "-c", "while :; do :; done")
    cli("create", "--name", "idle", *ALONE, "busybox")
    rows = [json.loads(line) for line in cli("stats", "--no-stream", "--format", "json").stdout.splitlines()]
    assert [row["Name"] for row in rows] == ["busy"]
    assert float(rows[0]["CPUPerc"].rstrip("%")) > 1 and rows[0]["PIDs"] == "1"
    assert re.fullmatch(r"[\d.]+(B|KiB|MiB) / [\d.]+GiB", rows[0]["MemUsage"])
    every = cli("stats", "--no-stream", "-a", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}").stdout
    assert "idle 0.00% 0B / 0B 0\n" in every and "busy " in every
    named = cli("stats", "--no-stream", "--format", r"table {{.Container}}\t{{.NetIO}}", "idle").stdout.splitlines()
    assert re.split("  +", named[0]) == ["CONTAINER", "NET I/O"] and named[1].endswith("0B / 0B")
    assert cli("stats", "--no-stream", "nosuch").exit_code == 1
