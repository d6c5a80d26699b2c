"""`poc-runtime` on bundles, as an engine calls it: one test for it and for runc wherever they are to be alike."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import CHECKOUT, needs, wait_until
from oci_examples import PATH, merge

from poc import _processes
from poc._fs import is_alive, read_text
from poc.cgroups import host
from poc.runtime import lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(90)]


class Result(NamedTuple):
    stdout: str
    stderr: str
    exit_code: int


class Runtime:
    """An OCI runtime with a state directory of its own. Output of a container goes to the caller's files."""

    def __init__(self, command: list[str], root: str) -> None:
        self.root = root
        self.command = [*command, "--root", root]
        self.ids: set[str] = set()

    def __call__(self, *words: str, output: int | None = None, input: str = "", **options: Any) -> Result:
        """One command. ``output``: stdout and stderr go to this descriptor, not to the result."""
        if words[0] in ("create", "run"):
            self.ids.add(words[-1])
        streams: dict[str, Any] = {"capture_output": True} if output is None else {"stdout": output, "stderr": output}
        done = subprocess.run([*self.command, *words], input=input, text=True, timeout=30, **streams, **options)
        return Result(done.stdout or "", done.stderr or "", done.returncode)

    def state(self, id: str) -> dict[str, Any]:
        result = self("state", id)
        assert result.exit_code == 0, result.stderr
        state: dict[str, Any] = json.loads(result.stdout)
        return state

    def until(self, id: str, status: str) -> None:
        """Wait for the kernel to get there; it has no event for it."""
        deadline = time.monotonic() + 20
        while self.state(id)["status"] != status:
            assert time.monotonic() < deadline, self.state(id)
            time.sleep(0.01)


class Bundle:
    """A bundle with busybox in ``rootfs``. Change ``config``, then `write`."""

    def __init__(self, directory: str, rootfs: str) -> None:
        self.directory = directory
        self.rootfs = rootfs
        cgroup = f"/poc-test-{os.path.basename(directory)}"
        self.config = merge({"root": {"path": rootfs}, "linux": {"cgroupsPath": cgroup}})
        self.write()

    def write(self, *args: str) -> str:
        """Write config.json, with the command ``sh -c args[0]`` or ``args``. Returns the bundle's directory."""
        if args:
            self.config["process"]["args"] = ["sh", "-c", args[0]] if len(args) == 1 else list(args)
        with open(f"{self.directory}/config.json", "w") as file:
            json.dump(self.config, file)
        return self.directory


@pytest.fixture
def bundle(tmp_path: Path, rootfs: str) -> Bundle:
    directory = tmp_path / f"b{os.getpid()}"
    directory.mkdir()
    return Bundle(str(directory), rootfs)


def _poc(directory: str) -> Runtime:
    start = os.path.join(CHECKOUT, "scripts", "start.py")
    return Runtime([sys.executable, "-I", "-S", "-X", "utf8", start, "poc-runtime"], f"{directory}/run")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """`poc-runtime`; what a test leaves is deleted."""
    yield from _deleting(_poc(str(tmp_path)))


