"""Every flag of `run` that is neither a limit, a volume nor a network, by its effect on a container."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE_CONFIG, CommandLine, needs, wait_until

from poc import _fs
from poc.cgroups import Cgroup, host
from poc.engine.store import listed
from poc.oci.defaults import ALL_CAPABILITIES
from poc.runtime.traits import has_apparmor

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import poc

pytestmark = needs("root", "overlay")

ALONE = ("--network", "none")
UNTIL_TOLD = ["sh", "-c", "trap exit TERM; echo up; while :; do sleep 0.05; done"]


def runtimes() -> list[tuple[str, ...]]:
    """The flags that choose poc's own runtime, and another one."""
    return [(), ("--runtime=runc",)] if shutil.which("runc") else [()]


def may(capability: str) -> bool:
    held = int(_fs.read_text("/proc/self/status").partition("CapEff:")[2].split()[0], 16)
    return bool(held >> ALL_CAPABILITIES.index(capability) & 1)


def run(cli: CommandLine, *words: str) -> str:
    """What a container says, which ends well and says nothing else."""
    done = cli("run", "--rm", *ALONE, *words)
    assert (done.exit_code, done.stderr) == (0, ""), done
    return done.stdout


def refused(cli: CommandLine, *words: str, code: int = 125) -> str:
    """The one line with which `run` refuses, and nothing is left."""
    before = listed(f"{cli.root}/containers")
    done = cli("run", *words)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    assert listed(f"{cli.root}/containers") == before
    return done.stderr


def start(engine: poc.Engine, **options: Any) -> poc.Container:
    """A container that runs on; the engine's fixture prunes it."""
    options = {"network": "none", "command": UNTIL_TOLD, "stop_timeout": 0, **options}
    container: poc.Container = engine.containers.run("busybox", detach=True, **options)
    return container


def inspect(container: poc.Container, *keys: str) -> Any:
    value = container.attrs
    for key in keys:
        value = value[key]
    return value


# ── --cgroup-parent ──


def directories(path: str) -> list[str]:
    return [f"{root}/{path}" for root in host().directories() if os.path.isdir(f"{root}/{path}")]


def test_cgroup_parent_bounds_what_is_below_it(engine: poc.Engine, cli: CommandLine) -> None:
    name = f"poc-test-{os.getpid()}"
    with Cgroup(name, resources={"pids": {"limit": 6}}):
        forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
        done = cli("run", "--rm", *ALONE, "--cgroup-parent", f"/{name}", "busybox", "sh", "-c", forks)
        assert "can't fork" in done.stderr
        assert len(directories(name)) == len(host().directories())  # it is not ours
        container = start(engine, cgroup_parent=name)
        assert os.listdir(f"{host().directories()[0]}/{name}").count(f"poc-{container.id}") == 1
        assert inspect(container, "HostConfig", "CgroupParent") == f"/{name}"
        assert inspect(container, "State", "Pid") in Cgroup(name).pids()
        container.pause()
        assert container.status == "paused"
        container.unpause()
        container.update(pids_limit=5)
        assert (more := container.exec_run(["sh", "-c", forks])) is not None and b"can't fork" in more.stderr
        container.stop()
        assert not directories(f"{name}/poc-{container.id}") and len(directories(name)) == len(host().directories())


def test_cgroup_parent_that_is_not_there_yet(engine: poc.Engine, cli: CommandLine) -> None:
    name = f"poc-test-{os.getpid()}/below"
    first, second = (start(engine, cgroup_parent=name) for _ in range(2))
    first.remove(force=True)
    assert len(directories(name)) == len(host().directories())
    state = _fs.read_json(engine.paths.runtime(second.id, "state.json"))
    os.kill(state["monitor"][0], 9)
    second.wait()
    engine.containers.list()
    assert not directories(name) and not directories(os.path.dirname(name))
    for runtime in runtimes():
        groups = run(cli, *runtime, "--cgroupns=host", "--cgroup-parent", name, "busybox", "cat", "/proc/self/cgroup")
        assert f"/{name}/poc-" in groups and not directories(os.path.dirname(name))
    for path in ("../x", "a/../b", "a\nb", "x" * 300):
        assert "--cgroup-parent" in refused(cli, *ALONE, "--cgroup-parent", path, "busybox")


# ── limits of a process ──


def test_ulimit(engine: poc.Engine, cli: CommandLine) -> None:
    script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Su; ulimit -Hl"
    flags = [f"--ulimit={text}" for text in ("nofile=99:100", "core=0", "nproc=50", "memlock=8192:16384")]
    flags.append("--ulimit=nofile=90:91")
    for runtime in runtimes():
        assert run(cli, *runtime, *flags, "busybox", "sh", "-c", script).split() == ["90", "91", "0", "50", "16"]
    none = "nproc=-1" if resource.getrlimit(resource.RLIMIT_NPROC)[1] == -1 else "core=-1"
    for runtime in runtimes():
        assert run(cli, *runtime, "--ulimit", none, "busybox", "sh", "-c", "ulimit -Hu; ulimit -Hc").count("unlimited")
    container = start(engine, ulimits=[{"Name": "nofile", "Soft": 80, "Hard": 81}, "locks=5"])
    assert (done := container.exec_run(["sh", "-c", "ulimit -n"])) is not None and done.output == "80\n"
    assert "Max file locks            5 " in _fs.read_text(f"/proc/{inspect(container, 'State', 'Pid')}/limits")
    ulimits = [{"Name": "nofile", "Soft": 80, "Hard": 81}, {"Name": "locks", "Soft": 5, "Hard": 5}]
    assert inspect(container, "HostConfig", "Ulimits") == ulimits
    for wrong in ("nofile", "nofile=", "nofile=a", "nofile=1:2:3", "as=1", "nofile=5:4", "nofile=-1:4", "x\ny=1"):
        assert "--ulimit" in refused(cli, *ALONE, "--ulimit", wrong, "busybox")


