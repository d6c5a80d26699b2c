"""What a hostile image or a hostile process in a container tries against the host and against the runtime that starts
or enters it: on `create`, `run` and `exec` of `poc-runtime`, and on `poc run` where that goes another way.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT, needs, wait_until
from test_runtime_cli import Bundle, Runtime, bundle, runtime  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(120)]

# The host's Python below a busybox, for what the shell can't do. Not the interpreter that is attacked, but the same
# libraries, as an attacker would bring them.
HOST = [
    {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
    for path in ("/usr", "/lib", "/lib64")
    if os.path.isdir(path)
]
PYTHON = os.path.realpath(sys.executable)

# Runs as the interpreter that is attacked, if it runs at all: keeps it open, lets go of it, and writes to it as soon
# as nobody executes it any more.
OVERWRITE = """
import os, time
try:
    os.close(os.open("/tmp/ran", os.O_CREAT | os.O_WRONLY))
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    os.set_inheritable(fd, True)
    if os.fork() == 0:
        os.setsid()
        loop = f"i=0; while [ $i -lt 300 ]; do echo pwned >/proc/self/fd/{fd} && touch /tmp/won && exit; i=$((i+1));" \\
            " sleep 0.01; done"
        os.execv("/bin/busybox", ["sh", "-c", loop])
finally:
    os.execv("/bin/busybox", ["sleep", "4"])
"""


class Prey:
    """A private copy of the interpreter, and `poc-runtime` run by it: what the attacks are aimed at."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/bin/python3"
        os.makedirs(f"{directory}/bin")
        shutil.copy(PYTHON, self.path)
        with open(f"{directory}/pyvenv.cfg", "w") as file:
            file.write(f"home = {os.path.dirname(PYTHON)}\n")
        os.symlink(f"{sys.prefix}/lib", f"{directory}/lib")
        self.before = self._digest()
        start = os.path.join(CHECKOUT, "scripts", "start.py")
        self.command = [self.path, "-I", "-S", "-X", "utf8", start]

    def _digest(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def is_whole(self) -> bool:
        return self._digest() == self.before


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    prey = Prey(f"{tmp_path}/prey")
    yield prey
    assert prey.is_whole()


@pytest.fixture
def hunted(prey: Prey, tmp_path: Path) -> Iterator[Runtime]:
    """`poc-runtime`, run by the prey."""
    hunted = Runtime([*prey.command, "poc-runtime"], f"{tmp_path}/run")
    yield hunted
    for id in hunted.ids:
        hunted("delete", "--force", id)


@pytest.fixture
def den(bundle: Bundle, tmp_path: Path) -> Path:  # noqa: F811
    """The directory that a container of ``bundle`` has as /tmp, with the attacker's tools. Python runs in there."""
    directory = tmp_path / "den"
    directory.mkdir()
    (directory / "script").write_text(f"#!/proc/self/exe\n{OVERWRITE}")
    (directory / "script").chmod(0o755)
    (directory / "nested").write_text("#!/tmp/script\n")
    (directory / "nested").chmod(0o755)
    (directory / "link").symlink_to("/proc/self/exe")
    (directory / "thread").symlink_to("/proc/thread-self/exe")
    bundle.config["mounts"] += [*HOST, {"destination": "/tmp", "type": "bind", "source": str(directory)}]
    return directory


ENTRIES = (["/proc/self/exe", "-c", OVERWRITE], ["/tmp/script"], ["/tmp/nested"], ["/tmp/link", "-c", OVERWRITE],
           ["/tmp/thread", "-c", OVERWRITE], ["/proc/1/exe", "-c", OVERWRITE])  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry[0])
