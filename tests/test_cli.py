"""The command line on the real thing: docker's output, streams, exit codes and terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest
from conftest import CommandLine, Terminal, needs, running

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import poc

pytestmark = needs("root", "overlay")

ALONE = ("--network", "none")
QUIET_LOOP = "while :; do sleep 0.1; done"


def test_run_keeps_streams_apart_and_passes_stdin_and_the_exit_code(cli: CommandLine) -> None:
    script = "cat; echo $A $PWD $(id -u) >&2; exit 3"
    result = cli(
        *("run", "--rm", "-i", *ALONE, "-eA=x", "-w", "/tmp", "-u", "user", "busybox", "sh", "-c", script), input="in"
    )
    assert result == ("in", "x /tmp 1000\n", 3)
    assert cli("run", "--rm", *ALONE, "busybox", "cat", input="not for it") == ("", "", 0)
    assert cli("ps", "-aq") == ("", "", 0)


def test_the_life_of_a_detached_container(cli: CommandLine) -> None:
    script = f"echo out; echo err >&2; trap 'exit 5' TERM; {QUIET_LOOP}"
    run = cli("run", "-d", "--name", "web", *ALONE, "busybox", "sh", "-c", script)
    assert re.fullmatch("[0-9a-f]{64}\n", run.stdout) and run[1:] == ("", 0)
    identity = run.stdout.strip()

    assert cli("ps", "-q") == (f"{identity[:12]}\n", "", 0)
    assert cli("ps", "-q", "--no-trunc") == (f"{identity}\n", "", 0)
    heading, line = cli("container", "ls").stdout.splitlines()
    assert re.split("  +", heading) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    ago = r"(Less than a second|1 second|\d+ seconds)"
    pattern = rf"{identity[:12]} +busybox +\"sh -c 'echo out; ec…\" +{ago} ago +Up {ago} +web"
    assert re.fullmatch(pattern, line), line

    [attrs] = json.loads(cli("inspect", identity[:6]).stdout)
    assert (attrs["Id"], attrs["Name"], attrs["State"]["Running"]) == (identity, "/web", True)
    assert cli("stop", "-t", "20", "web") == ("web\n", "", 0)
    assert cli("wait", "web") == ("5\n", "", 0)
    assert cli("logs", "web") == ("out\n", "err\n", 0)
    assert cli("logs", "-n1", "web")[:2] in [("out\n", ""), ("", "err\n")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z out\n", cli("logs", "-t", "web").stdout)
    assert cli("ps", "-q").stdout == ""
    assert re.search(r"Exited \(5\) .* ago", cli("ps", "-a").stdout)

    assert cli("start", "web") == ("web\n", "", 0)
    assert cli("rm", "web").exit_code == 1, "it runs"
    assert cli("kill", "web") == ("web\n", "", 0)
    assert cli("wait", "web") == ("137\n", "", 0)
    assert cli("rm", "web") == ("web\n", "", 0)
    assert cli("ps", "-aq").stdout == ""


def test_logs_follow_to_the_end(cli: CommandLine) -> None:
    identity = cli("run", "-d", *ALONE, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done").stdout
    assert cli("logs", "-f", identity.strip()) == ("1\n2\n3\n", "", 0)
    assert cli("logs", "--tail", "2", identity.strip()) == ("2\n3\n", "", 0)
    assert cli("logs", "--tail", "x", identity.strip()).exit_code == 1


def test_create_start_attached_and_its_files(cli: CommandLine, tmp_path: str) -> None:
    with open(f"{tmp_path}/env", "w") as file:
        file.write("# variables\nA=1\nB=2\n")
    flags = ("--env-file", f"{tmp_path}/env", "-e", "B=3", "-l", "a=b", "--cidfile", f"{tmp_path}/id", *ALONE)
    create = cli("create", "-i", *flags, "busybox", "sh", "-c", "cat; echo $A$B; exit 4")
    identity = create.stdout.strip()
    with open(f"{tmp_path}/id") as file:
        assert file.read() == identity
    assert cli("ps", "-a", "--filter", "status=created", "--format", "json").stdout.count("\n") == 1
    assert cli("start", "-ai", identity, input="in ") == ("in 13\n", "", 4)
    assert cli("ps", "-q", "--filter", "label=a=b", "--filter", "exited=4").stdout == f"{identity[:12]}\n"

    again = cli("create", *flags, "busybox")
    assert again.exit_code == 125 and "--cidfile" in again.stderr
    missing = cli("create", "--cidfile", f"{tmp_path}/other", "nosuchimage")
    assert missing.exit_code == 125 and not os.path.exists(f"{tmp_path}/other")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["run", "nosuchimage"], 125, "no such image: nosuchimage"),
        (["run", "--pull", "never", "ubuntu"], 125, "no such image: ubuntu"),
        (["run", "--pull", "always", "busybox"], 125, "--pull"),
        (["run", "busybox", "nosuchcommand"], 127, "nosuchcommand"),
        (["run", "busybox", "/etc/passwd"], 126, "/etc/passwd"),
        (["run", "--cpus", "0", "busybox"], 125, "--cpus"),
        (["run", "--cpus", "4096", "busybox"], 125, "--cpus"),
        (["run", "--memory", "1k", "busybox"], 125, "--memory"),
        (["run", "-v", "malformed", "busybox"], 125, "malformed"),
        (["run", "--mount", "type=bind,src=/no/such/path,dst=/x", "busybox"], 125, "/no/such/path"),
        (["run", "--env-file", "/no/such/file", "busybox"], 125, "/no/such/file"),
        (["run", "--pids-limit", "many", "busybox"], 125, "--pids-limit"),
        (["create", "--name", "a/b", "busybox"], 125, "a/b"),
        (["start", "nosuch"], 1, "no such container: nosuch"),
        (["stop", "nosuch"], 1, "no such container: nosuch"),
        (["logs", "nosuch"], 1, "no such container: nosuch"),
        (["inspect", "nosuch"], 1, "No such object: nosuch"),
        (["rmi", "nosuch"], 1, "no such image: nosuch"),
        (["ps", "--format", "{{.ID"], 1, "template parsing error: template: :1: unclosed action"),
        (["ps", "--filter", "colour=red"], 1, "--filter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_line(cli: CommandLine, words: list[str], code: int, text: str) -> None:
    verb, *rest = words
    alone = ALONE if verb in ("run", "create") else ()
    result = cli(verb, *alone, *rest)
    assert (result.stdout, result.exit_code) == ("[]\n" if verb == "inspect" else "", code)
    assert result.stderr.startswith("Error: ") and text in result.stderr and result.stderr.count("\n") == 1
    assert cli("ps", "-aq").stdout == "", "something is left"


def test_an_error_with_one_name_does_not_stop_the_others(cli: CommandLine) -> None:
    for name in ("a1", "a2"):
        assert cli("create", "--name", name, "busybox").exit_code == 0
    taken = cli("create", "--name", "a1", "busybox")
    assert taken.exit_code == 125 and "a1" in taken.stderr
    assert cli("rm", "a1", "nosuch", "a2") == ("a1\na2\n", "Error: no such container: nosuch\n", 1)
    assert cli("rm", "-f", "nosuch").exit_code == 0


def test_ps_selects(cli: CommandLine) -> None:
    for name in ("first", "second"):
        cli("create", "--name", name, "busybox", "echo", "a b")
    rows = [json.loads(line) for line in cli("ps", "-a", "--format", "json").stdout.splitlines()]
    assert [row["Names"] for row in rows] == ["second", "first"]
    assert {key: rows[0][key] for key in ("Image", "Command", "State", "Status", "Ports", "Networks")} == {
        **{"Image": "busybox", "Command": "\"echo 'a b'\"", "State": "created", "Status": "Created", "Ports": ""},
        "Networks": "bridge",
    }
    identities = [row["ID"] for row in rows]
    assert cli("ps", "-lq").stdout.split() == identities[:1]
    assert cli("ps", "-q", "-n", "5").stdout.split() == identities
    assert cli("ps", "-aqf", "name=fir").stdout.split() == identities[1:]
    assert cli("ps", "-aqf", "ancestor=busybox:latest").stdout.split() == identities


def test_images_and_aliases(cli: CommandLine, engine: poc.Engine) -> None:
    engine.images.tag("busybox", "box:2")
    rows = [json.loads(line) for line in cli("images", "--format", "json").stdout.splitlines()]
    assert {(row["Repository"], row["Tag"]) for row in rows} == {("busybox", "latest"), ("box", "2")}
    assert len({row["ID"] for row in rows}) == 1
    assert cli("images", "-q").stdout == f"{rows[0]['ID']}\n"
    heading = cli("image", "ls").stdout.splitlines()[0]
    assert re.split("  +", heading) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    assert cli("rmi", "box:2").exit_code == 0
    assert cli("images", "-q").stdout == f"{rows[0]['ID']}\n"


def test_prune_asks_first(cli: CommandLine) -> None:
    cli("create", "--name", "kept", "busybox")
    for answer in ("", "n\n"):
        result = cli("prune", input=answer)
        assert result.exit_code == 1 and "nothing was removed" in result.stderr
    assert cli("ps", "-aq").stdout != ""
    assert cli("prune", input="y\n").exit_code == 0
    assert cli("ps", "-aq").stdout == ""
    assert cli("prune", "-f").stderr == ""
    assert cli("images", "-q").stdout != ""


def test_signals_go_on_to_the_container(cli: CommandLine) -> None:
    script = f"for s in HUP INT USR1 TERM; do trap \"echo $s\" $s; done; trap 'exit 7' USR2; echo up; {QUIET_LOOP}"
    command = ("run", "--rm", *ALONE, "busybox", "sh", "-c", script)
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}  # these tests may run under nohup
    with running(cli.start(*command, stdout=subprocess.PIPE, **heard)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        for name in (b"HUP", b"INT", b"USR1", b"TERM"):
            process.send_signal(getattr(signal, f"SIG{name.decode()}"))
            assert process.stdout.readline() == name + b"\n"
        process.send_signal(signal.SIGUSR2)
        assert process.wait() == 7


def test_signals_overtake_input_that_nobody_reads(cli: CommandLine) -> None:
    script = f"trap 'exit 7' TERM; echo up; {QUIET_LOOP}"
    flags = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(cli.start("run", "--rm", "-i", *ALONE, "busybox", "sh", "-c", script, **flags)) as process:
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        assert process.stdout.readline() == b"up\n"
        full = 0
        while full < 20:  # the pipe stays full: what poc takes from it has nowhere to go
            try:
                os.write(process.stdin.fileno(), bytes(1 << 16))
            except BlockingIOError:
                full += 1
                time.sleep(0.05)
            else:
                full = 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


@needs("cgroup:memory")
def test_a_lack_of_memory_is_reported(cli: CommandLine) -> None:
    result = cli("run", "--rm", *ALONE, "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero")
    assert result.exit_code == 137
    assert "out of memory" in result.stderr


def on_terminal(cli: CommandLine, terminal: Terminal, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return terminal.start([*cli.command, *words])


def test_a_terminal_has_its_size_and_is_restored(cli: CommandLine, terminal: Terminal) -> None:
    with on_terminal(cli, terminal, "run", "--rm", "-it", *ALONE, "busybox", "sh") as process:
        use_a_shell(terminal, process)
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def use_a_shell(terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
    """The size, another size, the user's own streams, ctrl-c, and the end."""
    os.write(terminal.fd, b"stty size; tty; echo me >/dev/stdout\n")
    assert b"31 97\r\n/dev/pts/0\r\nme\r\n" in terminal.read_until(b"\r\nme\r\n")
    assert termios.tcgetattr(terminal.slave) != terminal.settings, "not raw"
    terminal.resize(20, 50)
    os.write(terminal.fd, b"while ! stty size | grep 20; do sleep 0.1; done\n")
    assert b"20 50" in terminal.read_until(b"20 50\r\n")
    os.write(terminal.fd, b'sh -c \'trap "exit 3" INT; echo o""k; while :; do sleep 0.1; done\'; exit 9\n')
    terminal.read_until(b"ok\r\n")
    os.write(terminal.fd, b"\x03")
    assert process.wait(timeout=20) == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_killed_poc_restores_the_terminal(cli: CommandLine, terminal: Terminal, number: int) -> None:
    with on_terminal(cli, terminal, "run", "-it", *ALONE, "busybox", "sh") as process:
        os.write(terminal.fd, b"echo o''k\n")
        terminal.read_until(b"ok\r\n")
        process.send_signal(number)
        assert process.wait() == 128 + number
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_a_terminal_of_the_containers_own(cli: CommandLine) -> None:
    result = cli("run", "--rm", "-it", *ALONE, "busybox", "sh", "-c", "tty; echo err >&2", input="")
    assert result == ("/dev/pts/0\nerr\n", "", 0)
    result = cli("run", "-it", "-d", "--name", "on", *ALONE, "busybox", "sh")
    assert len(result.stdout) == 65 and result.stderr == ""
    with pytest.raises(subprocess.TimeoutExpired):
        cli("wait", "on", timeout=1)