@pytest.fixture(params=["poc-runtime", "runc"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    """`poc-runtime`, then runc: what one test says of both."""
    if request.param == "runc":
        if shutil.which("runc") is None:
            pytest.skip("needs the program runc")
        yield from _deleting(Runtime(["runc"], f"{tmp_path}/runc"))
    else:
        yield from _deleting(_poc(str(tmp_path)))


def _deleting(runtime: Runtime) -> Iterator[Runtime]:
    yield runtime
    for id in [id for id in runtime.ids if os.path.exists(f"{runtime.root}/{id}/")]:
        done = runtime("delete", "--force", id)
        assert done.exit_code == 0, done.stderr


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A file for a container's output; calling it gives what is in it. Its ``fd`` attribute is the descriptor."""
    with open(tmp_path / "output", "w+") as file:

        def read() -> str:
            return (tmp_path / "output").read_text()

        read.fd = file.fileno()  # type: ignore[attr-defined]
        yield read


# ── the life of a container ──────────────────────────────────────────────────────────────────────────────


def test_life_as_in_runc(each: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    """create, state, start, kill and delete: the same states, the same files, nothing left."""
    bundle.config["annotations"] = {"org.example": "yes"}
    bundle.write('echo "started $0"; trap "exit 5" TERM; while :; do sleep 0.02; done')
    pid_file = tmp_path / "pid"

    made = each("create", "--bundle", bundle.directory, "--pid-file", str(pid_file), "one", output=output.fd)
    assert made.exit_code == 0, output()
    state = each.state("one")
    assert {key: state[key] for key in ("id", "status", "bundle", "rootfs", "annotations", "owner")} == {
        "id": "one",
        "status": "created",
        "bundle": bundle.directory,
        "rootfs": bundle.rootfs,
        "annotations": state["annotations"],
        "owner": "",
    }
    assert state["annotations"]["org.example"] == "yes"
    assert state["pid"] == int(pid_file.read_text())
    assert os.path.exists(f"/proc/{state['pid']}")
    assert output() == ""

    assert each("create", "--bundle", bundle.directory, "one", output=output.fd).exit_code == 1
    assert each("start", "one").exit_code == 0
    assert each.state("one")["status"] == "running"
    again = each("start", "one")
    assert again.exit_code == 1 and again.stderr.count("\n") <= 2
    refused = each("delete", "one")
    assert refused.exit_code == 1 and "one that is not stopped: running" in refused.stderr

    each.until("one", "running")
    assert each("kill", "one", "TERM").exit_code == 0
    each.until("one", "stopped")
    assert each.state("one")["pid"] == 0
    late = each("kill", "one", "9")
    assert late.exit_code == 1 and "container not running" in late.stderr
    assert each("delete", "one").exit_code == 0
    gone = each("state", "one")
    assert gone.exit_code == 1 and "does not exist" in gone.stderr
    assert each("delete", "one").exit_code == 1
    assert each("delete", "--force", "one").exit_code == 0
    assert os.listdir(each.root) in ([], [".seccomp"])


def test_run_ends_as_its_program(each: Runtime, bundle: Bundle) -> None:
    bundle.write('cat; echo oops >&2; echo "$HOME $(hostname) $$"; exit 3')
    done = each("run", "--bundle", bundle.directory, "two", input="in\n")
    assert done == ("in\n/root bundle 1\n", "oops\n", 3)
    bundle.write("kill -KILL $$; sleep 5; echo no")
    bundle.config["linux"]["namespaces"].remove({"type": "pid"})  # as process 1 it would not die of its own signal
    bundle.write()
    assert each("run", "--bundle", bundle.directory, "two").exit_code == 137
    assert each("list", "-q").stdout == ""


def test_a_user_may_open_the_pipes_it_was_given(each: Runtime, bundle: Bundle) -> None:
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    bundle.write("cat < /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr")
    assert each("run", "--bundle", bundle.directory, "user", input="in\n") == ("in\nout\n", "err\n", 0)


@pytest.mark.parametrize("args", [["nowhere"], ["/no/where"]])
def test_a_program_that_is_not_there_fails_create(each: Runtime, bundle: Bundle, args: list[str]) -> None:
    """Docker tells its exit status 127 from these words."""
    bundle.write(*args, "argument")
    done = each("create", "--bundle", bundle.directory, "three")
    assert done.exit_code == 1
    assert "executable file not found in $PATH" in done.stderr or "no such file or directory" in done.stderr
    assert each("state", "three").exit_code == 1


def test_without_a_process(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """It can be created, and deleted; starting it is an error (config.md, Process)."""
    del bundle.config["process"]
    bundle.write()
    assert runtime("create", "--bundle", bundle.directory, "none", output=output.fd).exit_code == 0, output()
    assert runtime.state("none")["status"] == "created"
    done = runtime("start", "none")
    assert done.exit_code == 1 and "no program in /process" in done.stderr
    assert runtime.state("none")["status"] == "created"
    assert runtime("delete", "none").exit_code == 0
    assert runtime("run", "--bundle", bundle.directory, "none").exit_code == 1
    assert runtime("list", "-q").stdout == ""


def test_list_and_ps(each: Runtime, bundle: Bundle, output: Any) -> None:
    bundle.write("sleep", "60")
    each("run", "--detach", "--bundle", bundle.directory, "four", output=output.fd)
    pid = each.state("four")["pid"]
    assert each("list", "-q").stdout == "four\n"
    (entry,) = json.loads(each("list", "--format", "json").stdout)
    assert (entry["id"], entry["status"], entry["pid"]) == ("four", "running", pid)
    head, line = each("list").stdout.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert line.split()[:4] == ["four", str(pid), "running", bundle.directory]
    assert json.loads(each("ps", "--format", "json", "four").stdout) == [pid]
    lines = each("ps", "four", "-o", "pid,args").stdout.splitlines()
    assert len(lines) == 2 or each.root.endswith("runc")  # `ps -o` alone lists one's own terminal
    assert each("ps", "four").stdout.splitlines()[1].endswith("sleep 60")


def test_pause_and_resume(each: Runtime, bundle: Bundle, output: Any) -> None:
    bundle.write("while :; do echo x; sleep 0.01; done")
    each("run", "--detach", "--bundle", bundle.directory, "five", output=output.fd)
    assert each("pause", "five").exit_code == 0
    assert each.state("five")["status"] == "paused"
    before = output()
    assert each("exec", "five", "true").exit_code != 0
    assert output() == before
    assert each("resume", "five").exit_code == 0
    assert each.state("five")["status"] == "running"
    assert each("resume", "five").exit_code == 1


def test_update_and_events(each: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    bundle.config["linux"]["resources"] = {"pids": {"limit": 77}}
    bundle.write("sleep", "60")
    each("run", "--detach", "--bundle", bundle.directory, "six", output=output.fd)
    stats = json.loads(each("events", "--stats", "six").stdout)
    assert (stats["type"], stats["id"]) == ("stats", "six")
    assert (stats["data"]["pids"]["limit"], stats["data"]["pids"]["current"]) == (77, 1)
    assert stats["data"]["memory"]["usage"]["usage"] > 0
    assert each("update", "--pids-limit", "66", "six").exit_code == 0
    assert json.loads(each("events", "--stats", "six").stdout)["data"]["pids"]["limit"] == 66
    wish = json.dumps({"pids": {"limit": 55}})
    assert each("update", "--resources", "-", "six", input=wish).exit_code == 0
    assert json.loads(each("events", "--stats", "six").stdout)["data"]["pids"]["limit"] == 55


# ── further processes ────────────────────────────────────────────────────────────────────────────────────


def test_exec(each: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    bundle.write("sleep", "60")
    each("run", "--detach", "--bundle", bundle.directory, "seven", output=output.fd)

    done = each("exec", "seven", "sh", "-c", "cat; hostname; cat /proc/1/cmdline | tr '\\0' ' '; exit 9", input="in\n")
    assert done == ("in\nbundle\nsleep 60 ", "", 9)
    asked = ("--user", "1000:50", "--cwd", "/tmp", "--env", "A=b", "-g", "7")
    done = each("exec", *asked, "seven", "sh", "-c", "pwd; echo $A $HOME; id -u; id -g; grep Groups /proc/self/status")
    assert done.stdout.split() == ["/tmp", "b", "/home/user", "1000", "50", "Groups:", "7"]

    links = each("exec", "seven", "sh", "-c", "cd /proc; readlink 1/ns/* self/ns/*").stdout.split()
    assert links[: len(links) // 2] == links[len(links) // 2 :]
    mine = each("exec", "seven", "cat", "/proc/self/cgroup").stdout
    assert mine == each("exec", "seven", "cat", "/proc/1/cgroup").stdout

    process = {"cwd": "/", "args": ["sh", "-c", "echo file >/tmp/made; sleep 60"], "env": [PATH]}
    (tmp_path / "process.json").write_text(json.dumps(process))
    pid_file = tmp_path / "exec.pid"
    given = ("--process", str(tmp_path / "process.json"), "--pid-file", str(pid_file))
    assert each("exec", "--detach", *given, "seven", output=output.fd).exit_code == 0
    assert int(pid_file.read_text()) in json.loads(each("ps", "--format", "json", "seven").stdout)
    assert each("exec", "seven", "nowhere").exit_code in (1, 255)
    assert each("kill", "--all", "seven", "KILL").exit_code == 0
    each.until("seven", "stopped")
    assert each("exec", "seven", "true").exit_code in (1, 255)


def test_exec_has_the_first_process_s_restrictions(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_CHOWN", "CAP_KILL"] for name in ("bounding", "effective", "permitted")
    }
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}],
    }
    bundle.write("sleep", "60")
    runtime("run", "--detach", "--bundle", bundle.directory, "eight", output=output.fd)
    look = "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status; ls /proc/self/fd"
    ours = runtime("exec", "eight", "sh", "-c", look).stdout
    wanted = {"CapInh": 0, "CapPrm": 0x21, "CapEff": 0x21, "CapBnd": 0x21, "CapAmb": 0, "Seccomp": 2, "NoNewPrivs": 0}
    held = {line.split(":")[0]: int(line.split()[1], 16) for line in ours.splitlines() if line[:1] in "CSN"}
    assert held == wanted
    assert [line for line in ours.splitlines() if line.isdigit()] == ["0", "1", "2", "3"]  # 3 is the directory itself
    more = runtime("exec", "--cap", "CAP_SYS_TIME", "--no-new-privs", "eight", "sh", "-c", look).stdout
    assert f"CapEff:\t{0x21 | 1 << 25:016x}" in more and "NoNewPrivs:\t1" in more


def test_a_filter_that_allows_the_program_only(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """With and without no_new_privs: what the runtime itself calls need not be in a profile."""
    busybox = "arch_prctl brk close execve exit_group getrandom getuid mmap mprotect munmap openat prctl prlimit64 read"
    busybox += " readlink rseq sendfile set_robust_list set_tid_address write newfstatat getgid setgid setuid"
    profile = {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": [*busybox.split(), "capget", "capset"], "action": "SCMP_ACT_ALLOW"}],
    }
    bundle.config["linux"]["seccomp"] = profile
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    for number, (uid, bound) in enumerate(((0, False), (0, True), (1000, False), (1000, True))):
        bundle.config["process"].update(user={"uid": uid, "gid": uid}, noNewPrivileges=bound)
        bundle.write("cat", "/proc/self/status")
        done = runtime("run", "--bundle", bundle.directory, f"little{number}")
        assert done.exit_code == 0, done
        status = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
        assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {f"{1 << 5:016x}"}
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", str(int(bound)))


# ── terminals ────────────────────────────────────────────────────────────────────────────────────────────


def _receive_console(listener: socket.socket) -> int:
    listener.settimeout(20)
    connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    return fds[0]


def _read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        data = os.read(fd, 4096)
        assert data, seen
        seen += data
    return seen


def test_console_socket(each: Runtime, bundle: Bundle, tmp_path: Path, output: Any) -> None:
    """The master of the container's pty comes over the socket, for `create` and for `exec`."""
    bundle.config["process"].update(terminal=True, consoleSize={"height": 33, "width": 99})
    bundle.write("stty size; tty; test -c /dev/console && echo console; read line; echo got $line")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        given = ("--console-socket", str(tmp_path / "console"))
        assert each("create", *given, "--bundle", bundle.directory, "nine", output=output.fd).exit_code == 0, output()
        master = _receive_console(listener)
        assert each("start", "nine").exit_code == 0
        said = _read_until(master, b"console\r\n")
        assert b"33 99" in said and b"/dev/pts/0" in said

        assert each("exec", "--tty", "--detach", *given, "nine", "sh", "-c", "tty; echo end").exit_code == 0
        second = _receive_console(listener)
        assert b"/dev/pts/1" in _read_until(second, b"end")
        os.write(master, b"word\n")
        assert b"got word" in _read_until(master, b"got word")
        each.until("nine", "stopped")
        os.close(master)
        os.close(second)
    assert each("run", "--detach", "--bundle", bundle.directory, "ten").exit_code == 1


# ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────

HOOK = """#!/bin/sh
state=$(cat)
{
    echo "$1 $(echo "$state" | sed 's/.*"status": *"\\([a-z]*\\)".*/\\1/') $(readlink /proc/self/ns/mnt)" \
        "$(readlink /proc/self/ns/uts)"
} >>"$2"
"""


def test_hooks_in_order_and_place(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    hook, report = tmp_path / "hook", tmp_path / "report"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.config["hooks"] = {
        kind: [{"path": str(hook), "args": ["hook", kind, str(report)], "env": [PATH], "timeout": 10}] for kind in kinds
    }
    inside = (
        "cat >/tmp/state; readlink /proc/self/ns/mnt >/tmp/namespace; grep CapEff /proc/self/status >/tmp/capabilities"
    )
    bundle.config["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", inside], "env": [PATH]}]
    bundle.config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    bundle.write("sleep", "60")

    def lines() -> list[list[str]]:
        return [line.split() for line in report.read_text().splitlines()]

    here = [os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/self/ns/uts")]
    assert runtime("create", "--bundle", bundle.directory, "eleven", output=output.fd).exit_code == 0, output()
    statuses = ["created", "creating", "creating"]
    assert [line[:2] for line in lines()] == [list(pair) for pair in zip(kinds, statuses, strict=False)]
    assert lines()[0][2:] == lines()[1][2:] == here
    pid = runtime.state("eleven")["pid"]
    assert lines()[2][2:] == [os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink(f"/proc/{pid}/ns/uts")]

    assert runtime("start", "eleven").exit_code == 0
    assert lines()[3:] == [["poststart", "running", *here]]
    state, namespace, capabilities = (
        runtime("exec", "eleven", "cat", f"/tmp/{name}").stdout for name in ("state", "namespace", "capabilities")
    )
    assert {"id": "eleven", "status": "created", "pid": 1}.items() <= json.loads(state).items()
    assert namespace.strip() == os.readlink(f"/proc/{pid}/ns/mnt")
    assert capabilities.split() == ["CapEff:", "0" * 16]
    runtime("kill", "eleven", "KILL")
    runtime.until("eleven", "stopped")
    assert runtime("delete", "eleven").exit_code == 0
    assert lines()[4:] == [["poststop", "stopped", *here]]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_ends_the_container(
    runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path, kind: str
) -> None:
    """One line names the hook and what it said; poststop is called all the same."""
    stopped = tmp_path / "stopped"
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 4"]}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo >>{stopped}"]}],
    }
    bundle.write("sleep", "60")
    step = "create" if "start" not in kind.lower() or kind == "prestart" else "start"
    done = runtime("create", "--bundle", bundle.directory, "twelve", output=output.fd)
    text = output()
    if step == "start":
        assert done.exit_code == 0
        done = runtime("start", "twelve")
        text = done.stderr
    assert done.exit_code == 1
    assert text == f"poc-runtime: /hooks/{kind}/0: /bin/sh exited with status 4: no luck\n"
    assert stopped.exists()
    assert runtime("state", "twelve").exit_code == 1


def test_the_environment_of_hooks(each: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Their own, or where they have none the runtime's."""
    said = tmp_path / "said"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f'echo "$MINE" >>{said}']}
    bundle.config["hooks"] = {"createRuntime": [hook, {**hook, "env": ["MINE=its own"]}, {**hook, "env": []}]}
    bundle.write("true")
    assert each("run", "--bundle", bundle.directory, "env", env={**os.environ, "MINE": "inherited"}).exit_code == 0
    assert said.read_text().splitlines()[:2] == ["inherited", "its own"]


