"""`--runtime`: poc's containers carried out by runc, by crun, and by poc-runtime from this checkout.

What a container is like is tested elsewhere; here, that it is the same whoever makes it, and that nothing of another
runtime's is left. crun takes no host that mixes v1 and v2 cgroups: there poc runs without the v2 mount for it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import faults
import leaks
import pytest
from conftest import CHECKOUT, CommandLine, CommandResult, Terminal, needs, wait_until
from test_cli import on_terminal, use_a_shell
from test_run import loops_on

import poc
from poc import _fs, errors
from poc.cgroups import host

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

pytestmark = needs("root", "overlay")

OURS = f"{CHECKOUT}/scripts/poc-runtime"
ALONE = ("--network", "none")
PATIENT = ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"]


class Foreign(faults.MarkedCommandLine):
    """The command line; `run` runs a container with ``runtime``."""

    def __init__(self, root: str, runtime: str) -> None:
        super().__init__(root)
        self.runtime = runtime
        if runtime == "crun" and host().mode == "hybrid":
            self.within(f"umount {host().unified}")

    def within(self, script: str) -> None:
        """Run poc in a mount namespace of its own in which this was done."""
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{script} && exec "$@"', "-"]
        self.command = [*apart, *self.command]

    def run(self, *words: str, input: str = "") -> CommandResult:
        return self("run", "--runtime", self.runtime, *words, input=input)


@pytest.fixture(params=["runc", "crun", OURS], ids=os.path.basename)
def cli(request: pytest.FixtureRequest, engine: poc.Engine, engine_root: str) -> Foreign:
    if shutil.which(request.param) is None:
        pytest.skip(f"needs the program {request.param}")
    return Foreign(engine_root, request.param)


def only(engine: poc.Engine) -> poc.Container:
    (container,) = engine.containers.list(all=True)
    return container


def left(engine: poc.Engine) -> list[str]:
    """What there is of runs that have ended."""
    kept = tuple(f"{engine.paths.data}/{kind}/" for kind in ("containers", "names"))
    return [what for what in faults.leftovers(engine) if not what.startswith(kept)]


# ── a container like any other ──


def test_streams_and_exit_code(cli: Foreign, engine: poc.Engine) -> None:
    script = "cat; echo err >&2; exit 7"
    assert cli.run(*ALONE, "-i", "--name", "told", "busybox", "sh", "-c", script, input="in\n") == ("in\n", "err\n", 7)
    attrs = only(engine).attrs
    assert (attrs["HostConfig"]["Runtime"], attrs["State"]["ExitCode"]) == (cli.runtime, 7)
    assert cli("start", "-ai", "told", input="again\n") == ("again\n", "err\n", 7)
    assert cli("logs", "told").stdout == "in\nagain\n"
    assert cli("rm", "told").exit_code == 0
    faults.await_nothing(lambda: left(engine))


def test_what_was_asked_for_holds(cli: Foreign, tmp_path: Path) -> None:
    """What a container is given, and that the filter, masks and read-only paths of poc's configuration are in force."""
    (tmp_path / "below").mkdir()
    script = """
        id -u; pwd; hostname; echo $A; cat /v/hello
        for file in /x /v/x /v/below/x /t/x /sys/x /proc/sys/kernel/hostname; do
            (echo x >$file) 2>/dev/null && echo writes $file
        done
        df -k /t | tail -n1 | awk '{print $2}'; wc -c </proc/interrupts
        grep -E '^(CapInh|CapEff|CapBnd|Seccomp|SigIgn|SigBlk):' /proc/self/status; ls /proc/self/fd
        unshare -U true 2>/dev/null || echo refused; cat /proc/self/cgroup | cut -d: -f3 | sort -u; echo to >/dev/stdout
    """
    (tmp_path / "hello").write_text("hello\n")
    tmp_path.chmod(0o755)
    options = (
        *("-u", "user", "-w", "/new/place", "-h", "me", "-e", "A=1", "-v", f"{tmp_path}:/v:ro", "--read-only"),
        *("--tmpfs", "/t:size=1m,mode=1777", "--cap-drop", "ALL", "--cap-add", "CHOWN", *ALONE),
    )
    done = cli.run("--rm", *options, "busybox", "sh", "-c", script)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    none, chown = f"{0:016x}", f"{1:016x}"
    assert (lines, done.stderr, done.exit_code) == (
        [
            *("1000", "/new/place", "me", "1", "hello", "writes /t/x", "1024", "0"),
            *(f"SigBlk: {none}", f"SigIgn: {none}", f"CapInh: {none}", f"CapEff: {none}", f"CapBnd: {chown}"),
            *("Seccomp: 2", "0", "1", "2", "3", "refused", "/", "to"),
        ],
        "",
        0,
    )
    privileged = cli.run("--rm", *ALONE, "--privileged", "busybox", "sh", "-c", "mount -t tmpfs x /mnt && echo mounted")
    assert privileged == ("mounted\n", "", 0)


