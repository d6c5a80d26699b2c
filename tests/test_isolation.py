"""What a container sees and may do: namespaces, mounts, /dev, capabilities, descriptors, and what stays the host's."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE_CONFIG, CommandLine, needs, shell

import poc
from poc import errors
from poc.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

pytestmark = needs("root", "overlay")

NAMESPACES = ("pid", "ipc", "mnt", "net", "uts", "cgroup", "user", "time")
DOCKER_CAPABILITIES = 0xA80425FB
EVERY_FD = "ls -1 /proc/1/fd; true"  # not the last command, or the shell itself becomes it


def status(text: str) -> dict[str, str]:
    """proc_pid_status(5) as a mapping."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_namespaces(engine: poc.Engine) -> None:
    host = {name: os.readlink(f"/proc/thread-self/ns/{name}") for name in NAMESPACES}
    script = f"for name in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$name; done"
    inside = dict(zip(NAMESPACES, shell(engine, script).split(), strict=True))
    assert {name for name in NAMESPACES if inside[name] != host[name]} == set(NAMESPACES) - {"user", "time"}
    inside = dict(zip(NAMESPACES, shell(engine, script, network="host").split(), strict=True))
    assert inside["net"] == host["net"] and inside["pid"] != host["pid"]

    own = "echo $$; ls /sys/class/net; cat /sys/class/net/lo/operstate; ping -c1 -W5 127.0.0.1 >/dev/null && echo up"
    assert shell(engine, own).split() == ["1", "lo", "unknown", "up"]
    assert shell(engine, "ls -d1 /proc/[0-9]*; true").split() == ["/proc/1"]
    groups = shell(engine, "cut -d: -f3- /proc/self/cgroup").split()
    assert set(groups) == {"/"}, "the cgroup namespace is rooted in its own group"


