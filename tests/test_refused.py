"""Bad input through the command line: one plain line, docker's exit code, and nothing left (the leak check)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import CommandLine, needs

import poc

pytestmark = needs("root", "overlay", "program:busybox")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch", "true"], 125, "no such image: nosuch"),
        (["--cpus", "0", "busybox", "true"], 125, "--cpus: 0 is out of range"),
        (["--cpus", "640", "busybox", "true"], 125, "CPUs here"),
        (["--memory", "1k", "busybox", "true"], 125, "--memory: the minimum is 6m"),
        (["--memory", "much", "busybox", "true"], 125, "'much' is not a size"),
        (["-v", "/tmp", "busybox", "true"], 125, "invalid volume specification: '/tmp'"),
        (["-v", "/a:b:ro:x", "busybox", "true"], 125, "invalid volume specification"),
        (["-v", "/no/such/path:/mnt", "busybox", "true"], 125, "bind source path does not exist: /no/such/path"),
        (["--network", "nosuch", "busybox", "true"], 125, "no such network: nosuch"),
        (["--name", "../up", "busybox", "true"], 125, "invalid container name '../up'"),
        (["--name", "a\nb", "busybox", "true"], 125, "invalid container name"),
        (["-u", "nosuch", "busybox", "true"], 125, "unable to find user nosuch"),
        (["--cap-add", "FLY", "busybox", "true"], 125, "unknown capability"),
        (["--nosuch", "busybox", "true"], 125, "unknown flag: --nosuch"),
        (["busybox", "nosuch"], 127, "'nosuch' not found in PATH"),
        (["busybox", "/no/such/file"], 127, "'/no/such/file' not found"),
        (["busybox", "/etc/passwd"], 126, "Permission denied"),
        (["busybox", "/etc"], 126, "Permission denied"),
    ],
)
def test_refused(cli: CommandLine, arguments: list[str], code: int, said: str) -> None:
    done = cli("run", "--rm", "--network=none", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert cli("ps", "-aq").stdout == ""


def test_a_name_in_use(cli: CommandLine) -> None:
    assert cli("create", "--name", "taken", "busybox", "true").exit_code == 0
    done = cli("run", "--name", "taken", "busybox", "true")
    assert (done.exit_code, done.stderr.count("\n")) == (125, 1)
    assert "'taken' is in use" in done.stderr


@pytest.mark.parametrize("target", ["/outside", "../../../../../../outside", "/nowhere/at/all"])
def test_a_bind_onto_a_symlink_stays_inside(
    cli: CommandLine, engine: poc.Engine, image_tar: str, tmp_path: Path, target: str
) -> None:
    """The image says /link leads out of it: the mount lands below its own root, or is refused; never on the host."""
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    subprocess.run(["tar", "-C", str(rootfs), "-xf", image_tar], check=True)
    os.symlink(target, rootfs / "link")
    engine.images.store.add_directory(str(rootfs), "linked")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    mounts = Path("/proc/self/mountinfo").read_text()
    done = cli(
        "run", "--rm", "--network=none", "-v", f"{source}:/link", "linked", "find", "/", "-xdev", "-name", "file"
    )
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not os.path.lexists("/outside") and not os.path.lexists("/nowhere")
    assert (done.exit_code, done.stderr) == (0, "") or (done.exit_code == 125 and done.stderr.count("\n") == 1)


@pytest.mark.parametrize("verb", ["run --rm busybox true", "ps", "prune -f"])
def test_not_root(cli: CommandLine, verb: str) -> None:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *cli.command, *verb.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 125
    assert "root" in done.stderr and done.stderr.count("\n") == 1


def test_hostile_words(cli: CommandLine) -> None:
    """They reach the program and the listings as they are."""
    word = "a\nb'\"`$(id) ../ \x1b[31m ü"
    done = cli(
        "run", "--network=none", "--name=odd", "-l", f"k={word}", "-e", f"V={word}", "busybox", "sh", "-c", 'echo "$V"'
    )
    assert done.stdout == word + "\n"
    assert cli("inspect", "odd").exit_code == cli("ps", "-a").exit_code == 0
    assert cli("run", "--rm", "--network=none", "busybox", "printf", "%s", "x" * 100_000).stdout == "x" * 100_000
