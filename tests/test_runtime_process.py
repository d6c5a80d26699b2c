"""What config.json and the command line ask for a process, by its effect; beside runc where that can do it as well."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs, wait_until
from oci_examples import PATH
from test_runtime_cli import Bundle, Runtime
from test_runtime_cli import bundle as bundle
from test_runtime_cli import each as each
from test_runtime_cli import output as output
from test_runtime_cli import runtime as runtime

from poc import _libc, namespaces
from poc.cgroups import host
from poc.errors import Conflict, InvalidArgument, NotFound
from poc.runtime import resctrl, traits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(90)]


def sleeping(runtime: Runtime, bundle: Bundle, id: str, output: Any) -> int:
    """A container that sleeps: the pid of its first process."""
    bundle.write("sleep", "60")
    assert runtime("run", "--detach", "--bundle", bundle.directory, id, output=output.fd).exit_code == 0, output()
    pid: int = runtime.state(id)["pid"]
    return pid


def start_exec(runtime: Runtime, tmp_path: Path, id: str, words: tuple[str, ...] = (), **process: Any) -> int:
    """Another process that sleeps, of a process.json: its pid."""
    process = {"cwd": "/", "args": ["sleep", "60"], "env": [PATH], **process}
    (tmp_path / "process.json").write_text(json.dumps(process))
    given = ("--process", str(tmp_path / "process.json"), "--pid-file", str(tmp_path / "exec.pid"), *words)
    with open(tmp_path / "exec.output", "w+") as file:
        done = runtime("exec", "--detach", *given, id, output=file.fileno())
        file.seek(0)
        assert done.exit_code == 0, file.read()
    return int((tmp_path / "exec.pid").read_text())


def _ionice(pid: int) -> str:
    return subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout.strip()


def _status(pid: int, field: str) -> str:
    with open(f"/proc/{pid}/status") as file:
        return next(line.split(None, 1)[1].strip() for line in file if line.startswith(f"{field}:"))


# ── scheduling ───────────────────────────────────────────────────────────────────────────────────────────


@needs("program:ionice")
def test_scheduler_and_io_priority(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    """Of the first process and of those by exec, which may have their own."""
    bundle.config["process"].update(
        scheduler={"policy": "SCHED_BATCH", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6},
        user={"uid": 1000, "gid": 50},
    )
    pid = sleeping(runtime, bundle, "scheduled", output)
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
    assert (os.getpriority(os.PRIO_PROCESS, pid), _ionice(pid)) == (7, "best-effort: prio 6")

    inherited = runtime("exec", "scheduled", "sh", "-c", "cut -d' ' -f19,41 /proc/$$/stat").stdout
    assert inherited.split() == ["7", "3"]  # nice, and SCHED_BATCH
    other = start_exec(runtime, tmp_path, "scheduled", ioPriority={"class": "IOPRIO_CLASS_IDLE"})
    assert (os.sched_getscheduler(other) & ~os.SCHED_RESET_ON_FORK, _ionice(other)) == (os.SCHED_BATCH, "idle")
    ours = {"policy": "SCHED_DEADLINE", "runtime": 1 << 20, "deadline": 1 << 24, "period": 1 << 25}
    deadline = start_exec(runtime, tmp_path, "scheduled", scheduler={**ours, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    with open(f"/proc/{deadline}/sched") as file:
        figures = dict(line.replace(" ", "").split(":") for line in file.read().splitlines() if line.count(":") == 1)
    assert figures["policy"] == "6"
    assert {name: int(figures[f"dl.{name}"]) for name in ("runtime", "deadline")}.keys() == {"runtime", "deadline"}


def test_a_scheduler_that_the_kernel_refuses(runtime: Runtime, bundle: Bundle) -> None:
    """A real-time policy in a cgroup without a real-time budget, or one that Linux does not have: the property."""
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_ISO"}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "refused")
    assert (done.exit_code, done.stderr) == (1, "poc-runtime: /process/scheduler: sched_setattr: Invalid argument\n")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_processors_ofstart_exec(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    """execCPUAffinity: only of exec; what is final counts, and what is initial where nothing else says so."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    bundle.config["process"]["execCPUAffinity"] = {"initial": str(first), "final": str(second)}
    pid = sleeping(runtime, bundle, "affine", output)
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    inside = runtime("exec", "affine", "grep", "Cpus_allowed_list", "/proc/self/status").stdout
    assert inside.split() == ["Cpus_allowed_list:", str(second)]
    both = start_exec(runtime, tmp_path, "affine", execCPUAffinity={"final": f"{first}-{second}"})
    assert os.sched_getaffinity(both) == {first, second}
    for name in ("initial", "final"):
        wrong = {"cwd": "/", "args": ["true"], "env": [PATH], "execCPUAffinity": {name: "4000"}}
        (tmp_path / "process.json").write_text(json.dumps(wrong))
        done = runtime("exec", "--process", str(tmp_path / "process.json"), "affine")
        assert (done.exit_code, done.stderr) == (
            255,
            f"poc-runtime: /process/execCPUAffinity/{name}: Invalid argument\n",
        )