@pytest.mark.skipif(may("CAP_SYS_RESOURCE"), reason="needs to be without CAP_SYS_RESOURCE")
def test_what_takes_cap_sys_resource(cli: CommandLine) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for runtime in runtimes():
        said = refused(cli, *ALONE, *runtime, "--ulimit", f"nofile=10:{hard + 1}", "busybox", "true")
        assert "rlimit" in said.lower() or "nofile" in said.lower()
        said = refused(cli, *ALONE, *runtime, "--oom-score-adj=-999", "busybox", "true")
        assert "oom_score_adj" in said or "oom score" in said.lower()


def test_oom_score_adj(engine: poc.Engine, cli: CommandLine) -> None:
    container = start(engine, oom_score_adj=777)
    assert _fs.read_text(f"/proc/{inspect(container, 'State', 'Pid')}/oom_score_adj") == "777"
    assert (done := container.exec_run(["cat", "/proc/self/oom_score_adj"])) is not None and done.output == "777\n"
    assert inspect(container, "HostConfig", "OomScoreAdj") == 777
    assert run(cli, "--oom-score-adj=1000", "busybox", "cat", "/proc/self/oom_score_adj") == "1000\n"
    for wrong in ("1001", "-1001", "much", ""):
        assert "--oom-score-adj" in refused(cli, *ALONE, f"--oom-score-adj={wrong}", "busybox")


def test_group_add(engine: poc.Engine, cli: CommandLine) -> None:
    assert run(cli, "--group-add=staff", "--group-add=7777", "busybox", "id", "-G") == "0 50 7777\n"
    assert run(cli, "--user=user", "--group-add=nogroup", "busybox", "id", "-G") == "1000 50 65534\n"
    container = start(engine, group_add=["staff", 8])
    assert (done := container.exec_run(["id", "-G"])) is not None and done.output == "0 8 50\n"
    assert inspect(container, "HostConfig", "GroupAdd") == ["staff", "8"]
    assert "unable to find group nosuch" in refused(cli, *ALONE, "--group-add=nosuch", "busybox")
    for wrong in ("", "a\nb", "a:b", str(1 << 40)):
        assert "group" in refused(cli, *ALONE, f"--group-add={wrong}", "busybox")