def test_colours_only_on_a_terminal(cli: CommandLine, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        with on_terminal(cli, terminal, "images") as process:
            assert (b"\x1b[1mREPOSITORY" in terminal.read_until(b"SIZE")) is coloured
            assert process.wait() == 0


def test_names_are_completed(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("create", "--name", "web-1", *ALONE, "busybox")
    monkeypatch.setenv("_POC_COMPLETE", "bash_complete")
    for line, offer in (("stop w", "web-1"), ("run --rm busyb", "busybox:latest"), ("run busybox b", "")):
        monkeypatch.setenv("COMP_WORDS", f"poc --root {cli.root} {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) + 2))
        assert cli().stdout.strip().removeprefix("plain,") == offer


def test_not_root_is_one_line(cli: CommandLine) -> None:
    process = cli.start("ps", user=65534, group=65534, extra_groups=(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (out, err, process.returncode) == (
        b"",
        "Error: poc ps needs root's rights; try: sudo poc ps …\n".encode(),
        125,
    )


def test_a_reader_that_leaves_is_no_error(cli: CommandLine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for words in (["images"], ["--help"]):
            process = cli.start(*words, stdout=writer, stderr=subprocess.PIPE)
            assert process.communicate()[1] == b""
            assert process.returncode == 141
    finally:
        os.close(writer)


@pytest.mark.parametrize("words", [["ps"], ["--help"], ["run", "--rm", *ALONE, "busybox", "echo", "hi"]])
def test_output_that_cannot_be_written_is_an_error(cli: CommandLine, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = cli.start(*words, stdout=full, stderr=subprocess.PIPE)
        assert process.communicate()[1] == b"Error: No space left on device\n"
        assert process.returncode == 125


def test_streams_that_the_caller_closed_lead_nowhere(cli: CommandLine) -> None:
    script = "cat; echo out; echo err >&2; exit 4"
    process = cli.start(
        *("run", "--rm", "-i", *ALONE, "busybox", "sh", "-c", script), preexec_fn=lambda: os.closerange(0, 3)
    )
    assert process.wait() == 4


def test_debug_shows_where(cli: CommandLine) -> None:
    result = cli("--debug", "stop", "nosuch")
    assert result.exit_code == 1
    result = cli("--debug", "run", "nosuchimage")
    assert result.exit_code == 1 and "Traceback" in result.stderr and "ImageNotFound" in result.stderr


def test_bytes_that_are_no_text_survive(cli: CommandLine) -> None:
    flags = [b"--rm", b"--network=none", b"-e", b"A=\xff\n", b"-l", b"\xfe=\xff"]
    command = [*map(os.fsencode, cli.command), b"run", *flags, b"busybox", b"sh", b"-c", b"echo \"$A\" '\xfd'"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"\xff\n \xfd\n"


def test_init_makes_ubuntu_and_prune_takes_all_away(own_network: None, image_tar: str, tmp_path: str) -> None:
    cli = CommandLine(f"{tmp_path}/root")
    assert cli("init", "--from", "tar").exit_code == 1
    assert cli("init", "--from", "tar", image_tar)[1:] == ("", 0)
    assert cli("init")[1:] == ("", 0), "again"
    assert cli("run", "--rm", "ubuntu", "hostname", "-i").exit_code == 0
    assert cli("images").stdout.count("\n") == 2
    removed = cli("prune", "-f", "--images")
    assert "ubuntu:latest" in removed.stdout
    assert removed[1:] == ("", 0)
    assert not os.path.exists(cli.root)