# ── what else a process is ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the names are those of x86-64")
def test_personality(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """Also where a filter forbids the call, and of exec."""
    bundle.config["linux"]["personality"] = {"domain": "LINUX32"}
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
    }
    sleeping(runtime, bundle, "narrow", output)
    assert runtime("exec", "narrow", "uname", "-m").stdout == "i686\n"
    bundle.config["linux"]["personality"] = {"domain": "LINUX", "flags": []}
    bundle.config["linux"]["cgroupsPath"] += "-wide"
    bundle.write("uname", "-m")
    assert runtime("run", "--bundle", bundle.directory, "wide").stdout == "x86_64\n"
    bundle.config["linux"]["personality"]["flags"] = ["ADDR_NO_RANDOMIZE"]
    bundle.write()
    assert "/linux/personality/flags: " in runtime("run", "--bundle", bundle.directory, "wide").stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="needs a kernel with NUMA")
def test_memory_policy(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    bundle.write("grep -m1 heap /proc/self/numa_maps")
    done = runtime("run", "--bundle", bundle.directory, "bound")
    assert done.stdout.split()[1] == "bind=static:0", done
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_INTERLEAVE", "nodes": "4000"}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "bound")
    assert done.stderr == "poc-runtime: /linux/memoryPolicy: set_mempolicy: Invalid argument\n"


def test_a_label_that_this_host_has_no_module_for(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """One line with the property; an empty label asks for nothing."""
    bundle.config["process"].update(apparmorProfile="", selinuxLabel="")
    bundle.config["linux"]["mountLabel"] = ""
    sleeping(runtime, bundle, "unlabelled", output)
    modules = {
        "apparmor": os.path.exists("/sys/module/apparmor/parameters/enabled"),
        "process-label": os.path.exists("/sys/fs/selinux/enforce"),
    }
    for option, name in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if not modules[option]:
            done = runtime("exec", f"--{option}", "some", "unlabelled", "true")
            assert (done.exit_code, done.stderr.count("\n")) == (255, 1)
            assert done.stderr.startswith(f"poc-runtime: /process/{name}: ") and "is not on here" in done.stderr
    bundle.config["linux"].update(cgroupsPath="/poc-test-labelled", mountLabel="system_u:object_r:tmp_t:s0:c1,c2")
    bundle.write()
    if not modules["process-label"]:
        done = runtime("run", "--bundle", bundle.directory, "labelled")
        assert done.stderr.startswith("poc-runtime: /linux/mountLabel: SELinux is not on here")


def test_labels_of_mounts() -> None:
    """The container's own file systems get the label, quoted for its commas; bind mounts and the kernel's do not."""
    mounts: list[Any] = [
        {"destination": "/proc", "type": "proc"},
        {"destination": "/dev", "type": "tmpfs", "options": ["mode=755"]},
        {"destination": "/data", "type": "bind", "source": "/data"},
    ]
    traits.label_mounts(mounts, "a:b:c:s0:c1,c2")
    assert [mount.get("options") for mount in mounts] == [None, ["mode=755", 'context="a:b:c:s0:c1,c2"'], None]
    with pytest.raises(InvalidArgument, match=r"/linux/mountLabel: .* is no SELinux label"):
        traits.label_mounts(mounts, 'a:b:c:s0",uid=0,"')


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not os.path.exists("/proc/self/timens_offsets"), reason="needs a kernel with time namespaces")
@pytest.mark.parametrize("user", [False, True], ids=["root", "user-namespace"])
def test_time_offsets(runtime: Runtime, bundle: Bundle, output: Any, user: bool, rootfs: str) -> None:
    """Before anybody is in the namespace, and for exec as well."""
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    bundle.config["linux"]["timeOffsets"] = {
        "monotonic": {"secs": 7881, "nanosecs": 2718281},
        "boottime": {"secs": 86400 * 1000},
    }
    if user:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uid", "gid"):
            bundle.config["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 0, "size": 70000}]
    pid = sleeping(runtime, bundle, "late", output)
    here = os.readlink("/proc/self/ns/time")
    assert here != os.readlink(f"/proc/{pid}/ns/time") == os.readlink(f"/proc/{pid}/ns/time_for_children")
    done = runtime("exec", "late", "sh", "-c", "cat /proc/1/timens_offsets; cut -d. -f1 /proc/uptime; id -u")
    *offsets, uptime, uid = done.stdout.split()
    assert offsets == ["monotonic", "7881", "2718281", "boottime", "86400000", "0"], done
    assert int(uptime) >= 86400 * 1000 and uid == "0"
    with open("/proc/uptime") as file:
        assert float(file.read().split()[0]) < 86400 * 1000

    bundle.config["linux"]["cgroupsPath"] += "-second"
    bundle.config["linux"]["namespaces"] = [
        {**entry, "path": f"/proc/{pid}/ns/{namespaces.PROC_NAMES[entry['type']]}"}
        if entry["type"] in ("time", "user", "network")
        else entry
        for entry in bundle.config["linux"]["namespaces"]
    ]
    for name in ("timeOffsets", "uidMappings", "gidMappings"):
        bundle.config["linux"].pop(name, None)
    bundle.write("cat", "/proc/self/timens_offsets")
    done = runtime("run", "--bundle", bundle.directory, "joined")
    assert done.stdout.split()[1] == "7881", done


def test_time_offsets_that_make_no_sense(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["linux"]["timeOffsets"] = {"monotonic": {"secs": 1}}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "timeless")
    assert done.stderr == "poc-runtime: /linux/timeOffsets: there is no new time namespace in /linux/namespaces\n"
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    bundle.config["linux"]["timeOffsets"] = {"realtime": {"secs": 1}}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "timeless")
    assert done.stderr == "poc-runtime: /linux/timeOffsets/realtime: is none of monotonic, boottime\n"
    bundle.config["linux"]["timeOffsets"] = {"boottime": {"secs": -(1 << 40)}}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "timeless")
    assert done.exit_code == 1 and "timens_offsets: Numerical result out of range" in done.stderr