def test_the_interpreter_is_no_program(hunted: Runtime, bundle: Bundle, den: Path, entry: list[str]) -> None:  # noqa: F811
    """CVE-2019-5736, on run, create and start, nor of a hook in the container."""
    bundle.config["process"]["args"] = entry
    bundle.write()
    done = hunted("run", "--bundle", bundle.directory, "evil")
    assert done.exit_code and "is the host's interpreter" in done.stderr, done
    made = hunted("create", "--bundle", bundle.directory, "evil", output=2)
    done = hunted("start", "evil")
    assert made.exit_code == 0 and done.exit_code and "is the host's interpreter" in done.stderr, done
    hunted("delete", "--force", "evil")

    bundle.config["hooks"] = {"startContainer": [{"path": entry[0], "args": entry}]}
    bundle.write("sleep", "60")
    done = hunted("run", "--bundle", bundle.directory, "evil")
    assert done.exit_code and "is the host's interpreter" in done.stderr, done
    assert not (den / "ran").exists()


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if "/1/" not in entry[0]], ids=lambda entry: entry[0])
def test_nor_of_exec(hunted: Runtime, bundle: Bundle, den: Path, entry: list[str]) -> None:  # noqa: F811
    bundle.write("sleep", "60")
    assert hunted("run", "--detach", "--bundle", bundle.directory, "evil", output=2).exit_code == 0
    done = hunted("exec", "evil", *entry)
    assert done.exit_code and "is the host's interpreter" in done.stderr, done
    assert not (den / "ran").exists()


def test_the_host_s_python_is_a_program(runtime: Runtime, bundle: Bundle, den: Path) -> None:  # noqa: F811
    """The same file, where a container has it through a mount of its own."""
    bundle.write(PYTHON, "-Ic", "import os; print(os.readlink('/proc/self/exe'))")
    assert runtime("run", "--bundle", bundle.directory, "python").stdout == f"{PYTHON}\n"


def test_a_program_that_becomes_the_interpreter_meanwhile(hunted: Runtime, bundle: Bundle, den: Path) -> None:  # noqa: F811
    """No look at a file beforehand keeps a process in the container from changing it until the kernel reads it."""
    shutil.copy(f"{bundle.rootfs}/bin/busybox", den / "busybox")
    swap = "cd /tmp; while :; do ln -sf busybox next; mv next true; ln -sf script next; mv next true; done"
    bundle.write(swap)
    assert hunted("run", "--detach", "--bundle", bundle.directory, "evil", output=2).exit_code == 0
    refused = sum(hunted("exec", "evil", "/tmp/true").exit_code != 0 for _ in range(40))
    assert refused > 0
    assert not (den / "ran").exists()


# Runs in the container: looks for processes of the runtime, by way of all that proc(5) shows of them.
SPY = """
import os, sys
prey = tuple(map(int, sys.argv[1].split(":")))

def look(pid, what):
    # What one may who may trace it (ptrace(2), access mode checking); its memory takes the right to write there.
    before = os.stat(f"/proc/{pid}/exe") if what == "exe" else what(f"/proc/{pid}")
    found = os.stat(f"/proc/{pid}/exe")
    if (found.st_dev, found.st_ino) == prey:
        open("/tmp/won", "a").write(f"{what} of {pid}\\n")

ways = ["exe", lambda at: os.listdir(f"{at}/fd"), lambda at: os.close(os.open(f"{at}/mem", os.O_RDWR))]
while not os.path.exists("/tmp/enough"):
    for pid in os.listdir("/proc"):
        for way in ways if pid.isdigit() and int(pid) != os.getpid() else ():
            try:
                look(pid, way)
            except PermissionError:
                os.close(os.open("/tmp/met", os.O_CREAT))
            except OSError:
                pass
"""