def test_a_slow_hook_is_killed(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1}]}
    bundle.write()
    done = runtime("run", "--bundle", bundle.directory, "thirteen")
    assert done.exit_code == 1
    assert done.stderr == "poc-runtime: /hooks/createRuntime/0: /bin/sleep took longer than its timeout of 1 s\n"


# ── namespaces ───────────────────────────────────────────────────────────────────────────────────────────


def test_namespaces_are_joined(each: Runtime, bundle: Bundle, output: Any) -> None:
    """A second container in the first one's pid, network, ipc and uts namespaces: a pod."""
    kinds = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    bundle.write("sleep", "60")
    each("run", "--detach", "--bundle", bundle.directory, "pod", output=output.fd)
    pid = each.state("pod")["pid"]
    for entry in bundle.config["linux"]["namespaces"]:
        if entry["type"] in kinds:
            entry["path"] = f"/proc/{pid}/ns/{kinds[entry['type']]}"
    bundle.config["linux"]["cgroupsPath"] += "-second"
    del bundle.config["hostname"]
    bundle.write("cd /proc/self/ns; for n in pid net ipc uts mnt; do readlink $n; done; hostname; ps | grep -c sleep")
    done = each("run", "--bundle", bundle.directory, "second")
    *links, hostname, count = done.stdout.split()
    assert links[:4] == [os.readlink(f"/proc/{pid}/ns/{proc}") for proc in ("pid", "net", "ipc", "uts")]
    assert links[4] != os.readlink(f"/proc/{pid}/ns/mnt")
    assert (hostname, int(count) >= 1, done.exit_code) == ("bundle", True, 0)