# ── network devices ──────────────────────────────────────────────────────────────────────────────────────


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_network_devices_move_in(runtime: Runtime, bundle: Bundle, output: Any, own_network: None) -> None:
    """With what belongs to them: MTU, lasting global addresses, up; under a new name; and before sysctls."""
    for number in (0, 1):
        _ip("link", "add", f"pipe{number}", "type", "veth", "peer", "name", f"far{number}")
        _ip("link", "set", f"far{number}", "up")
    _ip("link", "set", "pipe0", "mtu", "1400", "up")
    for address in ("198.51.100.9/24", "2001:db8::9/64"):
        _ip("address", "add", address, "dev", "pipe0", *(["nodad"] if ":" in address else []))
    _ip("address", "add", "169.254.9.9/16", "dev", "pipe0", "scope", "link")
    bundle.config["linux"]["netDevices"] = {"pipe0": {"name": "eth0"}, "pipe1": {"name": "net%d"}}
    bundle.config["linux"]["sysctl"] = {"net.ipv4.conf.eth0.forwarding": "1"}
    pid = sleeping(runtime, bundle, "networked", output)
    inside = ["nsenter", "--net", f"--target={pid}", "ip", "-j", "address"]
    done = subprocess.run(inside, capture_output=True, text=True, check=True)
    links = {link["ifname"]: link for link in json.loads(done.stdout)}
    assert links.keys() == {"lo", "eth0", "net0"}
    lasting = {f"{a['local']}/{a['prefixlen']}" for a in links["eth0"]["addr_info"] if a["scope"] == "global"}
    assert lasting == {"198.51.100.9/24", "2001:db8::9/64"}
    assert "169.254.9.9" not in done.stdout
    assert links["eth0"]["mtu"] == 1400 and "UP" in links["eth0"]["flags"] and "UP" in links["net0"]["flags"]
    assert runtime("exec", "networked", "cat", "/proc/sys/net/ipv4/conf/eth0/forwarding").stdout == "1\n"
    assert {name for _, name in socket.if_nameindex()} & {"pipe0", "pipe1"} == set()