@pytest.mark.parametrize("way", ["exec", "create"])
def test_a_hostile_process_does_not_see_the_runtime(
    hunted: Runtime,
    prey: Prey,
    bundle: Bundle,  # noqa: F811
    den: Path,
    way: str,
) -> None:
    """CVE-2016-9962: neither while another process enters, nor while one starts, for a container that sees all pids.

    Nor when the process is stopped while it enters, hence the capabilities that the container's own processes have.
    """
    found = os.stat(prey.path)
    (den / "spy.py").write_text(SPY)
    private = bundle.config["linux"]["namespaces"]
    if way == "create":
        bundle.config["linux"]["namespaces"] = [entry for entry in private if entry["type"] != "pid"]
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID"]
        for name in ("bounding", "effective", "permitted")
    }
    bundle.write(PYTHON, "-I", "/tmp/spy.py", f"{found.st_dev}:{found.st_ino}")
    assert hunted("run", "--detach", "--bundle", bundle.directory, "spy", output=2).exit_code == 0
    if way == "create":
        bundle.config["linux"]["namespaces"] = private
        bundle.config["linux"]["cgroupsPath"] += "-second"
        # While it runs, the process has no more rights than the spy any more, and is still the runtime's.
        bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "0.3"]}]}
        bundle.write("true", "x")
    rounds, deadline = (20 if way == "exec" else 3), time.monotonic() + 45
    while rounds > 0 or (
        not (den / "met").exists() and time.monotonic() < deadline
    ):  # on a busy machine the spy is slow
        rounds -= 1
        if way == "exec":
            assert hunted("exec", "spy", "true").exit_code == 0
        else:
            assert hunted("create", "--bundle", bundle.directory, "second", output=2).exit_code == 0
            assert hunted("start", "second").exit_code == 0
            hunted("delete", "--force", "second")
    (den / "enough").touch()
    assert (den / "met").exists(), "it has seen none at all"
    assert not (den / "won").exists(), (den / "won").read_text()


@pytest.fixture
def image(bundle: Bundle, tmp_path: Path) -> Path:  # noqa: F811
    """A root file system of the test's own, to prepare."""
    directory = tmp_path / "image"
    subprocess.run(["cp", "-a", bundle.rootfs, str(directory)], check=True)
    bundle.config["root"]["path"] = str(directory)
    return directory


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that must stay as it is."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("1")
    yield directory
    assert [entry.name for entry in directory.iterdir()] == ["file"]
    assert (directory / "file").read_text() == "1"
    assert f" {directory}" not in _mounts()


def _mounts() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


def test_a_mount_target_that_becomes_a_link(runtime: Runtime, bundle: Bundle, tmp_path: Path, victim: Path) -> None:  # noqa: F811
    """Two containers share a volume: one makes links of what the other's mounts go on, while that starts."""
    volume = tmp_path / "volume"
    (volume / "real").mkdir(parents=True)
    shared = {"destination": "/mnt", "type": "bind", "source": str(volume), "options": ["bind"]}
    bundle.config["mounts"].append(shared)
    up = "../" * 20
    swap = f"""
        cd /mnt; ln -s {victim} one; ln -s {up}{str(victim)[1:]} two; ln -s /proc/self/cwd three; ln -s / four
        while :; do for to in one two three four; do
            mkdir target; mv -T target gone; cp -P $to target; rm -rf target gone
        done; done
    """
    bundle.write(swap)
    assert runtime("run", "--detach", "--bundle", bundle.directory, "swapper", output=2).exit_code == 0
    source = tmp_path / "source"
    source.mkdir()
    (source / "mark").touch()
    bundle.config["linux"]["cgroupsPath"] += "-second"
    bundle.config["mounts"] += [
        {"destination": "/mnt/target/below", "type": "bind", "source": str(source), "options": ["bind"]},
        {"destination": "/mnt/target", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/mnt/target/proc", "type": "proc", "source": "proc"},
    ]
    bundle.write("true", "x")
    before = _mounts().count("\n")
    codes = [runtime("run", "--bundle", bundle.directory, "second").exit_code for _ in range(100)]
    assert _mounts().count("\n") == before
    assert set(codes) <= {0, 1}
    runtime("delete", "--force", "swapper")
    runtime("delete", "--force", "second")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_directories_that_are_links(runtime: Runtime, bundle: Bundle, image: Path, victim: Path, name: str) -> None:  # noqa: F811
    """CVE-2019-19921: an image's own /proc, /sys and /dev."""
    bundle.config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
    (image / name).rmdir()
    for to in (str(victim), "/tmp", "etc"):
        (image / name).unlink(missing_ok=True)
        (image / name).symlink_to(to)
        bundle.write("true", "x")
        done = runtime("run", "--bundle", bundle.directory, "links")
        assert name == "dev" or (done.exit_code == 1 and f"/{name}" in done.stderr), done


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
def test_a_prepared_dev(runtime: Runtime, bundle: Bundle, image: Path, victim: Path, kind: str) -> None:  # noqa: F811
    """CVE-2025-31133, CVE-2025-52565: what hides a path, and the terminal, are never the image's."""
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/dev"]
    (image / "secret").write_text("secret")
    (image / "dev" / "pts").mkdir()
    for name in ("null", "console"):
        place = image / "dev" / name
        if kind == "file":
            place.write_text("1")
        elif kind == "link":
            place.symlink_to("/proc/sys/kernel/domainname")
        elif kind == "directory":
            place.mkdir()
        else:
            os.mkfifo(place)
    bundle.config["linux"].update(maskedPaths=["/secret", "/proc/interrupts"], readonlyPaths=["/proc/sys"])
    bundle.write("stat -c '%t:%T' /secret /proc/interrupts; echo x >/secret; echo y >/proc/sys/kernel/domainname")
    done = runtime("run", "--bundle", bundle.directory, "masks")
    assert done.stdout == "1:3\n1:3\n" and "Read-only file system" in done.stderr, done
    bundle.config["process"]["terminal"] = True
    bundle.write("tty; grep -c ' /proc/sys/kernel' /proc/mounts")
    command = [
        "script",
        "-qec",
        " ".join([*runtime.command, "run", "--bundle", bundle.directory, "masks"]),
        "/dev/null",
    ]
    told = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30).stdout
    if kind == "link":
        assert "mount on /dev/console: nothing may hide" in told
    elif kind == "directory":
        assert "console" in told and "/dev/pts" not in told
    else:
        assert told.split() == ["/dev/pts/0", "0"]