def test_a_terminal(cli: Foreign) -> None:
    words = ("run", "--runtime", cli.runtime, "--rm", "-it", *ALONE, "-u", "user", "busybox", "sh")
    with closing(Terminal()) as terminal, on_terminal(cli, terminal, *words) as process:
        use_a_shell(terminal, process)


def test_in_the_background(cli: Foreign, engine: poc.Engine) -> None:
    result = cli.run("-d", "--name", "back", *ALONE, "busybox", *PATIENT)
    container = only(engine)
    assert result == (f"{container.id}\n", "", 0)
    wait_until(lambda: cli("logs", "back").stdout == "up\n")
    pid = container.attrs["State"]["Pid"]
    assert container.status == "running" and _fs.read_bytes(f"/proc/{pid}/cmdline").startswith(b"sh\0-c\0")
    assert not [mount for mount in leaks.mounts() if container.id in mount], "nothing on the host's mount table"
    assert cli("stop", "back") == ("back\n", "", 0)
    assert (container.attrs["State"]["ExitCode"], cli("logs", "back").stdout) == (5, "up\nbye\n")
    faults.await_nothing(lambda: left(engine))
    assert cli("start", "back").exit_code == 0
    assert cli("kill", "back").exit_code == 0
    assert cli("wait", "back").stdout == "137\n"
    assert cli("start", "back").exit_code == 0
    assert cli("rm", "-f", "back").exit_code == 0
    assert cli("create", "--runtime", cli.runtime, "--name", "later", *ALONE, "busybox", "echo", "hi").exit_code == 0
    assert cli("start", "-a", "later") == ("hi\n", "", 0)
    assert cli.run("-d", "--rm", *ALONE, "busybox", "true").exit_code == 0
    wait_until(lambda: left(engine) == [] and len(engine.containers.list(all=True)) == 1)