def test_network_devices_that_stay(runtime: Runtime, bundle: Bundle, own_network: None) -> None:
    """One that is not there, one whose name is taken, and a container on the host's network."""
    _ip("link", "add", "pipe0", "type", "veth", "peer", "name", "far0")
    for devices, text in (
        ({"nosuch0": {}}, "/linux/netDevices/nosuch0: this host has no such interface"),
        ({"pipe0": {"name": "lo"}}, "/linux/netDevices/pipe0: the container has an interface lo already"),
        ({"pipe0": {}, "nosuch0": {}}, "/linux/netDevices/nosuch0: this host has no such interface"),
        ({"pipe0": {"name": "x"}, "far0": {"name": "x"}}, "/linux/netDevices/far0: the container has an interface x"),
        ({"pipe0": {"name": "much-too-long-a-name"}}, "/linux/netDevices/pipe0: 'much-too-long-a-name' is no"),
    ):
        bundle.config["linux"]["netDevices"] = devices
        bundle.write()
        done = runtime("run", "--bundle", bundle.directory, "staying")
        assert done.exit_code == 1 and done.stderr.startswith(f"poc-runtime: {text}"), done
    bundle.config["linux"]["netDevices"] = {"pipe0": {}}
    bundle.config["linux"]["namespaces"].remove({"type": "network"})
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "staying")
    assert done.stderr == "poc-runtime: /linux/netDevices: there is no network namespace in /linux/namespaces\n"
    assert {name for _, name in socket.if_nameindex()} >= {"pipe0", "far0"}


# ── Intel RDT ────────────────────────────────────────────────────────────────────────────────────────────


def test_where_a_class_lies(tmp_path: Path) -> None:
    """config-linux.md, IntelRdt: what is joined, made, written, and removed again."""
    mount = str(tmp_path)
    wish = {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"], "enableMonitoring": True}
    assert resctrl.plan(wish, "one", mount) == {
        "joined": [f"{mount}/one", f"{mount}/one/mon_groups/one"],
        "made": [f"{mount}/one", f"{mount}/one/mon_groups/one"],
        "removed": [f"{mount}/one/mon_groups/one", f"{mount}/one"],
        "schemata": ["L3:0=f", "MB:0=20", "L2:0=3"],
    }
    assert resctrl.plan({"closID": "/"}, "one", mount)["joined"] == [mount]
    assert resctrl.plan({"closID": "new", "schemata": ["L3:0=1"]}, "one", mount)["removed"] == []
    with pytest.raises(NotFound, match="closID: there is no"):
        resctrl.plan({"closID": "gold"}, "one", mount)
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "schemata").write_text("    MB:0=100;1= 20\n    L3:0=00f;1=7ff\n")
    assert resctrl.plan({"closID": "gold"}, "one", mount)["made"] == []
    same = resctrl.plan({"closID": "gold", "l3CacheSchema": "L3:0=F;1=7ff", "memBwSchema": "MB:1=20"}, "one", mount)
    assert (same["made"], same["schemata"]) == ([], [])
    with pytest.raises(Conflict, match="has f for L3:0, not 1"):
        resctrl.plan({"closID": "gold", "l3CacheSchema": "L3:0=1"}, "one", mount)