def test_sysctl(engine: poc.Engine, cli: CommandLine) -> None:
    wishes = {"kernel.msgmax": "4096", "net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "5", "kernel.sem": "1 2 3 4"}
    flags = [f"--sysctl={key}={value}" for key, value in wishes.items()]
    files = [f"/proc/sys/{key.replace('.', '/')}" for key in wishes]
    for runtime in runtimes():
        said = run(cli, *runtime, *flags, "busybox", "cat", *files)
        assert [line.split() for line in said.splitlines()] == [value.split() for value in wishes.values()]
    container = start(engine, sysctls=wishes)
    assert inspect(container, "HostConfig", "Sysctls") == wishes
    for wrong in ("kernel.panic=1", "vm.swappiness=1", "kernel.msgmax", "net..x=1", "net/x=1", "=1", "net.\n=1"):
        assert "--sysctl" in refused(cli, *ALONE, "--sysctl", wrong, "busybox")
    assert "--sysctl" in refused(cli, "--network=host", "--sysctl=net.ipv4.ip_forward=1", "busybox")
    assert "nosuch" in refused(cli, *ALONE, "--sysctl=net.nosuch=1", "busybox", "true")
    assert "Invalid argument" in refused(cli, *ALONE, "--sysctl=kernel.msgmax=much", "busybox", "true")


def test_anybody_may_use_low_ports_and_ping(cli: CommandLine) -> None:
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; nc -l -p 80 & sleep 0.2; kill $!"
    assert run(cli, "--user=user", "--cap-drop=ALL", "busybox", "sh", "-c", script) == "0\n"
    name = "net.ipv4.ip_unprivileged_port_start"
    assert run(cli, f"--sysctl={name}=99", "busybox", "cat", f"/proc/sys/{name.replace('.', '/')}") == "99\n"


# ── devices ──


@pytest.fixture
def node(tmp_path: Path) -> str:
    """A device that containers have not, and everybody may open for whatever: /dev/loop-control by another name."""
    os.mknod(tmp_path / "node", 0o644 | stat.S_IFCHR, os.stat("/dev/loop-control").st_rdev)
    return str(tmp_path / "node")


OPEN = "exec 2>/dev/null; true <$x && echo read; true >$x && echo written; true"


def test_device(cli: CommandLine, node: str, tmp_path: Path) -> None:
    """Its node with the host's numbers, and no more access than was asked for."""
    assert run(cli, "-e=x=/x", "busybox", "sh", "-c", f"mknod /x c 10 237; {OPEN}") == ""
    for runtime in runtimes():
        for mode, can in ((":r", "read\n"), (":w", "written\n"), (":rw", "read\nwritten\n"), ("", "read\nwritten\n")):
            flags = (*runtime, f"--device={node}:/dev/it{mode}", "-e=x=/dev/it")
            assert run(cli, *flags, "busybox", "sh", "-c", f"stat -c %t:%T:%a $x; {OPEN}") == f"a:ed:644\n{can}"
    (tmp_path / "link").symlink_to(node)
    assert run(cli, f"--device={tmp_path}/link", "busybox", "stat", "-c", "%t:%T", f"{tmp_path}/link") == "a:ed\n"
    wrong_modes = [f"/dev/kmsg:{text}" for text in ("x", "/x:rwx", "/x:rr", "/x:r:w")]
    for wrong in ("", ":", "kmsg", *wrong_modes, "/nosuch", "/etc/ssl/certs", "/etc/passwd"):
        assert "--device" in refused(cli, *ALONE, f"--device={wrong}", "busybox", "true")


def test_devices_last(engine: poc.Engine, node: str) -> None:
    """Beyond an update, and a start by which the host's device has come to have another number."""
    mapping = {"PathOnHost": node, "PathInContainer": "/dev/it", "CgroupPermissions": "r"}
    container = start(engine, devices=[mapping, "/dev/null:/dev/nothing"], environment={"x": "/dev/it"})
    assert inspect(container, "HostConfig", "Devices")[0] == mapping
    container.update(pids_limit=50)
    assert (done := container.exec_run(["sh", "-c", OPEN])) is not None and done.output == "read\n"
    container.stop()
    os.unlink(node)
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    container.start()
    done = container.exec_run(["stat", "-c", "%t:%T:%a", "/dev/it", "/dev/nothing"])
    assert done is not None and done.output.split()[0] == "1:3:600"


def test_device_directory(cli: CommandLine, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "below").mkdir(parents=True)
    os.mknod(place / "one", 0o666 | stat.S_IFCHR, os.makedev(1, 11))
    os.mknod(place / "below" / "two", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (place / "file").write_text("no device")
    script = "find /dev/all -type c | sort; head -c2 /dev/all/below/two | wc -c"
    said = run(cli, f"--device={place}:/dev/all", "busybox", "sh", "-c", script)
    assert said.split() == ["/dev/all/below/two", "/dev/all/one", "2"]


def test_device_beside_a_dev_that_is_brought_along(cli: CommandLine) -> None:
    """There nothing is made: the nodes are the host's, and the cgroup lets the container use this one."""
    before = sorted(os.listdir("/dev"))
    flags = ("-v", "/dev:/dev", "-e=x=/dev/loop-control")
    assert run(cli, *flags, "--device=/dev/loop-control:r", "busybox", "sh", "-c", OPEN) == "read\n"
    both = run(cli, *flags, "--device=/dev/loop-control:/dev/poc-other", "busybox", "sh", "-c", OPEN)
    assert both == "read\nwritten\n"
    assert sorted(os.listdir("/dev")) == before


def test_device_cgroup_rule(engine: poc.Engine, cli: CommandLine) -> None:
    make = ("-e=x=/x", "busybox", "sh", "-c", f"mknod /x c 10 237; {OPEN}")
    both = "read\nwritten\n"
    for rule, can in (("c 10:237 rwm", both), ("c 10:* w", "written\n"), ("c *:* r", "read\n"), ("a *:* rwm", both)):
        assert run(cli, f"--device-cgroup-rule={rule}", *make) == can
    container = start(engine, device_cgroup_rules=["c 10:237 r"])
    assert (done := container.exec_run(["sh", "-c", f"x=/x; mknod /x c 10 237; {OPEN}"])) is not None
    assert done.output == "read\n" and inspect(container, "HostConfig", "DeviceCgroupRules") == ["c 10:237 r"]
    for wrong in ("", "c", "c 1:2", "d 1:2 r", "c 1:2 x", "c 1:2 rrr", "c -1:2 r", "c 1:2 r\n", "c  1:2 r", "c 1:² r"):
        assert "device cgroup format" in refused(cli, *ALONE, f"--device-cgroup-rule={wrong}", "busybox")


def test_privileged_gets_devices_under_other_names_too(cli: CommandLine, node: str) -> None:
    flags = ("--privileged", f"--device={node}:/dev/other:r", "-e=x=/dev/other")
    assert run(cli, *flags, "busybox", "sh", "-c", OPEN) == "read\nwritten\n"


# ── names ──


def test_add_host(engine: poc.Engine, cli: CommandLine) -> None:
    flags = [f"--add-host={text}" for text in ("one:10.1.2.3", "two=fe80::1", "three:[::2]", "up:host-gateway")]
    lines = run(cli, *flags, "busybox", "cat", "/etc/hosts").splitlines()
    assert lines[-4:-1] == ["10.1.2.3\tone", "fe80::1\ttwo", "::2\tthree"]
    assert lines[-1] == f"{engine.networks.bridge().gateway}\tup"
    container = start(engine, extra_hosts={"one": "10.1.2.3"})
    done = container.exec_run(["ping", "-c1", "-w1", "one"])
    assert done is not None and "PING one (10.1.2.3)" in done.output
    assert inspect(container, "HostConfig", "ExtraHosts") == ["one:10.1.2.3"]
    for wrong in ("one", "one:", ":1.2.3.4", "one:1.2.3", "a b:1.2.3.4", "a\nb:1.2.3.4", "one:1.2.3.4\n6.6.6.6"):
        assert "--add-host" in refused(cli, *ALONE, "--add-host", wrong, "busybox")


def test_hosts_of_the_host(cli: CommandLine) -> None:
    done = cli("run", "--rm", "--network=host", "--add-host=one:10.1.2.3", "busybox", "cat", "/etc/hosts")
    own = f"{_fs.read_text('/etc/hosts')}\n" if os.path.exists("/etc/hosts") else ""
    assert done.stdout == f"{own}10.1.2.3\tone\n"


def test_dns(engine: poc.Engine, cli: CommandLine) -> None:
    flags = ("--dns=10.9.9.9", "--dns=fd00::1", "--dns-search=example.com", "--dns-search=a.b", "--dns-option=ndots:3")
    lines = set(run(cli, *flags, "busybox", "cat", "/etc/resolv.conf").splitlines())
    assert {"nameserver 10.9.9.9", "nameserver fd00::1", "search example.com a.b", "options ndots:3"} <= lines
    assert sum(line.startswith("nameserver") for line in lines) == 2
    assert "search" not in run(cli, "--dns-search=.", "busybox", "cat", "/etc/resolv.conf")
    container = start(engine, dns=["10.9.9.9"], dns_search=["a.b"], dns_opt=["rotate"])
    config = inspect(container, "HostConfig")
    assert (config["Dns"], config["DnsSearch"], config["DnsOptions"]) == (["10.9.9.9"], ["a.b"], ["rotate"])
    wrongs = {"--dns": ("x", ""), "--dns-search": ("a b", "-a", "5", ""), "--dns-option": ("a\nb", "")}
    for flag, values in wrongs.items():
        for wrong in values:
            assert flag in refused(cli, *ALONE, f"{flag}={wrong}", "busybox")


def test_domainname(engine: poc.Engine, cli: CommandLine) -> None:
    script = "cat /proc/sys/kernel/domainname; hostname; grep web /etc/hosts"
    for runtime in runtimes():
        said = run(cli, *runtime, "--domainname=example.com", "--hostname=web", "busybox", "sh", "-c", script)
        assert said.splitlines() == ["example.com", "web", "127.0.1.1\tweb.example.com web"]
    assert inspect(start(engine, domainname="example.com"), "Config", "Domainname") == "example.com"
    for wrong in ("a b", "a\n", "x" * 65):
        assert "domain name" in refused(cli, *ALONE, "--domainname", wrong, "busybox")


def test_expose(engine: poc.Engine, cli: CommandLine) -> None:
    container = start(engine, expose=["80", "53/udp", "8000-8002/tcp"])
    ports = ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
    assert inspect(container, "Config", "ExposedPorts") == {port: {} for port in ports}
    assert inspect(container, "NetworkSettings", "Ports") == dict.fromkeys(ports)
    container.stop()
    assert inspect(container, "NetworkSettings", "Ports") == {}
    for wrong in ("", "x", "0", "70000", "5-3", "80/http", "80/", "1-2-3", "-1", "²"):
        assert "--expose" in refused(cli, *ALONE, f"--expose={wrong}", "busybox")


def test_exposed_by_the_image(engine: poc.Engine, image_tar: str) -> None:
    config = {**IMAGE_CONFIG, "ExposedPorts": {"443/tcp": {}, "x": {}}}
    engine.images.store.add_tar(image_tar, "exposing", config=config)
    container = engine.containers.create("exposing", expose=["80"], network="none")
    assert inspect(container, "Config", "ExposedPorts") == {"x/tcp": {}, "80/tcp": {}, "443/tcp": {}}


# ── security ──


def test_no_new_privileges(engine: poc.Engine, cli: CommandLine) -> None:
    look = ["grep", "NoNewPrivs", "/proc/self/status"]
    for option, held in (("no-new-privileges", 1), ("no-new-privileges:true", 1), ("no-new-privileges=false", 0)):
        assert run(cli, "--security-opt", option, "busybox", *look) == f"NoNewPrivs:\t{held}\n"
    container = start(engine, security_opt=["no-new-privileges"])
    assert (done := container.exec_run(look)) is not None and done.output == "NoNewPrivs:\t1\n"
    assert inspect(container, "HostConfig", "SecurityOpt") == ["no-new-privileges"]


PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "comment": "E2BIG"},
        {"name": "chmod", "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
        {"names": ["chown", "fchownat"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["vax"]}},
    ],
}


