"""`poc-runtime --systemd-cgroup`: containers as scopes of systemd's, where systemd is PID 1 (see scripts/vm-test)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import test_runtime_cli
from conftest import CHECKOUT, needs
from test_runtime_cli import Bundle, Runtime, _deleting
from test_runtime_cli import bundle as bundle
from test_runtime_cli import output as output

from poc.cgroups import host, systemd
from poc.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

running = [needs("root", "systemd", "program:busybox"), pytest.mark.timeout(100)]
MIB = 1 << 20
V2 = "memory" in host().on_v2


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """`poc-runtime --systemd-cgroup`; what a test leaves is deleted."""
    start = os.path.join(CHECKOUT, "scripts", "start.py")
    command = [sys.executable, "-I", "-S", "-X", "utf8", start, "poc-runtime", "--systemd-cgroup"]
    yield from _deleting(Runtime(command, f"{tmp_path}/run"))


def _systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=60, check=True).stdout


def _show(unit: str, *names: str) -> list[str]:
    """The values of a unit's properties."""
    text = _systemctl("show", *(f"--property={name}" for name in names), "--", unit)
    values = dict(line.split("=", 1) for line in text.splitlines())
    return [values[name] for name in names]


def _file(controller: str, path: str, file: str) -> str:
    with open(f"{host().controllers[controller]}/{path}/{file}") as opened:
        return opened.read().strip()


def _start(runtime: Runtime, bundle: Bundle, id: str, output: Any) -> None:
    kinds = ("bounding", "effective", "permitted")
    bundle.config["process"]["capabilities"] = {kind: ["CAP_MKNOD"] for kind in kinds}
    bundle.write("sleep", "600")
    done = runtime("run", "--detach", "--bundle", bundle.directory, id, output=output.fd)
    assert done.exit_code == 0, output()


def _gone(unit: str, path: str) -> bool:
    left = [f"{root}/{path}" for root in host().directories() if os.path.exists(f"{root}/{path}")]
    return _show(unit, "LoadState", "ActiveState") == ["not-found", "inactive"] and not left