@needs("cgroup:memory", "cgroup:pids")
def test_limits(cli: Foreign, engine: poc.Engine) -> None:
    fork = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done"
    limited = cli.run("--rm", *ALONE, "--pids-limit", "40", "busybox", "sh", "-c", fork)
    assert "can't fork" in limited.stderr
    use = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null"
    memory = ("-m", "32m", "--memory-swap", "32m")
    done = cli.run("--name", "large", *ALONE, *memory, "busybox", "sh", "-c", f"exec {use}")
    assert done.exit_code == 137 and done.stderr.startswith("Error: out of memory:")
    state = only(engine).attrs["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)
    assert cli.run("--rm", *ALONE, "busybox", "sh", "-c", f"exec {use}") == ("", "", 0)
    script = "timeout 2 sh -c 'while :; do :; done'; cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat"
    told = cli.run("--rm", *ALONE, "--cpus", "0.2", "busybox", "sh", "-c", script).stdout.split()
    assert int(told[told.index("nr_throttled") + 1]) > 5


@needs("program:mkfs.ext4")
def test_a_disk_of_its_own_size(cli: Foreign, engine: poc.Engine) -> None:
    script = (
        "cat /kept 2>/dev/null; echo kept >/kept; dd if=/dev/zero of=/big bs=1M count=64 2>&1 | grep -o 'No space.*'"
    )
    options = (*ALONE, "--storage-opt", "size=16m", "--name", "small")
    assert cli.run(*options, "busybox", "sh", "-c", f"{script}; rm /big").stdout == "No space left on device\n"
    assert cli("start", "-a", "small").stdout == "kept\nNo space left on device\n"
    wait_until(lambda: not loops_on(only(engine).id))


@needs("program:nft")
def test_on_the_bridge(cli: Foreign, engine: poc.Engine, outside: int) -> None:
    script = "ip -o -4 address show eth0 | awk '{print $4}'; ping -c1 -W2 {} | grep -c ' 0% packet'; hostname -i"
    gateway = engine.networks.bridge().gateway
    for network in ("bridge", "internal"):
        done = cli.run("-d", "--network", network, "--name", network, "busybox", "sleep", "1000")
        assert (done.stderr, done.exit_code) == ("", 0)
        told = cli.run("--rm", "--network", network, "busybox", "sh", "-c", script.replace("{}", gateway))
        address, pings, own = told.stdout.split()
        assert (pings, own) == ("1", address.partition("/")[0])
        other = engine.containers.get(network).attrs["NetworkSettings"]["IPAddress"]
        assert cli.run("--rm", "busybox", "ping", "-c1", "-W2", other).exit_code == 0
        assert cli("rm", "-f", network).exit_code == 0
    assert engine.networks.leases().owners() == {}
    named = cli.run("--rm", "--network", "host", "busybox", "ls", "/sys/class/net").stdout.split()
    assert "uplink" in named, "the host is this test's network namespace"


# ── killed ──


def test_a_killed_monitor(cli: Foreign, engine: poc.Engine) -> None:
    """Whoever looks next ends the container and takes away what its runtime kept."""
    words = ("run", "--runtime", cli.runtime, "--name", "seen", "-t", "busybox", "sleep", "1000")
    client = cli.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: [container.status for container in engine.containers.list(all=True)] == ["running"])
    container = only(engine)
    pid, monitor = container.attrs["State"]["Pid"], monitor_of(engine, container)
    assert os.listdir(f"{engine.paths.runtime(container.id)}/runtime/state")
    os.kill(monitor, signal.SIGKILL)
    _, said = client.communicate(timeout=20)
    assert (client.returncode, said) == (125, b"Error: the container's monitor was killed, and the container with it\n")
    assert _fs.identity(pid) is None
    state = container.attrs["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 137, "its monitor was killed")
    faults.await_nothing(lambda: left(engine))
    assert cli.run("-d", "--rm", *ALONE, "busybox", "sleep", "1000").exit_code == 0
    (second,) = engine.containers.list()
    os.kill(monitor_of(engine, second), signal.SIGKILL)
    wait_until(lambda: [found.name for found in engine.containers.list(all=True)] == ["seen"])
    faults.await_nothing(lambda: left(engine))


def test_killed_while_the_runtime_is_at_work(cli: Foreign, engine: poc.Engine) -> None:
    """At some moment of `create`, `start` or `delete`: the monitor, or the runtime's own process."""
    seed = int(os.environ.get("POC_TEST_SEED", os.getpid()))
    dice = random.Random(seed)
    killed = 0
    for turn in range(16):
        command = cli.start("run", "--runtime", cli.runtime, "--rm", *ALONE, "busybox", "true", stderr=subprocess.PIPE)
        wait_until(lambda: [process for process in leaks.our_processes() if process.command == "poc-monitor"])
        time.sleep(dice.uniform(0, 0.1))
        everyone = leaks.our_processes()
        monitors = {process.pid for process in everyone if process.command == "poc-monitor"}
        for process in everyone:
            chosen = process.pid in monitors if turn % 2 else process.parent in monitors
            if chosen and process.state != "Z":
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
        _, said = command.communicate(timeout=40)
        assert said.count(b"\n") <= 1, f"seed {seed}: {said.decode()}"
        for container in engine.containers.list(all=True):
            container.remove(force=True)
        faults.await_nothing(lambda: faults.leftovers(engine), f"seed {seed}, turn {turn}: ")
    assert killed, f"seed {seed}: nobody was there to be killed"


def monitor_of(engine: poc.Engine, container: poc.Container) -> int:
    pid: int = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    return pid


@needs("program:runc")
@pytest.mark.timeout(600)
def test_a_monitor_killed_at_a_step(engine: poc.Engine) -> None:
    def run() -> None:
        container = engine.containers.run("busybox", ["true"], detach=True, remove=True, network="none", runtime="runc")
        with suppress(errors.ContainerNotFound):
            container.wait()

    seed = int(os.environ.get("POC_TEST_SEED", os.getpid()))
    stride = 1 if os.environ.get("POC_EVERY_STEP") else 6
    step = random.Random(seed).randrange(stride)
    while True:
        killed = faults.killed_at(step, faults.MONITOR, run)
        note = f"seed {seed}, step {step}: "
        assert not killed.text or "was killed" in killed.text, note + killed.text
        for container in engine.containers.list(all=True):
            container.remove(force=True)
        faults.await_nothing(lambda: faults.leftovers(engine), note)
        if not killed.reached:
            break
        step += stride
    assert step > 60, "it has so many steps"


# ── errors, and which runtime it is ──


def test_what_the_program_lacks(cli: Foreign, engine: poc.Engine) -> None:
    for command, code in (("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126)):
        for terminal in ((), ("-t",)):
            done = cli.run("--rm", *terminal, *ALONE, "busybox", command)
            assert (done.stdout, done.exit_code) == ("", code), done
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("Error: "), done
            assert os.path.basename(cli.runtime) in done.stderr
    refused = cli.run("--init", *ALONE, "busybox", "true")
    assert refused.exit_code == 125 and "--init" in refused.stderr and refused.stderr.count("\n") == 1
    assert engine.containers.list(all=True) == []
    faults.await_nothing(lambda: left(engine))


def test_a_store_with_a_difficult_name(cli: Foreign, engine_root: str, tmp_path: Path) -> None:
    root = f"{tmp_path}/a, b: {'long' * 30}"
    shutil.copytree(engine_root, root, symlinks=True)
    cli.command[cli.command.index(engine_root)] = root
    for terminal in ((), ("-t",)):
        assert cli.run("--rm", *terminal, *ALONE, "busybox", "echo", "hi").stdout.split() == ["hi"]
    assert cli("prune", "--force", "--images").exit_code == 0


def test_beside_a_running_container(cli: Foreign, engine: poc.Engine) -> None:
    """What needs no runtime any more: exec, pause, restart."""
    assert cli.run("-d", "--name", "runs", "-u", "user", *ALONE, "busybox", "sleep", "1000").exit_code == 0
    script = "id -u; cat; grep -E '^(CapEff|Seccomp):' /proc/self/status; echo err >&2; exit 4"
    told = f"1000\nin\nCapEff:\t{0:016x}\nSeccomp:\t2\n"
    assert cli("exec", "-i", "runs", "sh", "-c", script, input="in\n") == (told, "err\n", 4)
    assert cli("pause", "runs").exit_code == 0
    assert "(Paused)" in cli("ps").stdout
    assert cli("unpause", "runs").exit_code == cli("restart", "-t", "0", "runs").exit_code == 0
    assert cli("exec", "-t", "runs", "tty").stdout == "/dev/pts/0\n"
    assert cli("pause", "runs").exit_code == cli("rm", "-f", "runs").exit_code == 0
    faults.await_nothing(lambda: left(engine))


# Whose container is a process of the host, as it is for a runtime with a virtual machine.
MACHINE = """#!/bin/sh
for word; do [ "$word" = --root ] && next=root || { [ "$next" = root ] && root=$word; next=; }; done
mkdir -p "$root"
case "$*" in
*" create "*) (echo up; exec sleep 1000) & echo $! >"$root/pid"; cp "$root/pid" "$root/../pid" ;;
*" delete "*) kill -9 $(cat "$root/pid"); echo deleted >>"$root/../../../../deleted" ;;
esac
"""


def test_a_runtime_with_a_machine_of_its_own(plain: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    path = tmp_path / "machine"
    path.write_text(MACHINE)
    path.chmod(0o755)
    assert plain("run", "-d", "--name", "vm", *ALONE, "--runtime", str(path), "busybox", "true").exit_code == 0
    wait_until(lambda: plain("logs", "vm").stdout == "up\n")
    refused = plain("exec", "vm", "true")
    assert (refused.exit_code, refused.stderr) == (
        125,
        f"Error: exec: {path} does not run containers as processes of this host\n",
    )
    os.kill(monitor_of(engine, only(engine)), signal.SIGKILL)
    wait_until(lambda: only(engine).status == "exited")
    faults.await_nothing(lambda: left(engine))
    assert plain("start", "vm").exit_code == plain("kill", "-s", "TERM", "vm").exit_code == 0
    assert plain("wait", "vm").stdout == "143\n"
    faults.await_nothing(lambda: left(engine))
    deleted = f"{engine.paths.data}/deleted"
    with open(deleted) as file:
        assert file.read() == "deleted\ndeleted\n"
    os.unlink(deleted)


@pytest.fixture
def plain(engine: poc.Engine, engine_root: str) -> CommandLine:
    return CommandLine(engine_root)


FAILURES = {
    "log": (
        """cat >$4 <<'END'\n{"level":"error","msg":"first"}\n{"level":"error","msg":"from the\\nlog"}\nEND\nexit 3""",
        "fails create: from the log\n",
    ),
    "stderr": ("echo words >&2; echo the last words >&2; exit 3", "the last words"),
    "silence": ("exit 3", "it ended with 3"),
    "killed": ("kill -9 $$", "it ended with -9"),
    "no container": ("exit 0", "has created a container without a process"),
    "no child": ('while [ "$1" != --pid-file ]; do shift; done; echo 1 >$2', "process 1 is not its child"),
    "no script": ("#", "No such file or directory"),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("terminal", [(), ("-t",)], ids=["pipes", "terminal"])
def test_a_runtime_that_fails(plain: CommandLine, engine: poc.Engine, tmp_path: Path, kind: str, terminal: Any) -> None:
    body, text = FAILURES[kind]
    path = tmp_path / "fails"
    path.write_text(f"#!/{'no/such' if body == '#' else 'bin/sh'}\n{body}\n")
    path.chmod(0o755)
    if terminal and kind.startswith("no c"):
        text = "the runtime has sent no terminal"
    done = plain("run", *terminal, "--runtime", str(path), "busybox", "true")
    assert (done.stdout, done.exit_code, done.stderr.count("\n")) == ("", 125, 1), done
    assert done.stderr.startswith("Error: ") and text in done.stderr, done
    assert engine.containers.list(all=True) == []
    faults.await_nothing(lambda: left(engine))


def test_which_runtime(engine: poc.Engine, engine_root: str, tmp_path: Path) -> None:
    """A path, a name of the settings, a program in PATH; what there is not is said before anything is made."""
    cli = CommandLine(engine_root)
    (tmp_path / "file").touch()
    for name, text in (
        ("nosuch", "unknown runtime 'nosuch': it is neither in /etc/poc/config.toml nor a program in PATH"),
        ("", "unknown runtime ''"),
        (f"{tmp_path}/nosuch", f"runtime {tmp_path}/nosuch: not found"),
        (f"{tmp_path}/file", f"runtime {tmp_path}/file: not executable"),
        (str(tmp_path), f"runtime {tmp_path}: not a file"),
    ):
        for verb in ("run", "create"):
            done = cli(verb, "--runtime", name, "busybox", "true")
            assert (done.exit_code, done.stderr.count("\n")) == (125, 1) and text in done.stderr, done
    assert not os.path.exists(f"{engine.paths.data}/containers")
    assert cli("run", "--rm", *ALONE, "--runtime", "poc", "--init", "busybox", "echo", "hi") == ("hi\n", "", 0)

    settings = Foreign(engine_root, "")
    upper, work, file = (tmp_path / name for name in ("upper", "work", "upper/poc/config.toml"))
    file.parent.mkdir(parents=True)
    work.mkdir()
    settings.within(f"mount -t overlay -o lowerdir=/etc,upperdir={upper},workdir={work} none /etc")
    script = tmp_path / "named"
    script.write_text(f'#!/bin/sh\n[ "$1" = --quick ] && shift && exec {OURS} "$@"\n')
    script.chmod(0o755)
    file.write_text(f'default-runtime = "mine"\n[runtimes]\nmine = "{OURS}"\nother = ["{script}", "--quick"]\n')
    for words, name in ((("--runtime", "other"), "other"), ((), "mine"), (("--runtime", "poc"), "poc")):
        assert settings("run", "--name", "it", *words, *ALONE, "busybox", "echo", "hi") == ("hi\n", "", 0)
        assert json.loads(settings("inspect", "it").stdout)[0]["HostConfig"]["Runtime"] == name
        assert settings("rm", "it").exit_code == 0
    for text, reason in (
        ("default-runtime = 3", "default-runtime is a name"),
        ("default-runtime = [", "end of document"),
        ('default-runtime = "nosuch"', "unknown runtime 'nosuch'"),
        ("default-runtimes = 'poc'", "unknown key 'default-runtimes'"),
        ("default-runtime = 'x'\n[runtimes]\nx = 3", "runtimes.x is neither a path nor a list of words"),
        ("default-runtime = 'x'\n[runtimes]\npoc = '/bin/x'", "runtimes.poc: a runtime can't be called that"),
        ("default-runtime = 'x'\n[runtimes]\nx = 'runc'", "runtimes.x: 'runc' is no absolute path"),
    ):
        file.write_text(text)
        done = settings("run", "busybox", "true")
        assert (done.exit_code, done.stderr.count("\n")) == (125, 1) and reason in done.stderr, done
    assert engine.containers.list(all=True) == []


@needs("program:runc")
def test_from_the_library(engine: poc.Engine) -> None:
    """In the calling process nothing changes: neither its mounts nor who its children are."""
    before = os.readlink("/proc/self/ns/mnt")
    result = engine.containers.run("busybox", ["cat"], stdin=b"hi\n", network="none", remove=True, runtime="runc")
    assert (result.stdout, result.exit_code) == (b"hi\n", 0)
    with pytest.raises(errors.CommandNotFound, match=r"runc create: .*nosuch"):
        engine.containers.run("busybox", ["nosuch"], network="none", runtime="runc")
    with pytest.raises(errors.InvalidArgument, match="unknown runtime 'nosuch'"):
        engine.containers.run("busybox", ["true"], runtime="nosuch")
    container = engine.containers.create("busybox", ["sleep", "1000"], network="none", runtime=OURS)
    container.start()
    assert container.attrs["HostConfig"]["Runtime"] == OURS
    container.remove(force=True)
    assert os.readlink("/proc/self/ns/mnt") == before and engine.containers.list(all=True) == []