def test_seccomp_profile(engine: poc.Engine, cli: CommandLine, tmp_path: Path) -> None:
    """docker's form of profiles, from a file; what holds under a condition only does so there."""
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE, indent=1))
    script = "mkdir /x; chmod 700 /tmp; rmdir /mnt && chown 1 /var && echo others"
    for runtime in runtimes():
        flags = (*ALONE, *runtime, f"--security-opt=seccomp={file}", "busybox", "sh", "-c", script)
        done = cli("run", "--rm", *flags)
        assert (done.stdout, done.stderr.count("\n")) == ("others\n", 2), done
        assert "/x': Argument list too long" in done.stderr and "/tmp: Operation not permitted" in done.stderr
        assert "chmod" not in cli("run", "--rm", "--cap-add=SYS_ADMIN", *flags).stderr
    container = start(engine, security_opt=[f"seccomp={json.dumps(PROFILE)}"])
    assert (done_ := container.exec_run(["mkdir", "/x"])) is not None and b"Argument list too long" in done_.stderr
    assert json.loads(inspect(container, "HostConfig", "SecurityOpt")[0].removeprefix("seccomp=")) == PROFILE


def test_seccomp_unconfined_and_builtin(cli: CommandLine) -> None:
    look = ["grep", "Seccomp:", "/proc/self/status"]
    assert run(cli, "busybox", *look) == "Seccomp:\t2\n"
    for runtime in runtimes():
        assert run(cli, *runtime, "--security-opt=seccomp=unconfined", "busybox", *look) == "Seccomp:\t0\n"
    assert run(cli, "--security-opt=seccomp:builtin", "--privileged", "busybox", *look) == "Seccomp:\t2\n"


