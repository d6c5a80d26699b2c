"""`run` and its options, each by its effect inside the container. Isolation has a file of its own, so have networks."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE_CONFIG, CommandLine, needs, shell, wait_until

import poc
from poc import errors
from poc.images.store import Store

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

pytestmark = needs("root", "overlay")

RUN = ("run", "--rm", "--network", "none")
PIPE = subprocess.PIPE


# ── streams ──


def test_ten_megabytes_of_anything_pass_both_ways(cli: CommandLine) -> None:
    data = os.urandom(10 << 20)
    command = ("sh", "-c", "tee /tmp/copy; cat /tmp/copy >&2; exit 4")
    process = cli.start(*RUN, "-i", "busybox", *command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = process.communicate(data, timeout=60)
    assert (process.returncode, len(out), len(err)) == (4, len(data), len(data))
    assert out == data and err == data


def test_neither_side_waits_for_the_other_to_read(cli: CommandLine) -> None:
    """A program that writes before it reads, and one that never reads."""
    data = bytes(4 << 20)
    flood = "head -c 3000000 /dev/zero"
    for script, size in ((f"{flood}; cat", 3_000_000 + len(data)), (flood, 3_000_000)):
        process = cli.start(*RUN, "-i", "busybox", "sh", "-c", script, stdin=PIPE, stdout=PIPE)
        out, _ = process.communicate(data, timeout=60)
        assert (process.returncode, len(out)) == (0, size)


def test_a_slow_reader_gets_everything(cli: CommandLine, tmp_path: Path) -> None:
    """Also what was still in the pipe when the container ended, which does not wait for the reader."""
    writer = "line=$(head -c 4000 /dev/zero | tr '\\0' x); while :; do echo $line; echo >>/v/written; done"
    script = f"({writer}) & sleep 1; kill -9 $!"  # by then every buffer on the way is full
    options = ("--name", "slow", "--network", "none", "-v", f"{tmp_path}:/v")
    process = cli.start("run", *options, "busybox", "sh", "-c", script, stdout=PIPE)
    wait_until(lambda: "Exited (0)" in cli("ps", "-a").stdout)
    assert cli("rm", "slow", timeout=20).exit_code == 0, "its monitor still has something to say, but no lock"
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    written = os.path.getsize(tmp_path / "written")
    assert out.count(b"\n") in (written, written + 1) and len(set(out.splitlines())) == 1


def test_a_reader_that_leaves_ends_the_program(cli: CommandLine) -> None:
    """As in `yes | head -1`: its own write fails."""
    process = cli.start(*RUN, "busybox", "yes", stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None and process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.stderr.read().endswith(b"Broken pipe\n")
    assert process.wait(timeout=60) == 1
    process.stderr.close()


def test_a_stdout_that_does_not_take_everything(cli: CommandLine) -> None:
    """One that somebody made non-blocking, and one that is full: the program's own writes fail then."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = cli.start(*RUN, "busybox", "head", "-c", "1000000", "/dev/zero", stdout=writer)
    os.close(writer)
    with open(reader, "rb") as file:
        wait_until(lambda: select.select([file], [], [], 0)[0])
        assert len(file.read()) == 1_000_000
    assert process.wait(timeout=60) == 0
    with open("/dev/full", "wb") as full:
        process = cli.start(*RUN, "busybox", "yes", stdout=full, stderr=PIPE)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (125, b"Error: No space left on device")