class TestLife:
    pytestmark = running

    @pytest.mark.parametrize(
        "wish, path",
        [
            ("", "system.slice/poc-runtime-one.scope"),
            ("poctest-deep.slice:pre:fix", "poctest.slice/poctest-deep.slice/pre-fix.scope"),
            ("-.slice::one", "-one.scope"),
        ],
    )
    def test_scope(self, runtime: Runtime, bundle: Bundle, output: Any, wish: str, path: str) -> None:
        """It is there from create to delete, with all of the container's processes in every hierarchy of it."""
        bundle.config["linux"]["cgroupsPath"] = wish
        bundle.config["annotations"] = {"org.systemd.property.TimeoutStopUSec": "uint64 7000000"}
        around, unit = os.path.split(path)
        slice = os.path.basename(around) or "-.slice"
        bundle.write("sleep", "600")
        assert runtime("create", "--bundle", bundle.directory, "one", output=output.fd).exit_code == 0, output()
        names = ("ActiveState", "Slice", "Delegate", "ControlGroup", "MemoryAccounting", "TimeoutStopUSec")
        assert _show(unit, *names) == ["active", slice, "yes", f"/{path}", "yes", "7s"]
        pid = runtime.state("one")["pid"]
        with open(f"/proc/{pid}/cgroup") as file:
            assert {line.strip().split(":")[2] for line in file} == {f"/{path}"}
        assert runtime("start", "one").exit_code == 0

        both = runtime("exec", "one", "sh", "-c", "cat /proc/1/cgroup; echo; cat /proc/self/cgroup").stdout
        first, _, second = both.partition("\n\n")
        assert first and first == second.strip()
        assert runtime("pause", "one").exit_code == 0
        assert runtime.state("one")["status"] == "paused"
        assert runtime("resume", "one").exit_code == 0
        assert json.loads(runtime("ps", "--format", "json", "one").stdout) == [pid]
        stats = json.loads(runtime("events", "--stats", "one").stdout)["data"]
        assert stats["memory"]["usage"]["usage"] > 0 and stats["pids"]["current"] == 1

        runtime("kill", "one", "KILL")
        runtime.until("one", "stopped")
        assert runtime("delete", "one").exit_code == 0
        assert _gone(unit, path)
        if "poctest" in path:
            _systemctl("stop", "poctest.slice")

    def test_a_name_that_is_taken(self, runtime: Runtime, bundle: Bundle, output: Any) -> None:
        """By a container or a failed unit: the first is left alone, the second is in nobody's way."""
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:taken"
        _start(runtime, bundle, "first", output)
        done = runtime("create", "--bundle", bundle.directory, "second")
        assert done.exit_code == 1 and "/linux/cgroupsPath" in done.stderr and done.stderr.count("\n") == 1
        assert runtime("delete", "--force", "second").exit_code == 0
        assert runtime.state("first")["status"] == "running"
        assert _show("poc-taken.scope", "ActiveState") == ["active"]
        assert runtime("delete", "--force", "first").exit_code == 0
        assert _gone("poc-taken.scope", "system.slice/poc-taken.scope")

    def test_a_killed_create(self, runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:killed"
        test_runtime_cli.test_a_killed_create_leaves_what_delete_can_undo(runtime, bundle, tmp_path)
        assert _gone("poc-killed.scope", "system.slice/poc-killed.scope")

    def test_a_failed_create(self, runtime: Runtime, bundle: Bundle) -> None:
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:failed"
        bundle.write("nowhere", "argument")
        done = runtime("create", "--bundle", bundle.directory, "failed")
        assert done.exit_code == 1 and "executable file not found" in done.stderr
        assert _gone("poc-failed.scope", "system.slice/poc-failed.scope")
        bundle.config["annotations"] = {"org.systemd.property.NoSuch": "true"}
        bundle.write("true")
        done = runtime("run", "--bundle", bundle.directory, "failed")
        assert done.exit_code == 1 and "NoSuch" in done.stderr and done.stderr.count("\n") == 1
        assert _gone("poc-failed.scope", "system.slice/poc-failed.scope")


BUSY = "while :; do :; done"
# Loop devices 0 and 1. Every container may make nodes; the loop module is there, in a machine of vm-test.
OPEN_LOOPS = (
    "for n in 0 1; do [ -e /tmp/$n ] || mknod /tmp/$n b 7 $n; dd if=/tmp/$n of=/dev/null count=0 && echo $n opens; done"
)
ALLOCATE = "dd if=/dev/zero of=/dev/null bs=200M count=1"


class TestLimits:
    pytestmark = running

    def test_they_hold_over_a_daemon_reload(self, runtime: Runtime, bundle: Bundle, output: Any) -> None:
        """systemd knows them all, so that it puts the same ones back; what they do is seen afterwards."""
        resources: dict[str, Any] = {
            "cpu": {"quota": 12_500, "period": 50_000, "shares": 512, "cpus": "1", "mems": "0"},
            "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 64 * MIB},
            "pids": {"limit": 15},
            "devices": [{"allow": True, "type": "b", "major": 7, "minor": 1, "access": "r"}],
        }
        bundle.config["linux"].update(cgroupsPath="system.slice:poc:limits", resources=resources)
        _start(runtime, bundle, "limits", output)
        unit, path = "poc-limits.scope", "system.slice/poc-limits.scope"
        wanted = _limits_of(path)
        expected = {"CPUQuotaPerSecUSec": "250ms", "CPUQuotaPeriodUSec": "50ms", "TasksMax": "15"}
        expected |= {"AllowedCPUs": "1", "AllowedMemoryNodes": "0", "DevicePolicy": "strict"}
        expected |= {"CPUWeight": str(59), "MemoryMax": str(64 * MIB), "MemoryLow": str(32 * MIB)} if V2 else {}
        expected |= {"MemorySwapMax": "0"} if V2 else {"CPUShares": "512", "MemoryLimit": str(64 * MIB)}
        assert dict(zip(expected, _show(unit, *expected), strict=True)) == expected
        _systemctl("daemon-reload")
        assert _limits_of(path) == wanted
        assert dict(zip(expected, _show(unit, *expected), strict=True)) == expected

        assert runtime("exec", "limits", "sh", "-c", f"{ALLOCATE}; exit 3").exit_code in (3, 137)
        assert _oom_kills(path) >= 1
        devices = runtime("exec", "limits", "sh", "-c", OPEN_LOOPS)
        assert devices.stdout == "1 opens\n" and "can't open '/tmp/0': Operation not permitted" in devices.stderr

        assert runtime("exec", "--detach", "limits", "sh", "-c", BUSY, output=output.fd).exit_code == 0
        share = _cpu_share(runtime, "limits")
        assert 0.1 < share < 0.32
        forks = runtime("exec", "limits", "sh", "-c", "for i in $(seq 30); do sleep 2 & done; wait").stderr
        assert "fork" in forks

    def test_update(self, runtime: Runtime, bundle: Bundle, output: Any) -> None:
        """The new limits too; a quota comes in whole percents, because systemd keeps no others."""
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:update"
        bundle.config["linux"]["resources"] = {"cpu": {"quota": 12_345}}
        _start(runtime, bundle, "update", output)
        unit, path = "poc-update.scope", "system.slice/poc-update.scope"
        assert _show(unit, "CPUQuotaPerSecUSec") == ["130ms"]
        assert _limits_of(path)["quota"] == (13_000, 100_000)
        new = ("--cpu-period", "20000", "--cpu-quota", "10000", "--memory", str(80 * MIB), "--pids-limit", "33")
        done = runtime("update", *new, "update")
        assert done == ("", "", 0)
        limits = _limits_of(path)
        assert (limits["quota"], limits["memory"], limits["pids"]) == ((10_000, 20_000), str(80 * MIB), "33")
        _systemctl("daemon-reload")
        assert _limits_of(path) == limits
        assert _show(unit, "CPUQuotaPerSecUSec", "TasksMax") == ["500ms", "33"]
        assert runtime("update", "--cpu-quota", "-1", "--cpu-period", "20000", "update").exit_code == 0
        assert _show(unit, "CPUQuotaPerSecUSec") == ["infinity"]

        assert runtime("exec", "update", "sh", "-c", OPEN_LOOPS).stdout == ""
        for allowed in ([1], [0, 1], []):
            rules = [{"allow": True, "type": "b", "major": 7, "minor": n} for n in allowed]
            wish = json.dumps({"devices": [{"allow": False}, *rules, {"allow": True, "type": "c"}]})
            assert runtime("update", "--resources", "-", "update", input=wish) == ("", "", 0)
            _systemctl("daemon-reload")
            opened = runtime("exec", "update", "sh", "-c", OPEN_LOOPS)
            assert opened.stdout == "".join(f"{n} opens\n" for n in allowed), opened

    def test_an_oom_kill_of_all_leaves_no_failed_unit(self, runtime: Runtime, bundle: Bundle) -> None:
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:oom"
        bundle.config["linux"]["resources"] = {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}
        bundle.write(*ALLOCATE.split())
        assert runtime("run", "--bundle", bundle.directory, "oom").exit_code == 137
        assert _gone("poc-oom.scope", "system.slice/poc-oom.scope")
        assert "poc-oom" not in _systemctl("list-units", "--all", "--failed", "--plain")

    @needs("cgroup2:memory")
    def test_unified(self, runtime: Runtime, bundle: Bundle, output: Any) -> None:
        bundle.config["linux"]["cgroupsPath"] = "system.slice:poc:unified"
        files = {"memory.high": "100M", "memory.min": "1M", "cpu.idle": "1", "pids.max": "max"}
        bundle.config["linux"]["resources"] = {"unified": files}
        _start(runtime, bundle, "unified", output)
        names = ("MemoryHigh", "MemoryMin", "CPUWeight", "TasksMax")
        wanted = [str(100 * MIB), str(MIB), "idle", "infinity"]
        assert _show("poc-unified.scope", *names) == wanted
        _systemctl("daemon-reload")
        path = "system.slice/poc-unified.scope"
        assert _file("cpu", path, "cpu.idle") == "1"
        assert _file("memory", path, "memory.high") == str(100 * MIB)


def _limits_of(path: str) -> dict[str, Any]:
    if V2:
        quota, period = _file("cpu", path, "cpu.max").split()
        files = {"weight": ("cpu", "cpu.weight"), "memory": ("memory", "memory.max"), "low": ("memory", "memory.low")}
        files |= {"swap": ("memory", "memory.swap.max")}
    else:
        quota, period = (_file("cpu", path, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        files = {"weight": ("cpu", "cpu.shares"), "memory": ("memory", "memory.limit_in_bytes")}
        files |= {"low": ("memory", "memory.soft_limit_in_bytes"), "devices": ("devices", "devices.list")}
    files |= {"pids": ("pids", "pids.max"), "cpus": ("cpuset", "cpuset.cpus"), "mems": ("cpuset", "cpuset.mems")}
    found: dict[str, Any] = {name: _file(controller, path, file) for name, (controller, file) in files.items()}
    if "devices" in found:
        found["devices"] = sorted(found["devices"].splitlines())
    return found | {"quota": (quota if quota == "max" else int(quota), int(period))}


def _oom_kills(path: str) -> int:
    text = _file("memory", path, "memory.events" if V2 else "memory.oom_control")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


def _cpu_share(runtime: Runtime, id: str) -> float:
    """How much of a CPU it uses, over three seconds."""

    def used() -> int:
        usage: int = json.loads(runtime("events", "--stats", id).stdout)["data"]["cpu"]["usage"]["total"]
        return usage

    before, start = used(), time.monotonic_ns()
    time.sleep(3)
    return (used() - before) / (time.monotonic_ns() - start)


# ── also without systemd ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
@needs("root", "program:busybox")
def test_where_systemd_does_not_run(runtime: Runtime, bundle: Bundle) -> None:
    for words in (("run", "--bundle", bundle.directory, "none"), ("list",)):
        assert runtime(*words) == ("", "poc-runtime: --systemd-cgroup: systemd does not run here\n", 1)


@pytest.mark.parametrize(
    "wish, path",
    [
        ("", "system.slice/poc-runtime-id.scope"),
        (":docker:1234", "system.slice/docker-1234.scope"),
        ("a-b-c.slice:p:n", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("-.slice:p:n", "p-n.scope"),
    ],
)
def test_where_a_scope_is(wish: str, path: str) -> None:
    assert systemd.locate(wish, "id") == path


@pytest.mark.parametrize(
    "wish",
    ["/a/b", "a:b", "a.slice:b:", "a:b:c", "a/b.slice:c:d", "-a.slice:b:c", "a--b.slice:c:d", ":..:/x", ":a:b:c",
     ":p:x.slice", ":p:a b", ":p:" + "n" * 300],
)  # fmt: skip
def test_what_is_no_scope(wish: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^/linux/cgroupsPath: "):
        systemd.locate(wish, "id")


def test_annotations() -> None:
    texts = {"A": "true", "B": "'x y'", "C": "5", "D": "uint64 6", "E": "['a', 'b']"}
    texts |= {"FSec": "double 1.5", "GUSec": "int64 -1"}
    annotations = {f"org.systemd.property.{name}": text for name, text in texts.items()} | {"org.other": "x"}
    assert systemd.annotated(annotations) == [
        ("A", ("b", True)),
        ("B", ("s", "x y")),
        ("C", ("i", 5)),
        ("D", ("t", 6)),
        ("E", ("as", ["a", "b"])),
        ("FUSec", ("t", 1_500_000)),
        ("GUSec", ("x", -1)),
    ]
    for text in ("", "x", "uint65 5", "uint64 x", "[1]", "{}", "(1, 2)", "'"):
        with pytest.raises(InvalidArgument, match=r"^/annotations/org.systemd.property.A: "):
            systemd.annotated({"org.systemd.property.A": text})


def test_devices_that_systemd_can_say() -> None:
    deny = {"allow": False, "type": "a", "access": "rwm"}
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    disks = {"allow": True, "type": "b", "major": 8, "access": "r"}
    any_node = {"allow": True, "type": "c", "access": "m"}
    auto = [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    strict = [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", []))]
    listed = [("/dev/char/1:3", "rw"), ("block-8", "r"), ("char-*", "m")]
    found = systemd._device_properties([deny, null, disks, any_node], strict=True)
    assert found == [*strict, ("DeviceAllow", ("a(ss)", listed))]
    assert systemd._device_properties([deny, {"allow": True}], strict=True) == auto
    for rules in ([{"allow": False, "type": "c", "major": 1, "minor": 1}], [deny, {**null, "major": None}]):
        assert systemd._device_properties(rules, strict=False) == auto
        with pytest.raises(Unsupported, match=r"^devices: systemd can't"):
            systemd._device_properties(rules, strict=True)