def test_writes_to_proc_reach_procfs_only(runtime: Runtime, bundle: Bundle, image: Path, victim: Path) -> None:  # noqa: F811
    """CVE-2025-52881: a sysctl, and the OOM score, never go to what an image has in the place of a file of procfs."""
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "0"}
    bundle.config["process"]["oomScoreAdj"] = 500
    bundle.config["mounts"] = bundle.config["mounts"][1:]
    (image / "proc/sys/net/ipv4").mkdir(parents=True)
    (image / "proc/sys/net/ipv4/ip_forward").symlink_to(victim / "file")
    (image / "proc/self").mkdir()
    (image / "proc/self/oom_score_adj").symlink_to(victim / "file")
    bundle.write("true", "x")
    done = runtime("run", "--bundle", bundle.directory, "false")
    assert done.exit_code == 1 and "write '0' to /proc/sys/net/ipv4/ip_forward: No such device" in done.stderr
    del bundle.config["linux"]["sysctl"]
    bundle.write("echo $(cat /proc/self/oom_score_adj)")
    assert runtime("run", "--bundle", bundle.directory, "false").exit_code == 0


def test_no_descriptor_crosses(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    """Not the caller's, not the runtime's; and none is a working directory (CVE-2024-21626)."""
    report = tmp_path / "report"
    report.mkdir()
    bundle.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(report), "options": ["bind"]})
    bundle.config["process"]["env"].append("LISTEN_PID=1")
    opened = [os.open("/etc", os.O_RDONLY) for _ in range(12)]
    look = "readlink /proc/self/cwd; ls /proc/self/fd"  # 3 is the directory itself
    try:
        for fd in opened:
            os.set_inheritable(fd, True)

        def call(*words: str) -> subprocess.CompletedProcess[bytes]:
            output = subprocess.PIPE if words[0] != "create" else subprocess.DEVNULL
            options = {"pass_fds": opened, "cwd": "/proc/self/fd", "stdin": subprocess.DEVNULL, "timeout": 30}
            return subprocess.run([*runtime.command, *words], stdout=output, stderr=output, **options)  # type: ignore[call-overload, no-any-return]

        wanted = [b"/", b"0", b"1", b"2", b"3"]
        bundle.write(look)
        assert call("run", "--bundle", bundle.directory, "fds").stdout.split() == wanted
        bundle.write(f"({look}) >/mnt/out; sleep 60")
        runtime.ids.add("fds")
        call("create", "--bundle", bundle.directory, "fds")
        assert call("start", "fds").returncode == 0
        assert call("exec", "fds", "sh", "-c", look).stdout.split() == wanted
        wait_until(lambda: len((report / "out").read_bytes().split()) >= len(wanted))
        assert (report / "out").read_bytes().split() == wanted
        for number in range(16):
            path = f"/proc/self/fd/{number}"
            done = call("exec", "--cwd", path, "fds", "true")
            assert done.returncode and b"working directory" in done.stderr, (number, done)
        runtime("delete", "--force", "fds")
        for number in range(16):
            bundle.config["process"]["cwd"] = f"/proc/self/fd/{number}"
            bundle.write("true", "x")
            done = call("run", "--bundle", bundle.directory, "fds")
            assert done.returncode and done.stderr, (number, done)
    finally:
        for fd in opened:
            os.close(fd)