def test_signals_do_not_tear_what_is_on_its_way(cli: CommandLine) -> None:
    data = os.urandom(8 << 20)
    script = "trap 'n=$((n+1))' USR1; echo ready; md5sum; echo $n >&2"
    process = cli.start(*RUN, "-i", "busybox", "sh", "-c", script, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    for start in range(0, len(data), 1 << 16):
        process.stdin.write(data[start : start + (1 << 16)])
        process.send_signal(signal.SIGUSR1)
    process.stdin.close()
    assert process.stdout.read().split()[0].decode() == hashlib.md5(data).hexdigest()
    assert int(process.stderr.read()) > 0
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    process.stderr.close()


def test_stdin_ends_for_whom_it_is_not_meant(cli: CommandLine) -> None:
    assert cli(*RUN, "busybox", "cat", input="x") == ("", "", 0)
    assert cli(*RUN, "-i", "busybox", "cat", input="") == ("", "", 0)
    script = "exec <&-; sleep 0.2; echo done"
    assert cli(*RUN, "-i", "busybox", "sh", "-c", script, input="x" * 1_000_000) == ("done\n", "", 0)
    process = cli.start(*RUN, "-i", "busybox", "true", stdin=PIPE)
    assert process.wait(timeout=60) == 0, "though nobody has closed its stdin"
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("tty", [False, True])
def test_a_user_can_open_their_own_streams(engine: poc.Engine, tty: bool) -> None:
    script = "read word; echo out >/dev/stdout; echo err >/dev/stderr; echo $word"
    options: dict[str, Any] = {"user": "user", "tty": tty, "remove": True, "network": "none"}
    result = engine.containers.run("busybox", ["sh", "-c", f"sh -c '{script}' </dev/stdin"], stdin=b"in\n", **options)
    both = (result.stdout + result.stderr).replace(b"\r", b"").split()
    assert [both.count(word) for word in (b"out", b"err", b"in")] == [1, 1, 1 + tty], "a terminal echoes"


def test_exit_codes(cli: CommandLine) -> None:
    for script, code in (("exit 0", 0), ("exit 1", 1), ("exit 255", 255)):
        assert cli(*RUN, "busybox", "sh", "-c", script).exit_code == code
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
        assert cli(*RUN, "--init", "busybox", "sh", "-c", f"kill -{number.value} $$").exit_code == 128 + number


# ── who, where, what ──


def test_user(engine: poc.Engine) -> None:
    script = "id -u; id -g; id -G; echo $HOME; touch /tmp/x; stat -c '%u %g' /tmp/x"

    def run(user: str) -> list[str]:
        return shell(engine, script, user=user).splitlines()

    assert run("") == ["0", "0", "0", "/root", "0 0"]
    assert run("user") == ["1000", "1000", "1000 50", "/home/user", "1000 1000"]
    assert run("1000") == run("user")
    assert run("user:staff") == ["1000", "50", "50", "/home/user", "1000 50"]
    assert run("1234:5678") == ["1234", "5678", "5678", "/", "1234 5678"]
    assert run("1234") == ["1234", "0", "0", "/", "1234 0"]
    for user, reason in (("nosuch", "unable to find user nosuch"), ("user:nosuch", "unable to find group nosuch")):
        with pytest.raises(errors.InvalidArgument, match=reason):
            run(user)


def test_environment(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"# no\nA=1\n\nB=with = and 'quotes' \nHERE\nBYTES=\xff\xfe\n")
    command = [*cli.command, *RUN, "--env-file", str(file), "-e", "A=2", "-e", "EMPTY=", "-e", "NOWHERE", "-h", "me"]
    done = subprocess.run(
        [*command, "busybox", "env"], env={"HERE": "there", "PATH": os.environ["PATH"]}, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found = dict(line.split(b"=", 1) for line in done.stdout.splitlines())
    assert found == {
        b"PATH": IMAGE_CONFIG["Env"][0].partition("=")[2].encode(),
        **{b"HOSTNAME": b"me", b"HOME": b"/root", b"A": b"2", b"B": b"with = and 'quotes' ", b"HERE": b"there"},
        **{b"EMPTY": b"", b"BYTES": b"\xff\xfe"},
    }
    assert "TERM=xterm" in shell(engine, "env", tty=True).split()
    assert shell(engine, 'echo "$A"', environment={"A": "two\nlines", "HOME": "/x"}) == "two\nlines\n"


def test_names(engine: poc.Engine) -> None:
    script = "hostname; cat /etc/hostname; grep -c mine /etc/hosts; ping -c1 -W5 mine >/dev/null && echo pings"
    assert shell(engine, script, hostname="mine", name="other").split() == ["mine", "mine", "1", "pings"]
    container = engine.containers.create("busybox", ["hostname"], network="none", labels={"a": "1", "b": ""})
    assert container.name == f"poc_{container.short_id}"
    assert container.run_here().output == f"{container.short_id}\n"
    assert engine.containers.get(container.name).labels == {"a": "1", "b": ""}
    longest = "n" * 255
    assert shell(engine, "cat /etc/hostname", name=longest, hostname="h" * 63) == "h" * 63 + "\n"
    assert shell(engine, "hostname", network="host") == os.uname().nodename + "\n"


def test_a_host_name_of_digits_would_be_an_address(engine: poc.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No container gets one by itself; it would not find itself in /etc/hosts."""
    digits, random = "123456789012" + "a" * 52, os.urandom
    drawn = [bytes.fromhex(digits)]
    monkeypatch.setattr(os, "urandom", lambda size: drawn.pop() if drawn and size == 32 else random(size))
    container = engine.containers.create("busybox", ["hostname", "-i"], network="none")
    assert not drawn and container.id != digits
    assert container.run_here().exit_code == 0
    assert "Unknown host" in shell(engine, "hostname -i 2>&1 || :", hostname=digits[:12])


def test_working_directory(engine: poc.Engine) -> None:
    assert shell(engine, "pwd") == "/\n"
    assert shell(engine, "pwd", working_dir="/home/user/", user="user") == "/home/user\n"
    assert shell(engine, "pwd; stat -c '%u %a' .", working_dir="/a/b", user="user") == "/a/b\n0 755\n"
    assert shell(engine, "touch x; ls", working_dir="/v/deep", tmpfs=["/v"], read_only=True) == "x\n"
    with pytest.raises(errors.SetupError, match="working directory /etc/passwd: Not a directory"):
        shell(engine, "pwd", working_dir="/etc/passwd")


def test_entrypoint_and_command(own_network: None, image_tar: str, tmp_path: Path) -> None:
    """docker's rules of what becomes of the image's own."""
    config = {"Entrypoint": ["echo", "image"], "Cmd": ["cmd"], "Env": ["PATH=/bin", "FROM=image"], "User": "user"}
    Store(f"{tmp_path}/e").add_tar(image_tar, "i", config={**config, "WorkingDir": "/home", "Labels": {"l": "1"}})
    engine, cli = poc.Engine(f"{tmp_path}/e"), CommandLine(f"{tmp_path}/e")

    def run(*words: str) -> str:
        return cli(*RUN, *words).stdout

    assert run("i") == "image cmd\n"
    assert run("i", "other", "words") == "image other words\n"
    assert run("--entrypoint", "echo", "i") == "\n"
    assert run("--entrypoint", "echo", "i", "given") == "given\n"
    assert run("--entrypoint=", "i", "echo", "bare") == "bare\n"
    assert run("--entrypoint=", "i", "sh", "-c", "id -u; pwd; echo $FROM $HOME") == "1000\n/home\nimage /home/user\n"
    nothing = cli(*RUN, "--entrypoint=", "i")
    assert (nothing.exit_code, nothing.stderr) == (125, "Error: no command specified, and the image has none\n")
    labels = {"l": "2", "m": "3"}
    container = engine.containers.create("i", labels=labels, entrypoint=["sh", "-c"], command="'echo \"a  b\"'")
    assert container.labels == {"l": "2", "m": "3"}
    assert container.run_here().output == "a  b\n"
    engine.prune(images=True)


# ── files ──


def test_volumes(engine: poc.Engine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("one\n")
    (tmp_path / "hosts").write_text("my own\n")
    script = "cat /v/file; echo two >/v/new; echo three >>/f; cat /etc/hosts; ls /v/sub/deep/er"
    volumes = [f"{source}:/v", f"{source}/file:/f", f"{tmp_path}/hosts:/etc/hosts", f"{tmp_path}:/v/sub/deep/er"]
    assert shell(engine, script, volumes=volumes).split("\n")[:3] == ["one", "my own", "hosts"]
    assert (source / "new").read_text() == "two\n" and (source / "file").read_text() == "one\nthree\n"
    (source / "sub/deep/er").rmdir()
    (source / "sub/deep").rmdir()

    script = (
        "for f in /r/new /r/file /one; do test -e /r/file && (echo x >>$f) 2>/dev/null && echo wrote $f; done; true"
    )
    volumes = [f"{source}:/r:ro", f"{source}/file:/one:ro"]
    assert shell(engine, script, volumes=volumes) == ""
    remount = "mount -o remount,rw,bind /r 2>/dev/null && echo remounted; umount /r 2>/dev/null && echo unmounted; true"
    assert shell(engine, remount, volumes=volumes) == ""


def test_what_is_mounted_below_a_volume_comes_along(engine: poc.Engine, tmp_path: Path) -> None:
    below = tmp_path / "source/below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(below)], check=True)
    try:
        (below / "file").write_text("content")
        script = "cat /v/below/file; touch /v/below/new 2>/dev/null && echo wrote; true"
        assert shell(engine, script, volumes=[f"{tmp_path}/source:/v"]) == "contentwrote\n"
        (below / "new").unlink()
        assert shell(engine, script, volumes=[f"{tmp_path}/source:/v:ro"]) == "content", "ro holds for it too"
        with open("/proc/self/mountinfo") as file:
            [line] = [line for line in file if str(below) in line]
        assert "rw" in line.split()[5].split(","), "but not on the host"
    finally:
        subprocess.run(["umount", str(below)], check=True)


def test_read_only(engine: poc.Engine, tmp_path: Path) -> None:
    places = "/ /tmp /etc /etc/hosts /root /usr /dev/shm /t /v"
    script = f"for p in {places}; do ([ -d $p ] && touch $p/x || echo >>$p) 2>/dev/null && echo $p; done; true"
    found = shell(engine, script, read_only=True, tmpfs=["/t"], volumes=[f"{tmp_path}:/v"])
    assert found.split() == ["/dev/shm", "/t", "/v"]
    remount = "mount -o remount,rw / 2>/dev/null && echo remounted; true"
    assert shell(engine, remount, read_only=True) == ""


def test_tmpfs_and_shm(engine: poc.Engine) -> None:
    script = "grep -E ' (/t|/tmp|/dev/shm) ' /proc/mounts | sort; cp /bin/busybox /t && /t/busybox true; stat -c %a /t"
    tmpfs = {"/t": "size=4m,mode=700", "/tmp": "exec"}
    told = shell(engine, script, tmpfs=tmpfs, shm_size="1m").splitlines()
    assert told[-1] == "700"
    shm, t, tmp = (line.split()[1:4] for line in told[:3])
    assert shm[0] == "/dev/shm" and "size=1024k" in shm[2]
    assert t[0] == "/t" and {"rw", "nosuid", "nodev", "noexec", "size=4096k"} <= set(t[2].split(","))
    assert tmp[0] == "/tmp" and "noexec" not in tmp[2] and "nosuid" in tmp[2]
    full = "dd if=/dev/zero of={0}/x bs=1M count=8 2>&1 | grep -o 'No space.*'"
    assert shell(engine, full.format("/dev/shm"), shm_size="1m") == "No space left on device\n"
    assert shell(engine, full.format("/t"), tmpfs=["/t:size=4m"]) == "No space left on device\n"
    assert shell(engine, "df -m /dev/shm | tail -n1 | awk '{print $2}'") == "64\n"


@needs("program:mkfs.ext4")
def test_a_disk_of_its_own_size(engine: poc.Engine) -> None:
    """Writes beyond it get ENOSPC, whatever is free on the host; they survive a stop; the loop device does not."""
    fill = "dd if=/dev/zero of=/big bs=1M count=64 2>&1 | grep -o 'No space.*'"
    script = f"cat /kept 2>/dev/null; echo kept >/kept; {fill}; ls -s /big; rm /big"
    container = engine.containers.create("busybox", ["sh", "-c", script], network="none", storage_opt={"size": "32m"})
    lines = container.run_here().output.splitlines()
    assert lines[0] == "No space left on device" and 10_000 < int(lines[1].split()[0]) < 32_768
    assert loops_on(container.id) == []
    assert container.run_here().output.splitlines()[:2] == ["kept", "No space left on device"]
    assert shell(engine, "dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null && echo fits") == "fits\n"
    container.remove()

    container = engine.containers.run(
        "busybox", ["sleep", "1000"], detach=True, network="none", storage_opt=["size=16m"], read_only=True
    )
    assert len(loops_on(container.id)) == 1
    container.kill()
    container.wait(timeout=20)
    wait_until(lambda: not loops_on(container.id))


def loops_on(id: str) -> list[str]:
    """The loop devices with a file of this container behind them."""
    found = []
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file") as file:
                found += [name] if id in file.read() else []
        except OSError:
            pass  # no loop device, or free
    return found


# ── init ──


def test_init_reaps_and_forwards(engine: poc.Engine) -> None:
    """Without it the program is process 1 and orphans stay zombies; with it they don't."""
    orphan = ["sh", "-c", "(sh -c 'sleep 0.1; echo over' & true); exec sleep 1000"]
    for init, left in ((False, ["Z"]), (True, ["S"])):
        container = engine.containers.run("busybox", orphan, detach=True, init=init, network="none")
        assert next(container.logs(follow=True)) == ("stdout", b"over\n")
        wait_until(lambda: states_of_children(container.attrs["State"]["Pid"]) == left)  # noqa: B023
        container.remove(force=True)
    assert shell(engine, "readlink /proc/1/exe || echo hidden", init=True).endswith("hidden\n")
    assert shell(engine, "cat /proc/1/comm /proc/1/cmdline", init=True).rstrip("\0") == "poc-init\npoc-init"
    assert shell(engine, "ls /proc/1/fd 2>/dev/null | grep -v '^[012]$'; true", init=True) == ""
    script = "trap 'echo got; exit 6' USR1 TERM; echo ready; while :; do sleep 0.05; done"
    for number in ("USR1", "TERM"):
        container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, init=True, network="none")
        output = container.logs(follow=True)
        assert next(output) == ("stdout", b"ready\n")
        container.kill(number)
        assert next(output) == ("stdout", b"got\n")
        assert container.wait(timeout=20) == 6
    with pytest.raises(errors.CommandNotFound):
        engine.containers.run("busybox", ["nosuch"], init=True, network="none")


def states_of_children(pid: int) -> list[str]:
    """proc_pid_stat(5)'s letters."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = file.read().split()
    states = []
    for child in children:
        with open(f"/proc/{child}/stat") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
    return states


def test_init_on_a_terminal(engine: poc.Engine) -> None:
    """The program has the terminal: ctrl-c is its own."""
    script = "trap 'echo interrupted; exit 3' INT; echo ready; tty; while :; do sleep 0.05; done"
    container = engine.containers.run(
        "busybox", ["sh", "-c", script], detach=True, init=True, tty=True, stdin_open=True, network="none"
    )
    output = container.logs(follow=True)
    assert [next(output)[1] for _ in range(2)] == [b"ready\r\n", b"/dev/pts/0\r\n"]
    pid = container.attrs["State"]["Pid"]
    with open(f"/proc/{pid}/root/dev/pts/0", "wb", buffering=0):
        pass  # it is the container's, and there
    container.kill("INT")
    assert next(output)[1] == b"interrupted\r\n"
    assert container.wait(timeout=20) == 3


# ── what is told of it ──


def test_inspect_tells_what_was_asked(cli: CommandLine, engine: poc.Engine, tmp_path: Path) -> None:
    options = (
        *("--name", "told", "-h", "me", "-e", "A=1", "-l", "k=v", "-v", f"{tmp_path}:/v:ro", "--tmpfs", "/t:size=1m"),
        *("-w", "/tmp", "-u", "user", "--cap-add", "net_admin", "--read-only", "--init", "-m", "64m", "--cpus", "0.5"),
        *("--network", "none", "--stop-signal", "USR1", "-it", "--shm-size", "2m"),
    )
    assert cli("create", *options, "busybox", "sh", "-c", "exit 3").exit_code == 0
    attrs = engine.containers.get("told").attrs
    assert json.loads(cli("inspect", "told").stdout) == [attrs]
    assert (attrs["Name"], attrs["Path"], attrs["Args"]) == ("/told", "sh", ["-c", "exit 3"])
    config, host = attrs["Config"], attrs["HostConfig"]
    assert [config[key] for key in ("Hostname", "User", "WorkingDir")] == ["me", "user", "/tmp"]
    assert config["Labels"] == {"k": "v"}
    assert "A=1" in config["Env"] and config["Tty"] and config["OpenStdin"] and config["StopSignal"] == "USR1"
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (64 << 20, 500_000_000, 2 << 20)
    assert host["ReadonlyRootfs"] and host["Init"] and host["CapAdd"] == ["CAP_NET_ADMIN"]
    assert host["Binds"] == [f"{tmp_path}:/v:ro"] and host["NetworkMode"] == "none"
    assert attrs["Mounts"][0]["Destination"] == "/v" and attrs["Mounts"][0]["RW"] is False
    assert attrs["State"]["Status"] == "created"