@pytest.mark.skipif(os.path.exists("/sys/fs/resctrl/info"), reason="this host has Intel RDT")
def test_no_rdt_here(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    sleeping(runtime, bundle, "classless", output)
    for option, value in (("--l3-cache-schema", "L3:0=f"), ("--mem-bw-schema", "MB:0=20")):
        done = runtime("update", option, value, "classless")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("poc-runtime: /linux/intelRdt: no resctrl file system is mounted here")


# ── descriptors handed out ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "pidfd"))
        end.listen()
        end.settimeout(20)
        yield end


def _receive(listener: socket.socket) -> tuple[bytes, int]:
    connection, _ = listener.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    return data, fds[0]


def test_pidfd_socket(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path, listener: socket.socket) -> None:
    """A pidfd of the first process, and of one by exec: it kills exactly that one, and tells when it ends."""
    bundle.write("sleep", "60")
    given = ("--pidfd-socket", str(tmp_path / "pidfd"))
    done = runtime("create", *given, "--bundle", bundle.directory, "held", output=output.fd)
    assert done.exit_code == 0, output()
    kind, first = _receive(listener)
    assert runtime("start", "held").exit_code == 0
    other = start_exec(runtime, tmp_path, "held", words=given)
    other_kind, second = _receive(listener)
    assert (kind, other_kind) == (b"standard", b"setns")
    poller = select.poll()
    for fd in (first, second):
        poller.register(fd, select.POLLIN)
    assert poller.poll(0) == []
    signal.pidfd_send_signal(second, signal.SIGKILL)
    assert [fd for fd, _ in poller.poll(20000)] == [second]
    assert not os.path.exists(f"/proc/{other}") or _status(other, "State").startswith("Z")
    signal.pidfd_send_signal(first, signal.SIGKILL)
    runtime.until("held", "stopped")
    os.close(first)
    os.close(second)
    done = runtime("run", "--pidfd-socket", "/no/where", "--bundle", bundle.directory, "unheard")
    assert (done.exit_code, done.stderr) == (1, "poc-runtime: /no: No such file or directory\n") or (
        "/no/where" in done.stderr
    )


# ── the root ─────────────────────────────────────────────────────────────────────────────────────────────


def test_no_pivot(each: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """The same root as with pivot_root, by another way; of run and of exec."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("here\n")
    bundle.config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": f"{tmp_path}/volume", "options": ["rbind", "ro"]}
    )
    bundle.config["linux"].update(maskedPaths=["/proc/interrupts"], readonlyPaths=["/proc/sys"])
    bundle.write("ls /; cat /mnt/file; wc -c </proc/interrupts; cat /proc/1/comm; ls -d /proc/1")
    plain = each("run", "--bundle", bundle.directory, "moved")
    done = each("run", "--no-pivot", "--bundle", bundle.directory, "moved")
    assert done == plain and done.exit_code == 0 and "here" in done.stdout


def test_the_old_root_s_proc_is_out_of_reach_without_pivot(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Who may unmount finds the old root below the new one; there the host's /proc and /sys are no more.

    Nothing of it reaches the host, even when all of that is shared.
    """
    bundle.config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    bundle.write("sleep", "60")
    before = subprocess.run(["findmnt", "-rn"], capture_output=True, text=True).stdout
    command = [*runtime.command, "run", "--no-pivot", "--detach", "--bundle", bundle.directory, "moved"]
    runtime.ids.add("moved")
    with open(tmp_path / "log", "w") as log:
        shared = ["unshare", "--mount", "sh", "-c", 'mount --make-rshared /; "$@"; ls /proc/self /sys/kernel', "sh"]
        done = subprocess.run([*shared, *command], stdout=log, stderr=log, timeout=30)
    said = (tmp_path / "log").read_text()
    assert done.returncode == 0 and "mountinfo" in said, said
    assert subprocess.run(["findmnt", "-rn"], capture_output=True, text=True).stdout == before

    reader, writer = os.pipe()
    inside = os.open(f"/proc/{runtime.state('moved')['pid']}/ns/mnt", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            namespaces.enter({"mount": inside})
            _libc.umount("/", _libc.MNT_DETACH)
            namespaces.enter({"mount": inside})
            seen = {name: os.listdir(name) for name in ("/", "/proc", "/sys")}
            os.write(writer, json.dumps(seen).encode())
        finally:
            os._exit(0)
    os.close(inside)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        seen = json.load(file)
    assert set(os.listdir("/")) <= set(seen["/"])  # it is the host's root
    assert seen["/proc"] == seen["/sys"] == []


# ── cgroups ──────────────────────────────────────────────────────────────────────────────────────────────


def _below(bundle: Bundle, controller: str, name: str) -> str:
    directory = f"{host().controllers[controller]}{bundle.config['linux']['cgroupsPath']}/{name}"
    os.makedirs(directory, exist_ok=True)
    return directory


def groups_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/cgroup") as file:
        return {line.split(":")[1]: line.strip().split(":", 2)[2] for line in file}


@needs("cgroup1:pids", "cgroup1:memory")
def test_exec_in_a_group_below(each: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    """One controller's, or all hierarchies'; what does not exist, or leads out, is refused."""
    sleeping(each, bundle, "grouped", output)
    path = bundle.config["linux"]["cgroupsPath"]
    _below(bundle, "pids", "part")
    groups = groups_of(start_exec(each, tmp_path, "grouped", words=("--cgroup", "pids:part")))
    assert groups["pids"] == f"{path}/part" and groups["memory"] == path
    for root in host().directories():
        os.makedirs(f"{root}{path}/all", exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):
        directory = f"{host().controllers['cpuset']}{path}"
        with open(f"{directory}/{file}") as source:
            write_file(f"{directory}/all/{file}", source.read())
    groups = groups_of(start_exec(each, tmp_path, "grouped", words=("--cgroup", "all")))
    assert {groups["pids"], groups["memory"], groups["cpu"]} == {f"{path}/all"}
    for wish in ("pids:nowhere", "nonsense:part", "pids:../..", "pids:part,memory", ":part"):
        done = each("exec", "--cgroup", wish, "--cgroup", "cpu:all", "grouped", "true")
        assert done.exit_code in (1, 255) or each.root.endswith("runc"), wish
        assert done.stderr.count("\n") == 1 or each.root.endswith("runc"), done
    assert each("kill", "--all", "grouped", "KILL").exit_code == 0
    each.until("grouped", "stopped")


def write_file(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# ── the rest of the command line ─────────────────────────────────────────────────────────────────────────


def test_events_until_the_end(each: Runtime, bundle: Bundle, output: Any) -> None:
    """A line every interval, and the command ends with the container."""
    sleeping(each, bundle, "watched", output)
    command = [*each.command, "events", "--interval", "100ms", "watched"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        lines = [json.loads(events.stdout.readline()) for _ in range(3)]
        assert [(line["type"], line["id"]) for line in lines] == [("stats", "watched")] * 3
        assert all(line["data"]["pids"]["current"] == 1 for line in lines)
        each("kill", "watched", "KILL")
        each.until("watched", "stopped")
        each("delete", "watched")  # runc goes on until the cgroup is gone
        events.communicate(timeout=20)
    assert events.returncode == 0


@needs("cgroup:memory")
def test_events_of_memory_that_is_out(each: Runtime, bundle: Bundle, output: Any) -> None:
    bundle.config["linux"]["resources"] = {"memory": {"limit": 20 << 20, "swap": 20 << 20}}
    bundle.config["mounts"].append({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"})
    bundle.write("read line; dd if=/dev/zero of=/dev/shm/fill bs=1M count=40; sleep 60")
    with subprocess.Popen(
        [*each.command, "run", "--bundle", bundle.directory, "hungry"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        each.ids.add("hungry")
        assert run.stdin is not None
        wait_until(lambda: not each("state", "hungry").exit_code and each.state("hungry")["status"] == "running")
        command = [*each.command, "events", "--interval", "1h", "hungry"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            time.sleep(1)  # there is no telling from outside when it listens
            run.stdin.write(b"\n")
            run.stdin.flush()
            assert json.loads(events.stdout.readline()) == {"type": "oom", "id": "hungry"}
            each("kill", "hungry", "KILL")
            run.wait(20)
            events.communicate(timeout=20)


def test_bad_options(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    sleeping(runtime, bundle, "still", output)
    for words, text in (
        (("events", "--interval", "soon", "still"), "--interval 'soon' is no positive duration"),
        (("events", "--stats", "--interval", "0s", "still"), "--interval '0s' is no positive duration"),
        (("--criu", "/usr/sbin/criu", "list"), "--criu: poc has no checkpoint"),
        (("--rootless=true", "list"), "--rootless: poc needs root"),
        (("--rootless", "perhaps", "list"), "--rootless 'perhaps': it is true, false or auto"),
    ):
        done = runtime(*words)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done
        assert text in done.stderr
    for value in ("auto", "false"):
        assert runtime("--rootless", value, "--criu", "", "list", "-q").stdout == "still\n"


@pytest.mark.parametrize("words", [(), ("--no-subreaper",)], ids=["subreaper", "no-subreaper"])
def test_who_reaps_orphans(each: Runtime, bundle: Bundle, words: tuple[str, ...], tmp_path: Path) -> None:
    """Without a pid namespace the command that runs the container does, unless it is told not to."""
    bundle.config["linux"]["namespaces"].remove({"type": "pid"})
    bundle.write("(sh -c 'sleep 0.3; exec cut -d\" \" -f4 /proc/self/stat' &); sleep 1; echo end")
    command = [*each.command, "run", *words, "--bundle", bundle.directory, "orphaning"]
    each.ids.add("orphaning")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        parent = int(run.stdout.readline())
        time.sleep(0.6)
        zombies = [pid for pid in _children(run.pid) if _status(pid, "State").startswith("Z")]
        said, _ = run.communicate(timeout=20)
    assert (parent == run.pid) == (not words)
    assert (zombies, said, run.returncode) == ([], "end\n", 0)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))