def test_bad_seccomp_profiles(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
    for content in (
        b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"{}x",
        *(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", **more}).encode() for more in (
            {"defaultAction": "NO_SUCH"}, {"syscalls": [{**rule, "action": "NO_SUCH"}]},
            {"syscalls": [{**rule, "name": "x"}]},
            {"syscalls": 5}, {"syscalls": [{**rule, "includes": {"minKernel": "new"}}]}, {"archMap": [7]},
            {"architectures": ["SCMP_ARCH_X86_64"], "archMap": [{"architecture": "x"}]}, {"architectures": ["VAX"]},
            {"syscalls": [{**rule, "action": "SCMP_ACT_NOTIFY"}]},
        )),
    ):  # fmt: skip
        file.write_bytes(content)
        assert "seccomp" in refused(cli, *ALONE, f"--security-opt=seccomp={file}", "busybox", "true")
    assert "No such file" in refused(cli, *ALONE, "--security-opt=seccomp=/no/such", "busybox", "true")


def test_systempaths(cli: CommandLine) -> None:
    script = "mount | grep -c ' /proc/'; touch /proc/sys/kernel/panic && echo writable"
    assert int(cli("run", "--rm", *ALONE, "busybox", "sh", "-c", script).stdout) > 3
    flags = (*ALONE, "--name=one", "--security-opt=systempaths=unconfined")
    for runtime in runtimes():
        assert cli("run", *flags, *runtime, "busybox", "sh", "-c", script).stdout == "0\nwritable\n"
        host_config = json.loads(cli("inspect", "one").stdout)[0]["HostConfig"]
        assert (host_config["MaskedPaths"], host_config["ReadonlyPaths"], host_config["SecurityOpt"]) == ([], [], [])
        cli("rm", "one")


def test_other_security_options(cli: CommandLine) -> None:
    for fine in ("label=disable", "label:disable", "label=type:svirt_t", "apparmor=unconfined"):
        if not os.path.exists("/sys/fs/selinux/enforce"):
            run(cli, "--security-opt", fine, "busybox", "true")
    if not has_apparmor():
        assert "AppArmor is not on here" in refused(cli, *ALONE, "--security-opt=apparmor=x", "busybox", "true")
    for wrong in ("", "x", "x=y", "no-new-privileges=so", "label=x", "label=", "systempaths=x", "seccomp=", "a\nb=c"):
        assert "--security-opt" in refused(cli, *ALONE, f"--security-opt={wrong}", "busybox")


# ── the rest ──


def test_annotations(cli: CommandLine, engine: poc.Engine) -> None:
    flags = ("--annotation=org.example.a=b=c", "--annotation=empty")
    assert cli("create", "--name=one", *ALONE, *flags, "busybox").exit_code == 0
    container = engine.containers.get("one")
    wanted = {"org.example.a": "b=c", "empty": ""}
    assert container.spec()["annotations"] == inspect(container, "HostConfig", "Annotations") == wanted


def test_platform(cli: CommandLine) -> None:
    own = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    for fine in (own, f"linux/{own}", f"Linux/{own}", os.uname().machine, "linux"):
        run(cli, f"--platform={fine}", "busybox", "true")
    for wrong in ("linux/s390x", "windows/amd64", "riscv64", f"linux/{own}/v99", "", "a\nb"):
        assert f"this host is linux/{own}" in refused(cli, *ALONE, f"--platform={wrong}", "busybox", "true")


def test_refused(cli: CommandLine) -> None:
    for flags, reason in (
        (["--gpus=all"], "--gpus"),
        (["--pull=always"], "--pull always"),
        (["--kernel-memory=8m"], "--kernel-memory"),
        (["--pull=perhaps"], "'perhaps'"),
        (["-p", "80:80"], "-p"),
        (["-P"], "-P"),
        (["--link=a"], "--link"),
        (["--cpu-count=1"], "--cpu-count"),
    ):
        assert reason in refused(cli, *ALONE, *flags, "busybox", "true")