def test_capabilities(engine: poc.Engine) -> None:
    def sets(**options: Any) -> tuple[int, ...]:
        found = status(shell(engine, "cat /proc/self/status", **options))
        return tuple(int(found[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Bnd", "Inh", "Amb"))

    assert sets() == (DOCKER_CAPABILITIES,) * 3 + (0, 0)
    assert sets(user="user") == (0, 0, DOCKER_CAPABILITIES, 0, 0)
    assert sets(init=True) == (DOCKER_CAPABILITIES,) * 3 + (0, 0)
    assert sets(cap_drop=["ALL"]) == (0,) * 5
    admin = DOCKER_CAPABILITIES & ~1 | 1 << 12
    assert sets(cap_add=["NET_ADMIN"], cap_drop=["chown"])[:3] == (admin,) * 3
    with open("/proc/self/status") as file:
        everything = int(status(file.read())["CapBnd"], 16)
    assert sets(privileged=True)[:3] == (everything,) * 3

    assert shell(engine, "chown user /tmp && echo yes") == "yes\n"
    assert shell(engine, "chown user /tmp 2>&1 || echo no", cap_drop=["CHOWN"]).splitlines()[-1] == "no"
    assert shell(engine, "ip link set lo down 2>&1 || echo no").splitlines()[-1] == "no"
    assert shell(engine, "ip link set lo down && echo yes", cap_add=["NET_ADMIN"]) == "yes\n"


def test_seccomp_and_umask(engine: poc.Engine) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    result = engine.containers.run("busybox", ["cat", "/proc/self/status"], remove=True, network="none")
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    found = status(result.output)
    assert (found["Seccomp"], found["NoNewPrivs"], found["Umask"]) == ("2", "0", "0022")
    assert int(found["SigIgn"], 16) == int(found["SigBlk"], 16) == 0, "Python ignores SIGPIPE"
    assert shell(engine, "unshare -u true 2>&1 || echo no").splitlines()[-1] == "no"
    found = status(shell(engine, "unshare -u true && cat /proc/self/status", privileged=True))
    assert found["Seccomp"] == "0"


def test_masked_and_read_only_paths(engine: poc.Engine) -> None:
    script = """
        for path in /proc/kcore /proc/keys /proc/timer_list; do head -c 9 $path 2>/dev/null; done
        ls -A /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v ':$' | grep .
        for path in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/x \
                    /proc/1/../sys/vm/swappiness /sys/kernel/profiling /sys/fs/cgroup/*/cgroup.procs; do
            (: >>$path) && echo "$path can be written"
        done
        umount /proc/sys 2>/dev/null && echo unmounted
        mount -o remount,rw /sys 2>/dev/null && echo remounted
        true
    """
    assert shell(engine, f"({script}) 2>/dev/null") == ""
    script = "mount | grep ' /sys '; mount | grep -c ' cgroup2* (ro'; head -c1 /proc/timer_list"
    seen = shell(engine, script, privileged=True)
    assert "(rw," in seen and seen.endswith("0\nT")


def test_dev(engine: poc.Engine) -> None:
    names = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    assert shell(engine, "ls /dev").split() == names
    assert set(shell(engine, "ls -1 /dev; tty", tty=True).split()) == {*names, "console", "/dev/pts/0"}
    script = """
        cd /dev && stat -c '%n %F %t:%T %a %u' full null random tty urandom zero
        echo lost >null; head -c 3 zero | od -An -tx1; (echo x >full) 2>/dev/null || echo full
        readlink fd; readlink core; stat -c '%a' shm mqueue .; echo hello >stdout
    """
    kind = "character special file"
    assert shell(engine, script).splitlines() == [
        *(f"{name} {kind} {numbers} 666 0" for name, numbers in (("full", "1:7"), ("null", "1:3"), ("random", "1:8"))),
        *(f"{name} {kind} {numbers} 666 0" for name, numbers in (("tty", "5:0"), ("urandom", "1:9"), ("zero", "1:5"))),
        *(" 00 00 00", "full", "/proc/self/fd", "/proc/kcore", "1777", "1777", "755", "hello"),
    ]
    assert shell(engine, "ls /dev/pts") == "ptmx\n", "none of the host's terminals"


def test_devices_that_were_not_given(engine: poc.Engine) -> None:
    """mknod is allowed, as docker's, but what it makes opens nothing (kmsg: 1:11)."""
    assert shell(engine, "mknod /k c 1 11 && (head -c1 /k >/dev/null) 2>&1 || echo no").splitlines()[-1] == "no"
    assert shell(engine, "mknod /k c 1 11 && dd if=/k of=/dev/null count=0 && echo yes", privileged=True) == "yes\n"
    assert shell(engine, "test -c /dev/loop-control && echo yes", privileged=True) == "yes\n"


def test_console(cli: CommandLine) -> None:
    """Its own pty, on /dev/console too, owned by the user."""
    script = "stat -c %u $(tty); echo one >/dev/console; echo two >/dev/tty; echo three >/dev/stdout"
    result = cli("run", "--rm", "-it", "-u", "user", "--network", "none", "busybox", "sh", "-c", script)
    assert result.stdout.split() == ["1000", "one", "two", "three"] and result.exit_code == 0


def test_no_descriptor_crosses(cli: CommandLine, engine: poc.Engine) -> None:
    opened = [os.open("/etc", os.O_RDONLY) for _ in range(20)]
    try:
        for fd in opened:
            os.set_inheritable(fd, True)
        for options in ({}, {"tty": True}, {"init": True}, {"network": "bridge"}, {"stdin": b""}):
            assert shell(engine, EVERY_FD, **options).split() == ["0", "1", "2"], options
        command = [*cli.command, "run", "--rm", "--network=none", "busybox", "sh", "-c", EVERY_FD]
        out = subprocess.run(command, pass_fds=opened, cwd="/proc/self/fd", capture_output=True, check=True, timeout=60)
        assert out.stdout.split() == [b"0", b"1", b"2"]
    finally:
        for fd in opened:
            os.close(fd)


def test_a_descriptor_is_no_working_directory(engine: poc.Engine) -> None:
    """CVE-2024-21626: a directory of the host that is still open while the working directory is entered."""
    for number in range(3, 30):
        with pytest.raises(errors.SetupError):
            shell(engine, "pwd", working_dir=f"/proc/self/fd/{number}")
    assert shell(engine, "pwd; stat -c %a .", working_dir="/new/place").split() == ["/new/place", "755"]
    assert shell(engine, "pwd", working_dir="/root", user="root") == "/root\n"


def fingerprint(directory: str) -> str:
    """Everything below a directory: names, types, modes, owners, times, content."""
    digest = hashlib.sha256()
    for parent, directories, names in sorted(os.walk(directory)):
        for name in sorted([*directories, *names]):
            path = os.path.join(parent, name)
            found = os.lstat(path)
            digest.update(repr((path, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns)).encode())
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()


def test_writes_never_reach_the_image(engine: poc.Engine) -> None:
    [layer] = engine.images.get("busybox").layers
    before = fingerprint(layer)
    script = """
        rm -rf /home /bin/ls /etc/group; echo evil >>/etc/passwd; chmod 777 /etc /; chown user /bin/busybox
        mkdir /new; ln /bin/busybox /new/link; mv /tmp /tmp2; touch -d @1 /var; ls / | tr '\\n' ' '
    """
    assert shell(engine, script).split() == "bin dev etc linuxrc mnt new proc root sbin sys tmp2 usr var".split()
    assert fingerprint(layer) == before
    assert shell(engine, "ls /home; tail -n1 /etc/passwd").startswith("user\nnobody:")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_callers_umask_does_not_matter(engine: poc.Engine, umask: int) -> None:
    before = os.umask(umask)
    try:
        script = "stat -c %a / /etc/hosts /etc/hostname /etc/resolv.conf /dev /dev/null; umask"
        modes = ["755", "644", "644", "644", "755", "666", "0022"]
        assert shell(engine, script, user="user").split() == modes
        assert shell(engine, "stat -c %a /a /a/b", volumes={"/etc": {"bind": "/a/b"}}).split()[0] == "755"
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["with:colon,comma", 'sp ace\\back"quote', "ünï'\n;$(x)"])
def test_any_path_will_do(own_network: None, image_tar: str, tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    source = tmp_path / f"src {name}"
    source.mkdir()
    (source / "file").write_text("content")
    Store(str(root)).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    engine = poc.Engine(str(root))
    volumes = {str(source): {"bind": f"/mnt/{name}", "mode": "ro"}}
    script = 'cat "$1/file"; touch /new "$1/new"'
    command = ["sh", "-c", script, "sh", f"/mnt/{name}"]
    result = engine.containers.run("busybox", command, volumes=volumes, network="none")
    assert result.stdout == b"content" and b"Read-only file system" in result.stderr
    [container] = engine.containers.list(all=True)
    container.start()
    assert container.wait(timeout=20) == 1
    assert CommandLine(str(root))("ps", "-aq").stdout == f"{container.short_id}\n"
    engine.prune(images=True)
    assert not root.exists()


def mounts() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if "/netns/" not in line]


def test_no_mount_reaches_the_host(engine: poc.Engine, tmp_path: Path) -> None:
    """Not even one that a privileged container makes below a shared mount of the host."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(shared)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(shared)], check=True)
        before = mounts()
        script = "mkdir /v/sub && mount -t tmpfs x /v/sub && mount -t tmpfs x /mnt && echo ready; exec sleep 1000"
        container = engine.containers.run(
            "busybox", ["sh", "-c", script], detach=True, privileged=True, network="none", tmpfs=["/t"],
            volumes=[f"{shared}:/v"], storage_opt={"size": "64m"},
        )  # fmt: skip
        assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
        assert mounts() == before
        assert os.listdir(shared) == ["sub"]
        container.remove(force=True)
        assert mounts() == before
    finally:
        subprocess.run(["umount", str(shared)], check=True)


def image_with(engine: poc.Engine, name: str, image_tar: str, tmp_path: Path, *members: tuple[str, bytes, str]) -> str:
    """An image like busybox, but for some members: (path, type, where a link leads)."""
    path = f"{tmp_path}/{name}.tar"
    replaced = {member for member, _, _ in members}
    with tarfile.open(image_tar) as old, tarfile.open(path, "w") as new:
        for entry in old:
            if entry.name not in replaced:
                new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
        for member, kind, link in members:
            entry = tarfile.TarInfo(member)
            entry.type, entry.linkname, entry.mode = kind, link, 0o666
            entry.devmajor, entry.devminor = 10, 130  # a watchdog: to open it starts it
            new.addfile(entry, BytesIO())
    engine.images.store.add_tar(path, name, config=IMAGE_CONFIG)
    os.unlink(path)
    return name


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that must stay as it is."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("evil:x:0:0::/:\n")
    before = fingerprint(str(directory))
    yield directory
    assert fingerprint(str(directory)) == before
    shutil.rmtree(directory)


def test_a_mount_on_a_symlink_stays_inside(engine: poc.Engine, image_tar: str, tmp_path: Path, victim: Path) -> None:
    """Absolute, relative, dangling: what a link says is the container's, as for a process chrooted into it."""
    up = "../" * 30
    image = image_with(
        engine, "links", image_tar, tmp_path,
        ("absolute", tarfile.SYMTYPE, "/mnt"),
        ("relative", tarfile.SYMTYPE, f"{up}home/user"),
        ("victim", tarfile.SYMTYPE, str(victim)),
        ("victimfile", tarfile.SYMTYPE, f"{up}{str(victim)[1:]}/file"),
        ("dangling", tarfile.SYMTYPE, "var/../no/such/place"),
        ("loop", tarfile.SYMTYPE, "loop"),
        ("slash", tarfile.SYMTYPE, f"etc/{up}"),
        ("etc/resolv.conf", tarfile.SYMTYPE, "../run/systemd/resolve/stub-resolv.conf"),
        ("etc/hosts", tarfile.SYMTYPE, f"{victim}/hosts"),
    )  # fmt: skip
    source = tmp_path / "source"
    source.mkdir()
    (source / "mark").write_text("here")
    for target, real in (
        ("absolute", "/mnt"),
        ("relative", "/home/user"),
        ("relative/deeper", "/home/user/deeper"),
        ("victim", str(victim)),
        ("dangling", "/no/such/place"),
        ("dangling/below", "/no/such/place/below"),
    ):
        script = f"cat {real}/mark; grep -c ' {real} ' /proc/mounts; touch {real}/new"
        told = shell(engine, script, image=image, volumes=[f"{source}:/{target}"])
        assert told == "here1\n", target
        os.unlink(source / "new")
    script = f"cat {victim}/file; echo x >{victim}/file"
    told = shell(engine, script, image=image, volumes=[f"{source}/mark:/victimfile"])
    assert told == "here" and (source / "mark").read_text() == "x\n"
    shell(engine, "touch /victim/new && grep -q . /etc/hosts /etc/resolv.conf", image=image, tmpfs=["/victim"])
    for target, reason in (("loop", "Too many levels"), ("slash", "leads to the container's root")):
        with pytest.raises(errors.SetupError, match=reason):
            shell(engine, "true", image=image, volumes=[f"{source}:/{target}"])


@pytest.mark.parametrize("directory", ["proc", "sys", "dev"])
def test_an_image_whose_own_directories_are_links(
    engine: poc.Engine, image_tar: str, tmp_path: Path, victim: Path, directory: str
) -> None:
    """CVE-2019-19921: procfs and sysfs go on a real directory or nowhere."""
    image = image_with(engine, "hostile", image_tar, tmp_path, (directory, tarfile.SYMTYPE, str(victim)))
    try:
        shell(engine, "true", image=image)
        assert directory == "dev"
    except errors.SetupError as error:
        assert f"/{directory}" in str(error)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_an_image_whose_passwd_is_no_file(
    engine: poc.Engine, image_tar: str, tmp_path: Path, victim: Path, kind: bytes
) -> None:
    image = image_with(engine, "odd", image_tar, tmp_path, ("etc/passwd", kind, f"../../../../../../{victim}/file"))
    uid = "grep -o 'Uid:\t[0-9]*' /proc/self/status"
    assert shell(engine, uid, image=image) == "Uid:\t0\n"
    assert shell(engine, uid, image=image, user="77") == "Uid:\t77\n"
    with pytest.raises(errors.InvalidArgument, match="unable to find user evil"):
        shell(engine, uid, image=image, user="evil")


def test_a_dev_of_the_hosts_stays_as_it_is(engine: poc.Engine, tmp_path: Path) -> None:
    """`-v /dev:/dev`, here with a directory in its place: nothing in it is replaced, nothing added."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "null").write_text("mine")
    before = fingerprint(str(dev))
    for privileged in (False, True):
        told = shell(engine, "ls /dev; cat /dev/null", volumes=[f"{dev}:/dev"], privileged=privileged)
        assert told == "null\npts\nmine"
        assert fingerprint(str(dev)) == before