def test_groups_and_capabilities_are_those_asked_for(runtime: Runtime, bundle: Bundle) -> None:  # noqa: F811
    """None of the caller's: CVE-2022-29162 (inheritable), CVE-2022-2989 and CVE-2022-36109 (groups)."""
    kinds = ("bounding", "effective", "permitted")
    look = "grep -E '^(Groups|CapInh|CapAmb|Uid|Gid):' /proc/self/status"

    def seen(*words: str) -> dict[str, str]:
        done = subprocess.run(
            [*runtime.command, *words], capture_output=True, text=True, extra_groups=[10, 20, 999], timeout=30
        )
        assert done.returncode == 0, done
        return {
            name: " ".join(value.split())
            for name, _, value in (line.partition(":") for line in done.stdout.splitlines())
        }

    def ids(uid: int, gid: int, groups: str) -> dict[str, str]:
        none = "0" * 16
        return {
            "Uid": " ".join([str(uid)] * 4),
            "Gid": " ".join([str(gid)] * 4),
            "Groups": groups,
            "CapInh": none,
            "CapAmb": none,
        }

    bundle.config["process"]["capabilities"] = {kind: ["CAP_CHOWN", "CAP_SYS_ADMIN"] for kind in kinds}
    for user, wanted in (
        ({"uid": 0, "gid": 0}, ids(0, 0, "")),
        ({"uid": 5, "gid": 6, "additionalGids": [7, 8]}, ids(5, 6, "7 8")),
    ):
        bundle.config["process"]["user"] = user
        bundle.write(look)
        assert seen("run", "--bundle", bundle.directory, "groups") == wanted
    bundle.write("sleep", "60")
    runtime("run", "--detach", "--bundle", bundle.directory, "groups", output=2)
    assert seen("exec", "groups", "sh", "-c", look) == ids(5, 6, "7 8")
    assert seen("exec", "--user", "9:9", "-g", "11", "groups", "sh", "-c", look)["Groups"] in ("7 8 11", "11")


def test_no_release_agent(runtime: Runtime, bundle: Bundle) -> None:  # noqa: F811
    """CVE-2022-0492: a program that the host would execute, set in a cgroup v1 hierarchy."""
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []}
    bundle.config["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}, mount]
    look = "find / -xdev -name release_agent; find /sys/fs/cgroup -name release_agent; ls /sys/fs/cgroup | wc -l;"
    look += "mkdir /tmp/own && mount -t cgroup -o memory,name=x x /tmp/own;"
    look += "find /tmp/own -name release_agent; rmdir /tmp/own"
    private = bundle.config["linux"]["namespaces"]
    for namespaces in (private, [entry for entry in private if entry["type"] != "cgroup"]):
        bundle.config["linux"]["namespaces"] = namespaces
        bundle.write(look)
        done = runtime("run", "--bundle", bundle.directory, "agent")
        assert done.stdout.strip().isdigit() and done.stdout != "0\n", done
        bundle.write("sleep", "60")
        runtime("run", "--detach", "--bundle", bundle.directory, "agent", output=2)
        told = runtime("exec", "agent", "sh", "-c", look).stdout
        runtime("delete", "--force", "agent")
        assert told == done.stdout