# ── limits ──


@needs("cgroup1:memory")
def test_memory_swappiness(engine: poc.Engine, cli: CommandLine) -> None:
    container = start(engine, mem_swappiness=7)
    assert _fs.read_text(f"{host().controllers['memory']}/{container.cgroup.path}/memory.swappiness") == "7"
    assert inspect(container, "HostConfig", "MemorySwappiness") == 7
    assert inspect(start(engine, mem_swappiness=-1), "HostConfig", "MemorySwappiness") is None
    assert "--memory-swappiness" in refused(cli, *ALONE, "--memory-swappiness=101", "busybox")


@needs("cgroup2:memory")
def test_memory_swappiness_is_v1s(cli: CommandLine) -> None:
    assert "swappiness" in refused(cli, *ALONE, "--memory-swappiness=7", "busybox")


def test_real_time(engine: poc.Engine, cli: CommandLine) -> None:
    """Only in a group with such a budget may a process be a real-time one."""
    directory = host().controllers.get("cpu", "")
    if host().v2("cpu") or not os.path.exists(f"{directory}/cpu.rt_runtime_us"):
        assert "cpu" in refused(cli, *ALONE, "--cpu-rt-runtime=1000", "busybox")
        return
    plain, real = start(engine), start(engine, cpu_rt_period=500000, cpu_rt_runtime=20000)
    one = os.sched_param(1)
    with pytest.raises(PermissionError):
        os.sched_setscheduler(inspect(plain, "State", "Pid"), os.SCHED_FIFO, one)
    os.sched_setscheduler(inspect(real, "State", "Pid"), os.SCHED_FIFO, one)
    real.update(cpu_rt_runtime=10000)
    assert _fs.read_text(f"{directory}/{real.cgroup.path}/cpu.rt_runtime_us") == "10000"
    config = inspect(real, "HostConfig")
    assert (config["CpuRealtimePeriod"], config["CpuRealtimeRuntime"]) == (500000, 10000)


# ── namespaces ──


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def first_of(container: poc.Container) -> int:
    pid: int = inspect(container, "State", "Pid")
    return pid


def said(container: poc.Container, script: str) -> str:
    done = container.exec_run(["sh", "-c", script])
    assert done is not None and (done.exit_code, done.stderr) == (0, b""), done
    return done.output


def variants() -> list[dict[str, Any]]:
    return [{"runtime": word.partition("=")[2]} if word else {} for word in ("", *(w for (w,) in runtimes()[1:]))]


def test_namespaces_of_the_host(engine: poc.Engine) -> None:
    for kind, field, key in (
        ("pid", "pid_mode", "PidMode"),
        ("ipc", "ipc_mode", "IpcMode"),
        ("uts", "uts_mode", "UTSMode"),
        ("cgroup", "cgroupns", "CgroupnsMode"),
        ("user", "userns_mode", "UsernsMode"),
    ):
        for variant in variants():
            container = start(engine, **{field: "host"}, **variant)
            assert namespace(first_of(container), kind) == namespace("self", kind)
            others = {"pid", "ipc", "uts", "cgroup", "mnt", "net"} - {kind}
            assert not any(namespace(first_of(container), other) == namespace("self", other) for other in others)
            assert inspect(container, "HostConfig", key) == "host"
            container.remove(force=True)
    host_config = inspect(start(engine), "HostConfig")
    modes = [host_config[key] for key in ("IpcMode", "CgroupnsMode", "PidMode", "UTSMode")]
    assert modes == ["private", "private", "", ""]


def test_what_is_seen_in_the_host_s_namespaces(engine: poc.Engine, cli: CommandLine) -> None:
    own = f"{_fs.read_text('/proc/self/comm')}\n"
    assert run(cli, "--pid=host", "busybox", "cat", f"/proc/{os.getpid()}/comm") == own
    names = run(cli, "--uts=host", "busybox", "sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME")
    assert names.split() == [socket.gethostname()] * 3
    assert "/poc-" in run(cli, "--cgroupns=host", "busybox", "cat", "/proc/self/cgroup")
    assert "/poc-" not in run(cli, "busybox", "cat", "/proc/self/cgroup")
    name = f"/dev/shm/poc-test-{os.getpid()}"
    for runtime in runtimes():
        run(cli, *runtime, "--ipc=host", "busybox", "sh", "-c", f"echo here >{name}")
        assert _fs.read_text(name) == "here"
        os.unlink(name)
    for mode, flag in (("--uts", "--hostname=x"), ("--uts", "--domainname=x"), ("--ipc", "--sysctl=kernel.sem=1")):
        refused(cli, *ALONE, f"{mode}=host", flag, "busybox", "true")
    for flag in ("--pid", "--uts", "--ipc", "--cgroupns", "--userns"):
        for wrong in ("x", "container:", "Host", "host\n"):
            assert flag in refused(cli, *ALONE, f"{flag}={wrong}", "busybox", "true")