def test_a_mount_namespace_is_joined(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """Its root lies beside what else is mounted there; who was there before keeps theirs, and exec finds it."""
    other = subprocess.Popen(["unshare", "--mount", "sleep", "600"])
    try:
        theirs = f"/proc/{other.pid}/ns/mnt"
        deadline = time.monotonic() + 30
        while os.readlink(theirs) == os.readlink("/proc/self/ns/mnt"):
            assert time.monotonic() < deadline
        for entry in bundle.config["linux"]["namespaces"]:
            if entry["type"] == "mount":
                entry["path"] = theirs
        bundle.write("touch /dev/new; exec sleep 60")
        before = read_text("/proc/self/mountinfo")
        done = runtime("run", "--detach", "--bundle", bundle.directory, "beside", output=output.fd)
        assert done.exit_code == 0, output()
        assert os.readlink(f"/proc/{runtime.state('beside')['pid']}/ns/mnt") == os.readlink(theirs)
        done = runtime("exec", "beside", "sh", "-c", "ls -d /dev/new /proc/1; ls -d /var/lib/dpkg")
        assert done.stdout.split() == ["/dev/new", "/proc/1"], done
        assert os.readlink(f"/proc/{other.pid}/root") == "/" and read_text("/proc/self/mountinfo") == before
        assert os.path.samefile(f"/proc/{other.pid}/root", "/")
        assert bundle.rootfs in read_text(f"/proc/{other.pid}/mountinfo")
        runtime("delete", "--force", "beside")
    finally:
        other.kill()
        other.wait()


def test_user_namespace(each: Runtime, bundle: Bundle, tmp_path: Path, rootfs: str) -> None:
    """Root inside is nobody outside; files, devices and the terminal's file system are its own."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        bundle.config["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 300000, "size": 2000}]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    bundle.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(private), "options": ["bind"]})
    bundle.config["mounts"].append({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"})
    bundle.config["process"]["oomScoreAdj"] = 77
    bundle.write(
        "id -u; cat /proc/self/uid_map /proc/self/oom_score_adj; stat -c %u /dev /dev/mqueue;"
        "echo x >/dev/null && echo null; ls -ld /mnt | cut -c1-4"
    )
    os.chmod(os.path.dirname(rootfs), 0o711)
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        os.chmod(directory, 0o711)
    done = each("run", "--bundle", bundle.directory, "user")
    assert done.stdout.split() == ["0", "0", "300000", "2000", "77", "0", "0", "null", "drwx"], done


def test_no_namespaces_at_all(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    """All are the host's, the mounts are made there, and gone with the container; exec finds its root."""
    bundle.config["linux"]["namespaces"] = []
    del bundle.config["hostname"]
    bundle.config["linux"]["readonlyPaths"] = ["/proc/sys"]
    bundle.config["root"] = {"path": bundle.rootfs, "readonly": True}

    def mounted() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [line.split()[4] for line in file if bundle.rootfs in line]

    before = mounted()
    bundle.write("echo here >/dev/null; echo x >/proc/sys/vm/swappiness; touch /new; ls /tmp; exec sleep 60")
    assert runtime("run", "--detach", "--bundle", bundle.directory, "bare", output=output.fd).exit_code == 0, output()
    pid = runtime.state("bare")["pid"]
    for name in os.listdir("/proc/self/ns"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    done = runtime("exec", "bare", "sh", "-c", "cat /etc/passwd; readlink /proc/self/root; touch /new")
    assert done.stdout.startswith("root:x:0:0") and done.stdout.endswith("\n/\n")
    assert "Read-only" in done.stderr and output().count("Read-only") == 2
    assert f"{bundle.rootfs}/proc" in mounted()
    assert runtime("delete", "--force", "bare").exit_code == 0
    assert mounted() == before
    bundle.write("nowhere", "at all")
    assert runtime("create", "--bundle", bundle.directory, "bare").exit_code == 1
    assert mounted() == before
    bundle.config["root"]["path"] = "/"
    assert "takes a mount namespace" in runtime("create", "--bundle", bundle.write("sh", "-c"), "bare").stderr


def test_user_namespace_with_nothing_said(runtime: Runtime, bundle: Bundle) -> None:
    """Without mappings everybody is mapped to themselves; without a network namespace /sys is the host's."""
    linux = bundle.config["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "mount", "uts", "user")]
    bundle.config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
    linux["devices"] = [
        {"path": "/dev/odd", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622, "uid": 8, "gid": 9}
    ]
    bundle.write(
        "id -u; cat /proc/self/uid_map; stat -c '%a %u %g %t %T' /dev/odd; echo x >/dev/odd && echo null;"
        "cd /proc/self; grep -c ' /dev/[a-z]* rw,nosuid,noexec' mountinfo; awk '$5 ~ /^.sys/ {print $6}' mountinfo"
    )
    done = runtime("run", "--bundle", bundle.directory, "plain")
    with open("/proc/self/uid_map") as file:
        identity = file.read().split()
    words = done.stdout.split()
    assert words[:11] == ["0", *identity, "622", "8", "9", "1", "3", "null", "8"], done
    assert words[11:] and {word.split(",")[0] for word in words[11:]} == {"ro"}


def test_private_directories_and_a_user_namespace(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """The bundle is the container's root's alone, and what it gets lies where only the host's root may go."""
    closed, own = tmp_path / "closed", tmp_path / "own"
    (closed / "volume").mkdir(parents=True)
    (closed / "volume" / "file").write_text("in the volume")
    closed.chmod(0o000)
    shutil.copytree(bundle.rootfs, own / "rootfs", symlinks=True)
    for directory in (own, own / "rootfs"):
        os.chown(directory, 300000, 300000)
        directory.chmod(0o700)
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o711)
    bundle.config["root"]["path"] = str(own / "rootfs")
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        bundle.config["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 300000, "size": 10}]
    source = str(closed / "volume")
    bundle.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", "ro"]})
    bundle.write("cat /mnt/file; ls -d /root; touch /mnt/new")
    done = runtime("run", "--bundle", bundle.directory, "closed")
    assert done.stdout == "in the volume/root\n", done
    assert "Read-only" in done.stderr


# ── what the configuration asks for ──────────────────────────────────────────────────────────────────────


def test_process_properties(each: Runtime, bundle: Bundle) -> None:
    process = bundle.config["process"]
    process.update(
        cwd="/home",
        noNewPrivileges=True,
        oomScoreAdj=123,
        user={"uid": 1000, "gid": 50, "additionalGids": [5, 6], "umask": 0o027},
        rlimits=[
            {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
        ],
    )
    bundle.write(
        "pwd; umask; ulimit -n; ulimit -Hc; cat /proc/self/oom_score_adj; id -u; id -g;"
        "grep -E 'Groups|NoNew|CapEff|CapBnd' /proc/self/status"
    )
    assert each("run", "--bundle", bundle.directory, "process").stdout.split() == [
        *("/home", "0027", "99", "unlimited", "123", "1000", "50"),
        *("Groups:", "5", "6", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"),
    ]


def test_mounts_and_paths(each: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    (bundle_source := tmp_path / "b-source").mkdir()
    (bundle_source / "file").write_text("here\n")
    relative = os.path.relpath(bundle_source, bundle.directory)
    bundle.config["mounts"] += [
        {"destination": "/mnt", "type": "none", "source": str(bundle_source), "options": ["rbind", "ro", "nosuid"]},
        {
            "destination": "relative",
            "type": "bind",
            "source": str(bundle_source) if each.root.endswith("runc") else relative,
            "options": ["bind"],
        },
    ]
    bundle.config["linux"].update(
        maskedPaths=["/proc/interrupts", "/proc/bus"],
        readonlyPaths=["/proc/sys"],
        sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"},
        devices=[{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3, "gid": 4}],
    )
    bundle.write(
        "cat /mnt/file /relative/file; touch /mnt/x || echo read-only; ls /proc/bus | wc -l; wc -c </proc/interrupts;"
        "echo 1 >/proc/sys/kernel/shmmni || echo refused; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax;"
        "stat -c '%a %u %g %t' /dev/mine; touch /root/w && echo writable"
    )
    done = each("run", "--bundle", bundle.directory, "mounts")
    words = ["here", "here", "read-only", "0", "0", "refused", "1", "4096", "600", "3", "4", "1", "writable"]
    assert done.stdout.split() == words, done
    os.unlink(f"{bundle.rootfs}/root/w")
    os.rmdir(f"{bundle.rootfs}/relative")

    bundle.config["root"]["readonly"] = True
    bundle.write("touch /root/w")
    done = each("run", "--bundle", bundle.directory, "mounts")
    assert done.exit_code == 1 and "Read-only" in done.stderr


def test_recursive_options(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """rro: also what is mounted below the source (runc 1.1 knows it, Debian's kernel in the tests may not)."""
    (tmp_path / "tree").mkdir()
    mount = {"destination": "/mnt", "type": "bind", "source": "/sys/fs/cgroup", "options": ["rbind", "rro", "rnoexec"]}
    bundle.config["mounts"].append(mount)
    bundle.write("grep ' /mnt' /proc/self/mountinfo")
    lines = runtime("run", "--bundle", bundle.directory, "recursive").stdout.splitlines()
    assert lines
    assert all({"ro", "noexec"} <= set(line.split()[5].split(",")) for line in lines)


@pytest.mark.parametrize("kind", ["shared", "rshared", "private", "unbindable", "runbindable", "rslave"])
def test_rootfs_propagation(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    """The root's is as asked for, and nothing that the container mounts comes out, even when all the host is shared."""
    bundle.config["linux"]["rootfsPropagation"] = kind
    bundle.write("grep ' / / ' /proc/self/mountinfo || grep -m1 '[^ ]* / ' /proc/self/mountinfo")
    command = [*runtime.command, "run", "--bundle", bundle.directory, "propagation"]
    inside = 'mount --make-rshared /; wc -l </proc/self/mountinfo; "$@"; wc -l </proc/self/mountinfo'
    words = ["unshare", "--mount", "sh", "-c", inside, "sh", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    before, root, after = done.stdout.splitlines()
    assert before == after, done
    optional = root.split(" - ")[0].split()[6:]
    wanted = {"private": [], "unbindable": ["unbindable"]}.get(kind.removeprefix("r"))
    if wanted is None:
        assert any(field.startswith("shared:" if "shared" in kind else "master:") for field in optional), root
    else:
        assert optional == wanted, root


def test_a_shared_volume_carries_mounts_out(each: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Docker's ``-v DIR:DIR:rshared``: what is mounted there inside is seen outside as well."""
    (tmp_path / "volume" / "inner").mkdir(parents=True)
    bundle.config["linux"]["rootfsPropagation"] = "rshared"
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")
    }
    volume = {"destination": "/mnt", "type": "bind", "source": f"{tmp_path}/volume", "options": ["rbind", "rshared"]}
    bundle.config["mounts"].append(volume)
    bundle.write("mount -t tmpfs carried /mnt/inner && touch /mnt/inner/file")
    inside = 'mount --bind "$0" "$0"; mount --make-rshared /; "$@"; ls "$0/inner"'
    command = [*each.command, "run", "--bundle", bundle.directory, "shared"]
    words = ["unshare", "--mount", "sh", "-c", inside, f"{tmp_path}/volume", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.stdout == "file\n", done


def test_a_leaked_descriptor_is_no_working_directory(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """CVE-2024-21626: /proc/self/fd/N as cwd leads to the container's own root, or nowhere."""
    host = os.open("/", os.O_PATH)
    try:
        for number in range(3, 15):
            bundle.config["process"]["cwd"] = f"/proc/self/fd/{number}"
            bundle.write("ls -di . ..; pwd")
            done = subprocess.run(
                [*runtime.command, "run", "--bundle", bundle.directory, "cwd"],
                capture_output=True,
                text=True,
                timeout=30,
                pass_fds=[host],
            )
            assert done.returncode or done.stdout.endswith("\n/\n"), done
        bundle.config["process"]["cwd"] = "/"
        bundle.write("sleep", "60")
        runtime("run", "--detach", "--bundle", bundle.directory, "cwd", output=output.fd)
        for number in range(3, 15):
            result = runtime("exec", "--cwd", f"/proc/self/fd/{number}", "cwd", "pwd", pass_fds=[host])
            assert result.exit_code or result.stdout == "/\n", result
    finally:
        os.close(host)


def test_tmpcopyup(each: Runtime, bundle: Bundle) -> None:
    """A tmpfs that begins with what the image has there, with owners, modes and links."""
    place = f"{bundle.rootfs}/var/tmp/copied"
    os.makedirs(f"{place}/inner/deep")
    os.chmod(place, 0o2751)
    with open(f"{place}/inner/file", "w") as file:
        file.write("text" * 50000)
    os.chown(f"{place}/inner/file", 3, 4)
    os.chmod(f"{place}/inner/file", 0o4640)
    os.symlink("/nowhere", f"{place}/link")
    entry = {"destination": "/var/tmp/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    bundle.config["mounts"].append(entry)
    bundle.write(
        "cd /var/tmp/copied; stat -c '%a %u %g' . inner/file; stat -c %s inner/file; readlink link; ls inner;"
        " echo >inner/new; cat /proc/self/mountinfo | grep -c ' /var/tmp/copied '"
    )
    done = each("run", "--bundle", bundle.directory, "up")
    inside = sorted(os.listdir(f"{place}/inner"))
    shutil.rmtree(place)
    words = ["2751", "0", "0", "4640", "3", "4", "200000", "/nowhere", "deep", "file", "1"]
    assert done.stdout.split() == words, done
    assert inside == ["deep", "file"]


def test_mounts_on_the_root_and_over_a_mode(each: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Options of a tmpfs mean nothing to a bind mount; a tmpfs has the mode of what it covers."""
    shutil.copytree(bundle.rootfs, tmp_path / "other", symlinks=True)
    (tmp_path / "other" / "closed").mkdir()
    (tmp_path / "other" / "closed").chmod(0o712)
    options = ["bind", "size=1k", "mode=755"]
    over = {"destination": "/", "type": "bind", "source": str(tmp_path / "other"), "options": options}
    bundle.config["mounts"].insert(0, over)
    bundle.config["mounts"] += [
        {"destination": "/closed", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/made", "type": "tmpfs", "source": "tmpfs"},
    ]
    bundle.write("stat -c %a /closed /made; touch /here")
    done = each("run", "--bundle", bundle.directory, "over")
    assert done.stdout.split() == ["712", "1777"], done
    assert (tmp_path / "other" / "here").exists() and not os.path.exists(f"{bundle.rootfs}/closed")


def test_a_user_owns_its_output(runtime: Runtime, bundle: Bundle) -> None:
    """Or /dev/stdout could not be opened."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 50}
    bundle.write("echo out >/dev/stdout; echo err >/dev/stderr; stat -L -c '%u %g' /proc/self/fd/1")
    assert runtime("run", "--bundle", bundle.directory, "own") == ("out\n1000 50\n", "err\n", 0)


def test_sockets_of_systemd(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("echo $LISTEN_FDS $LISTEN_PID")
    mine, another_s = {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    run = ("run", "--bundle", bundle.directory, "sockets")
    assert runtime(*run, env={**os.environ, **mine}).stdout == "1 1\n"
    assert runtime(*run, env={**os.environ, **another_s}).stdout == "\n"


@needs("cgroup1:freezer")
def test_delete_of_what_somebody_froze(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """On cgroup v1 a frozen process does not die; somebody may have moved it to a freezer of theirs."""
    bundle.write("sleep", "60")
    runtime("run", "--detach", "--bundle", bundle.directory, "ice", output=output.fd)
    pid = runtime.state("ice")["pid"]
    freezer = f"{host().controllers['freezer']}/poc-test-ice-{os.getpid()}"
    os.mkdir(freezer)
    try:
        for file, text in (("cgroup.procs", str(pid)), ("freezer.state", "FROZEN")):
            with open(f"{freezer}/{file}", "w") as stream:
                stream.write(text)
        assert runtime("delete", "--force", "ice").exit_code == 0
        assert runtime("state", "ice").exit_code == 1
    finally:
        with open(f"{freezer}/freezer.state", "w") as stream:
            stream.write("THAWED")
        os.rmdir(freezer)


def test_delete_of_one_that_ends_meanwhile(
    runtime: Runtime, bundle: Bundle, output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.write("sleep", "60")
    assert runtime("run", "--detach", "--bundle", bundle.directory, "late", output=output.fd).exit_code == 0, output()

    def then_ends(process: list[int] | None) -> bool:
        assert process is not None and is_alive(process)
        pid, _ = process
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)
        os.close(fd)
        return True

    monkeypatch.setattr(_processes, "is_alive", then_ends)
    lifecycle.delete(runtime.root, "late", force=True)
    assert runtime("state", "late").exit_code == 1


def test_preserved_descriptors(each: Runtime, bundle: Bundle) -> None:
    bundle.write("ls /proc/self/fd | wc -l; cat <&3; echo $LISTEN_FDS")
    reader, writer = os.pipe()
    os.write(writer, b"through 3\n")
    os.close(writer)
    command = [*each.command, "run", "--preserve-fds", "1", "--bundle", bundle.directory, "fds"]
    words = ["bash", "-c", 'exec 3<&"$0"; "$@"', str(reader), *command]
    done = subprocess.run(words, pass_fds=[reader], capture_output=True, text=True, timeout=30)
    os.close(reader)
    assert done.stdout.split("\n")[0] == "5", done  # 0 to 3, and the directory itself
    assert "through 3" in done.stdout


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────


def _set(config: Any, pointer: str, value: Any) -> None:
    *path, last = (int(key) if key.isdigit() else key for key in pointer.strip("/").split("/"))
    for key in path:
        config = config[key]
    config[last] = value


BAD = [
    ("/process/args", [], "/process/args: empty"),
    ("/process/args", "sh", "/process/args: 'sh' is not an array"),
    ("/process/cwd", "here", "/process/cwd: 'here' is no absolute path"),
    ("/process/env", ["A"], "/process/env/0: 'A' is not NAME=VALUE"),
    ("/process/user", {"uid": -1}, "/process/user/uid: -1 is no integer from 0 to 4294967294"),
    ("/process/user", {"uid": True}, "/process/user/uid: True is no integer"),
    (
        "/process/rlimits",
        [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
        "/process/rlimits/0/type: 'RLIMIT_X' is none of",
    ),
    ("/process/capabilities", {"bounding": ["CAP_X"]}, "/process/capabilities/bounding/0: 'CAP_X' is none of the 41"),
    ("/process/scheduler", {"policy": "SCHED_BATCH", "priority": 1}, "/process/scheduler/priority: is for SCHED_FIFO"),
    ("/linux/namespaces", [{"type": "user"}, {"type": "uts"}], "/linux/namespaces: no mount namespace, and with a"),
    ("/linux/namespaces/0", {"type": "space"}, "/linux/namespaces/0/type: 'space' is none of user, cgroup"),
    (
        "/linux/namespaces/0",
        {"type": "pid", "path": "/etc/passwd"},
        "/linux/namespaces/0/path: /etc/passwd is no pid namespace",
    ),
    ("/linux/sysctl", {"kernel.panic": "1"}, "/linux/sysctl/kernel.panic: belongs to the whole host"),
    ("/linux/sysctl", {"net.../a~b": "1"}, "/linux/sysctl/net...~1a~0b: is no name"),
    ("/linux/cgroupsPath", "/a/../..", "/linux/cgroupsPath: '/a/../..' is no path below the root"),
    ("/linux/cgroupsPath", "/", "/linux/cgroupsPath: '/' is no path below the root"),
    (
        "/linux/uidMappings",
        [{"containerID": 0, "hostID": 0, "size": 1}],
        "/linux/uidMappings: there is no user namespace",
    ),
    ("/linux/seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}, "/linux/seccomp/listenerPath: missing"),
    ("/linux/seccomp", {"defaultAction": "NO"}, "/linux/seccomp/defaultAction: 'NO' is none of"),
    ("/linux/intelRdt", {"closID": "x"}, "/linux/intelRdt: no resctrl file system is mounted here"),
    ("/linux/resources", {"memory": {"limit": "1g"}}, "/linux/resources/memory/limit: '1g' is no integer"),
    ("/linux/sysctl", {"kernel.hostname": "x"}, "/linux/sysctl/kernel.hostname: belongs into /hostname"),
    ("/mounts/0/options", "ro", "/mounts/0/options: 'ro' is not an array"),
    ("/hooks", {"prestart": [{"path": "sh"}]}, "/hooks/prestart/0/path: 'sh' is no absolute path"),
    ("/root/path", "/no/where", "/root/path: /no/where is no directory"),
    ("/hostname", "a\0b", "/hostname: 'a\\x00b' holds a character that no C string can"),
    ("/windows", {"x": 1}, "/windows: this is Linux"),
    ("/linux", None, "/linux: missing"),
]


@pytest.mark.parametrize(("pointer", "value", "text"), BAD, ids=[f"{bad[0]}={bad[1]}"[:60] for bad in BAD])
def test_a_bad_property_is_named(runtime: Runtime, bundle: Bundle, pointer: str, value: Any, text: str) -> None:
    """One line with the JSON pointer, exit status 1, in the log as well, and nothing left behind."""
    _set(bundle.config, pointer, value)
    bundle.write()
    log = f"{bundle.directory}/log"
    done = runtime("--log", log, "--log-format", "json", "create", "--bundle", bundle.directory, "bad")
    assert done.exit_code == 1
    assert text in done.stderr and done.stderr.count("\n") == 1
    with open(log) as file:
        message = json.load(file)
    assert message["level"] == "error" and f"poc-runtime: {message['msg']}\n" == done.stderr
    assert runtime("list", "-q").stdout == ""


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100000, b"NaN", b'{"a":1}', b"9" * 5000])
def test_what_is_no_configuration(runtime: Runtime, bundle: Bundle, data: bytes) -> None:
    with open(f"{bundle.directory}/config.json", "wb") as file:
        file.write(data)
    done = runtime("run", "--bundle", bundle.directory, "bad")
    assert done.exit_code == 1
    assert done.stderr.startswith("poc-runtime: ") and done.stderr.count("\n") == 1
    os.unlink(f"{bundle.directory}/config.json")
    done = runtime("run", "--bundle", bundle.directory, "bad")
    assert (done.exit_code, done.stderr) == (
        1,
        f"poc-runtime: {bundle.directory}/config.json: No such file or directory\n",
    )


def test_bad_command_lines(runtime: Runtime, bundle: Bundle) -> None:
    for words, text in (
        (("create",), "create takes 1 argument(s), not 0"),
        (("create", "--nonsense", "x"), "unknown option --nonsense"),
        (("create", "--bundle"), "--bundle needs a value"),
        (("create", "--preserve-fds", "5", "-b", bundle.directory, "x"), "--preserve-fds 5: descriptor"),
        (("create", "-b", bundle.directory, "../x"), "container ID '../x'"),
        (("frobnicate",), "unknown command 'frobnicate'"),
        (("kill", "x", "NOSUCH"), "unknown signal 'NOSUCH'"),
        (("state", "nobody"), "container 'nobody' does not exist"),
    ):
        done = runtime(*words)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert text in done.stderr
    done = runtime("--log", f"{bundle.directory}/no/log", "list")
    assert (done.exit_code, done.stdout) == (1, "") and done.stderr.endswith("/no/log: No such file or directory\n")


def test_somebody_else_s_cgroup_is_left_alone(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """Its processes would end with the container."""
    bundle.write("sleep", "60")
    runtime("run", "--detach", "--bundle", bundle.directory, "first", output=output.fd)
    done = runtime("run", "--bundle", bundle.directory, "other")
    assert done.exit_code == 1
    assert "/linux/cgroupsPath" in done.stderr and "is not empty" in done.stderr
    assert runtime("delete", "--force", "other").exit_code == 0
    assert runtime.state("first")["status"] == "running"


def test_a_killed_create_leaves_what_delete_can_undo(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo >{tmp_path}/in; sleep 1"]}]
    }
    bundle.write("sleep", "60")
    runtime.ids.add("killed")
    with subprocess.Popen([*runtime.command, "create", "--bundle", bundle.directory, "killed"]) as creator:
        wait_until((tmp_path / "in").exists)
        assert runtime.state("killed")["status"] == "creating"
        creator.send_signal(signal.SIGKILL)
    assert runtime.state("killed")["status"] == "stopped"
    assert runtime("delete", "killed").exit_code == 0


def test_spec_and_features(runtime: Runtime, tmp_path: Path, rootfs: str) -> None:
    done = runtime("spec", "--bundle", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["process"]["args"] == ["sh"] and config["root"] == {"path": "rootfs", "readonly": True}
    assert runtime("spec", "--bundle", str(tmp_path)).exit_code == 1
    (tmp_path / "config.json").unlink()
    assert runtime("spec", "--rootless", "--bundle", str(tmp_path)).exit_code == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"type": "user"} in config["linux"]["namespaces"]
    config["process"].update(terminal=False, args=["sh", "-c", "cat /proc/self/uid_map; ls -d /sys/class"])
    config["root"]["path"] = rootfs
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = runtime("run", "--bundle", str(tmp_path), "rootless")
    assert done.stdout.split() == ["0", "0", "1", "/sys/class"], done
    features = json.loads(runtime("features").stdout)
    assert features["ociVersionMin"] == "1.0.0" and "rro" in features["mountOptions"]
    assert runtime("--version").stdout.startswith("poc-runtime version ")