def test_pid_host_ends_with_its_first_process(engine: poc.Engine, cli: CommandLine) -> None:
    """There the kernel does not end the others."""
    for flags in ((), ("--init",), ("--runtime=runc",) if len(runtimes()) > 1 else ()):
        mark = f"sleep {4000 + os.getpid() % 1000}.{len(flags)}"
        assert run(cli, *flags, "--pid=host", "busybox", "sh", "-c", f"{mark} & {mark} & sleep 0.1; echo up") == "up\n"
        assert mark not in subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout
    container = start(engine, pid_mode="host", command=["sh", "-c", "sleep 1000 & sleep 1000"])
    wait_until(lambda: len(container.cgroup.pids()) == 2)
    monitor = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    os.kill(monitor, 9)
    wait_until(lambda: container.status == "exited")
    assert container.cgroup.pids() == []


def test_init_beside_others_reaps_what_is_its_own(engine: poc.Engine) -> None:
    container = start(engine, init=True, pid_mode="host", command=["sh", "-c", "(sleep 0.3 & echo $!); sleep 1000"])
    wait_until(lambda: list(container.logs()))
    orphan = f"/proc/{int(next(container.logs())[1])}"
    wait_until(lambda: f"PPid:\t{first_of(container)}\n" in _fs.read_text(f"{orphan}/status"))
    wait_until(lambda: not os.path.exists(orphan))


def test_ipc_none(cli: CommandLine) -> None:
    for runtime in runtimes():
        assert run(cli, *runtime, "--ipc=none", "busybox", "ls", "-d", "/dev/mqueue") == "/dev/mqueue\n"
        done = cli("run", "--rm", *ALONE, *runtime, "--ipc=none", "busybox", "ls", "/dev/shm")
        assert "No such file" in done.stderr


def test_another_s_ipc(engine: poc.Engine, cli: CommandLine) -> None:
    donor = start(engine, name="donor", ipc_mode="shareable", shm_size="1m")
    said(donor, "echo hello >/dev/shm/file")
    for variant in variants():
        guest = start(engine, ipc_mode="container:donor", **variant)
        assert namespace(first_of(guest), "ipc") == namespace(first_of(donor), "ipc")
        assert inspect(guest, "HostConfig", "IpcMode") == f"container:{donor.id}"
        script = "cat /dev/shm/file; echo bye >/dev/shm/file; df -k /dev/shm | tail -1"
        assert said(guest, script).split()[:3] == ["hello", "shm", "1024"]
        assert said(donor, "cat /dev/shm/file; echo hello >/dev/shm/file") == "bye\n"
        third = start(engine, ipc_mode=f"container:{guest.short_id}")
        assert said(third, "cat /dev/shm/file; mount | grep -c /dev/shm") == "hello\n1\n"
        guest.remove(force=True)
        assert said(third, "cat /dev/shm/file") == said(donor, "cat /dev/shm/file") == "hello\n"
        third.remove(force=True)
    own = start(engine, ipc_mode="container:donor", tmpfs=["/dev/shm:size=2m"])
    assert said(own, "ls /dev/shm") == ""
    donor.stop()
    stopped = refused(cli, *ALONE, "--ipc=container:donor", "busybox", "true")
    assert "failed to join IPC namespace: container donor is not running" in stopped
    start(engine, name="private")
    assert "shareable" in refused(cli, *ALONE, "--ipc=container:private", "busybox", "true")
    assert "no such container: nosuch" in refused(cli, *ALONE, "--ipc=container:nosuch", "busybox", "true")


def test_a_shm_that_is_none_any_more(engine: poc.Engine, cli: CommandLine) -> None:
    """What the other container has made of it in the meantime is nothing to follow."""
    donor = start(engine, name="donor", ipc_mode="shareable", privileged=True)
    said(donor, "umount /dev/shm; rmdir /dev/shm; ln -s /etc /dev/shm")
    assert "its /dev/shm" in refused(cli, *ALONE, "--ipc=container:donor", "busybox", "true")


def test_another_s_processes(engine: poc.Engine, cli: CommandLine) -> None:
    donor = start(engine, name="donor")
    for variant in variants():
        guest = start(engine, pid_mode="container:donor", command=["sh", "-c", "sleep 1000 & sleep 1000"], **variant)
        assert namespace(first_of(guest), "pid") == namespace(first_of(donor), "pid")
        assert said(guest, "cat /proc/1/cmdline | tr '\\0' ' '").startswith("sh -c trap exit TERM")
        assert inspect(guest, "HostConfig", "PidMode") == f"container:{donor.id}"
        assert len(guest.top()[1]) == 2 and len(donor.top()[1]) <= 2
        guest.remove(force=True)
        assert "sleep 1000" not in said(donor, "ps")
    guest = start(engine, pid_mode="container:donor")
    donor.stop()
    assert guest.wait(timeout=10) == 137  # the kernel ends all with the first
    assert "failed to join PID namespace" in refused(cli, *ALONE, "--pid=container:donor", "busybox", "true")


def test_the_monitor_of_a_guest_is_killed(engine: poc.Engine) -> None:
    donor = start(engine)
    guest = start(engine, pid_mode=f"container:{donor.id}", ipc_mode="shareable", network=f"container:{donor.id}")
    os.kill(_fs.read_json(engine.paths.runtime(guest.id, "state.json"))["monitor"][0], 9)
    wait_until(lambda: guest.status == "exited")
    assert donor.status == "running" and len(donor.cgroup.pids()) in (1, 2)


def test_another_s_network(engine: poc.Engine, cli: CommandLine) -> None:
    donor = start(engine, name="donor", network="bridge", extra_hosts=["x:10.1.1.1"], hostname="web")
    listen = "while :; do echo served | nc -l -p 80; done"
    start(engine, network="container:donor", name="server", command=["sh", "-c", listen])
    for variant in variants():
        guest = start(engine, network="container:server", **variant)
        assert namespace(first_of(guest), "net") == namespace(first_of(donor), "net")
        script = "until nc -w5 127.0.0.1 80 </dev/null 2>/dev/null | grep served; do sleep 0.05; done"
        assert said(guest, script) == "served\n"
        assert said(guest, "hostname; echo $HOSTNAME") == "web\nweb\n"
        assert "10.1.1.1\tx" in said(guest, "cat /etc/hosts")
        said(guest, "echo 10.2.2.2 more >>/etc/hosts")
        assert said(donor, "tail -1 /etc/hosts") == "10.2.2.2 more\n"
        attrs = guest.attrs
        assert attrs["HostConfig"]["NetworkMode"] == f"container:{donor.id}"
        assert (attrs["NetworkSettings"]["Networks"], attrs["Config"]["Hostname"]) == ({}, "web")
        guest.remove(force=True)
    join = ("--network=container:donor", "busybox", "true")
    for flag in ("--hostname=x", "--dns=1.1.1.1", "--add-host=a:1.1.1.1", "--expose=80"):
        assert "conflicting options" in refused(cli, flag, *join)
    donor.stop()
    assert "cannot join network of a non running container" in refused(cli, *join)
    assert "no such container" in refused(cli, "--network=container:nosuch", "busybox", "true")
    assert "no such network" in refused(cli, "--network=container:", "busybox", "true")


def test_the_end_of_a_network_s_owner(engine: poc.Engine) -> None:
    """Its guest goes on without: the address is free for others, and can't be in use twice."""
    donor = start(engine, network="bridge")
    guest = start(engine, network=f"container:{donor.id}")
    address = inspect(donor, "NetworkSettings", "IPAddress")
    assert address in said(guest, "ip addr show dev eth0")
    os.kill(_fs.read_json(engine.paths.runtime(donor.id, "state.json"))["monitor"][0], 9)
    wait_until(lambda: donor.status == "exited")
    assert "eth0" not in said(guest, "ip link")
    second, third = (start(engine, network="bridge") for _ in range(2))
    guest = start(engine, network=f"container:{second.id}")
    second.stop()
    assert "eth0" not in said(guest, "ip link") and "eth0" in said(third, "ip link")
    second.start()  # without the one that is still there
    assert namespace(first_of(second), "net") != namespace(first_of(guest), "net")


# ── --attach ──


def test_attach_some_streams(engine: poc.Engine, cli: CommandLine) -> None:
    words = (*ALONE, "busybox", "sh", "-c", "echo out; echo err >&2; cat; exit 3")
    both = ("out\n", "err\n")
    for flags, seen in (
        ((), both),
        (("-a", "stdout"), ("out\n", "")),
        (("--attach=STDERR",), ("", "err\n")),
        (("-a", "stdout", "-astderr"), both),
        (("-i", "-a", "stdin", "-a", "stdout"), ("out\ntyped", "")),
    ):
        done = cli("run", "--name=one", *flags, *words, input="typed")
        assert done == (*seen, 3), flags
        logged = sorted(engine.containers.get("one").logs())
        assert logged[:1] == [("stderr", b"err\n")] and ("stdout", b"out\n") in logged
        cli("rm", "one")


def test_attach_stdin_alone(engine: poc.Engine, cli: CommandLine) -> None:
    done = cli("run", "-i", "-a", "stdin", *ALONE, "busybox", "sh", "-c", "cat; exit 4", input="typed\n")
    container = engine.containers.get(done.stdout.strip())
    assert done == (f"{container.id}\n", "", 4) and list(container.logs()) == [("stdout", b"typed\n")]
    assert "'x'" in refused(cli, *ALONE, "-a", "x", "busybox")
    assert "--detach" in refused(cli, *ALONE, "-d", "-a", "stdout", "busybox")


# ── --mac-address ──


def test_mac_address(engine: poc.Engine, cli: CommandLine) -> None:
    wish = "92:d0:c6:0a:29:33"
    done = cli("run", "--name=one", f"--mac-address={wish.upper()}", "busybox", "cat", "/sys/class/net/eth0/address")
    assert done == (f"{wish}\n", "", 0)
    cli("rm", "one")
    container = start(engine, network="internal", mac_address=wish.replace(":", "-"))
    assert wish in said(container, "ip link show dev eth0")
    networks = inspect(container, "NetworkSettings", "Networks")
    assert networks["internal"]["MacAddress"] == wish
    for wrong in ("", "x", wish[:-3], f"{wish[:-1]}g", f"01{wish[2:]}", "00:00:00:00:00:00", f"{wish}:00"):
        assert "mac-address" in refused(cli, f"--mac-address={wrong}", "busybox", "true")
    for mode in ("none", "host", f"container:{container.id}"):
        said_ = refused(cli, f"--network={mode}", f"--mac-address={wish}", "busybox")
        assert "mac-address and the network mode" in said_
