"""The scripts: a fresh checkout that sets itself up, the launcher's everyday path, the checks, and the installer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT, needs

from poc import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = f"poc version {__version__}\n"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def checkout(run_directory: str) -> Iterator[Path]:
    """A copy of this checkout as a clone has it, in a place with a space in its name that anybody may read."""
    os.chmod(run_directory, 0o711)
    copy = Path(run_directory, "a checkout")
    for name in ("poc", "scripts", "tests", "pyproject.toml", "README.md", "LICENSE"):
        source = Path(CHECKOUT, name)
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    yield copy
    shutil.rmtree(copy)


@pytest.fixture
def ready(checkout: Path) -> Path:
    """A checkout that is set up, with this one's packages."""
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    for program in Path(sys.prefix, "bin").iterdir():
        (venv / "bin" / program.name).symlink_to(program)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (venv / "lib").symlink_to(os.path.join(sys.prefix, "lib"))
    shutil.copy(os.path.join(sys.prefix, "pyvenv.cfg"), venv)
    (venv / "ready").touch()
    (venv / "ready-for-tests").touch()
    return checkout


def _run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": 110, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run(command, **settings)  # type: ignore[call-overload, no-any-return]


def _says(done: subprocess.CompletedProcess[str]) -> tuple[str, str, int]:
    return done.stdout, done.stderr, done.returncode


def test_everyday_path_needs_no_other_program(ready: Path) -> None:
    """With an empty PATH neither dirname nor readlink nor id could be found."""
    done = _run(ready / "scripts" / "poc", "--version", env={"PATH": "/nonexistent"})
    assert _says(done) == (VERSION, "", 0)


def test_the_launcher_is_found_however_it_is_called(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "link to poc").symlink_to(ready / "scripts" / "poc")
    assert _says(_run(tmp_path / "link to poc", "--version")) == (VERSION, "", 0)
    for directory, command in ((ready, "scripts/poc"), (ready / "scripts", "./poc"), (ready / "poc", "../scripts/poc")):
        assert _says(_run(command, "--version", cwd=directory)) == (VERSION, "", 0)
    assert _says(_run("sh", "poc", "--version", cwd=ready / "scripts")) == (VERSION, "", 0)


def test_arguments_exit_code_and_environment_are_the_commands_own(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    here = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    done = _run(ready / "scripts" / "poc", "version", cwd=tmp_path, env={**os.environ, **here})
    assert (done.stderr, done.returncode) == ("", 0)
    done = _run(ready / "scripts" / "poc", "a verb", "that is not there")
    assert (done.stdout, done.returncode) == ("", 1) and "a verb" in done.stderr


@needs("root", "program:setpriv")
def test_who_is_not_root_is_told_so(checkout: Path) -> None:
    launcher = str(checkout / "scripts" / "poc")
    assert _says(_run(*NOBODY, launcher, "run", "x")) == ("", f"poc: needs root; try: sudo {launcher} run x\n", 125)
    assert _run(*NOBODY, checkout / "scripts" / "test").returncode == 125
    assert _run(*NOBODY, checkout / "scripts" / "install").returncode == 125
    assert not (checkout / ".venv").exists()


@needs("root", "program:setpriv")
def test_who_is_not_root_gets_what_needs_no_root(ready: Path) -> None:
    os.utime(ready / ".venv" / "ready", (0, 0))
    if subprocess.run([*NOBODY, "test", "-r", sys.prefix], check=False).returncode:
        pytest.skip("needs a virtual environment that anybody may read")
    assert _says(_run(*NOBODY, ready / "scripts" / "poc", "--version")) == (VERSION, "", 0)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with what every system has, and neither a compiler nor a package manager."""
    for name in (
        "cat",
        "cut",
        "echo",
        "flock",
        "id",
        "mktemp",
        "readlink",
        "rm",
        "sed",
        "sort",
        "tail",
        "touch",
        "xargs",
    ):
        (tmp_path / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    return tmp_path


@needs("root")
def test_without_apt_it_names_what_to_install(checkout: Path, bare_path: Path) -> None:
    done = _run(checkout / "scripts" / "poc", "run", "x", env={"PATH": str(bare_path)})
    assert (done.stdout, done.returncode, len(done.stderr.splitlines())) == ("", 125, 1)
    assert "gcc" in done.stderr and "apt-get" in done.stderr


def test_the_last_row_of_a_table_counts_too() -> None:
    script = '. "$here/setup.sh"; missing "$1"'
    table = "coreutils coreutils sh\nlacking lacking-in-fedora no-such-program"
    done = _run("sh", "-c", script, "test", table, env={**os.environ, "here": f"{CHECKOUT}/scripts"})
    assert (done.stdout, done.stderr) == ("lacking lacking-in-fedora\n", "")


@needs("root")
def test_a_failing_package_manager_has_the_word(checkout: Path, bare_path: Path) -> None:
    apt = bare_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Could not resolve the archive' >&2\nexit 100\n")
    apt.chmod(0o755)
    done = _run(checkout / "scripts" / "poc", "run", "x", env={"PATH": str(bare_path)})
    lines = done.stderr.splitlines()
    assert (done.stdout, done.returncode) == ("", 125)
    assert lines[0].startswith("poc: installing ") and "E: Could not resolve the archive" in lines
    assert lines[-1].startswith("poc: apt-get could not install ")


@needs("root", "network")
def test_a_fresh_checkout_sets_itself_up(checkout: Path) -> None:
    """Killed half-way, then twice at once, then for every day; what it says on the way is not the command's output."""
    launcher = checkout / "scripts" / "poc"
    killed = subprocess.Popen([launcher, "--version"], stderr=subprocess.DEVNULL, start_new_session=True)
    _wait_for(checkout / ".venv" / "lib")
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (checkout / ".venv" / "ready").exists()

    both = [
        subprocess.Popen([launcher, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [(*process.communicate(timeout=110), process.returncode) for process in both]
    assert [(out, code) for out, _, code in outcomes] == [(VERSION, 0), (VERSION, 0)], outcomes
    assert sum("waiting for another" in err for _, err, _ in outcomes) == 1

    assert _says(_run(launcher, "--version")) == (VERSION, "", 0)
    (checkout / "pyproject.toml").touch()
    again = _run(launcher, "--version")
    assert again.stdout == VERSION and "installing Python packages" in again.stderr


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


@needs("root", "program:shellcheck")
def test_the_checks_count_and_fail(ready: Path) -> None:
    """scripts/test on a small project: every step is counted, and one that fails makes it fail."""
    for name in ("poc", "tests"):
        shutil.rmtree(ready / name)
        (ready / name).mkdir()
    (ready / "examples").mkdir()
    (ready / "scripts" / "vm-test").unlink(missing_ok=True)
    (ready / "scripts" / "bench-start").unlink(missing_ok=True)
    (ready / "poc" / "__init__.py").touch()
    (ready / "examples" / "one.py").touch()
    test = ready / "tests" / "test_one.py"
    lines = ("def test_one() -> None:", "    assert True", "", "", "def test_two() -> None:", "    assert len([]) == 1")
    test.write_text("\n".join(lines) + "\n")

    done = _run(ready / "scripts" / "test", env={**os.environ, "CI": "true"})
    assert (done.stdout.splitlines()[-1], done.returncode) == ("5 passed, 1 failed, 0 skipped (failed: pytest)", 1)
    test.write_text("\n".join(lines[:2]) + "\n")
    done = _run(ready / "scripts" / "test")
    assert (done.stdout.splitlines()[-1], done.returncode) == ("5 passed, 0 failed, 0 skipped", 0), done.stdout
    done = _run(ready / "scripts" / "test", "-k", "nothing", "-q")
    assert (done.stdout.splitlines()[-1].split(" in ")[0], done.returncode) == ("1 deselected", 5)


@needs("root", "network", "program:fish", "program:zsh")
def test_install_upgrade_and_uninstall(checkout: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "usr-local"
    environment = {**os.environ, "PREFIX": str(prefix), "PATH": f"{prefix}/bin:{os.environ['PATH']}"}
    for _ in range(2):
        done = _run(checkout / "scripts" / "install", env=environment)
        assert (done.stdout, done.returncode) == ("", 0), done.stderr
    shutil.rmtree(checkout / "poc")  # the installed one does not live on it
    for command in ("bin/poc", "lib/poc/bin/poc"):  # ours, and the console script that pip makes
        assert _says(_run(prefix / command, "--version", cwd="/")) == (VERSION, "", 0)
    assert (prefix / "lib/poc/bin/poc-runtime").exists() and (prefix / "bin/poc-runtime").exists()

    _check_completion(prefix, environment)

    (checkout / "poc").mkdir()
    done = _run(checkout / "scripts" / "install", "--uninstall", env=environment)
    assert done.returncode == 0, done.stderr
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []


def _check_completion(prefix: Path, environment: dict[str, str]) -> None:
    """Each shell finds the completion where it looks for it, and completes a verb."""
    share = prefix / "share"
    bash = 'source "$1"; COMP_WORDS=(poc ru) COMP_CWORD=1; _poc_completion poc; echo "${COMPREPLY[@]}"'
    done = _run("bash", "-c", bash, "-", share / "bash-completion/completions/poc", env=environment)
    assert done.stdout.split() == ["run"], done.stderr
    places = {"XDG_DATA_DIRS": f"{share}:/usr/share", "HOME": str(prefix)}
    done = _run("fish", "-c", 'complete -C "poc ru"', env={**environment, **places})
    assert done.stdout.startswith("run"), done.stderr
    zsh = 'fpath=("$1" $fpath); autoload -Uz compinit; compinit -u -D; print -r -- $_comps[poc]'
    done = _run("zsh", "-f", "-c", zsh, "-", share / "zsh/site-functions", env=environment)
    assert done.stdout == "_poc\n", done.stderr
    asked = {**environment, "_POC_COMPLETE": "zsh_complete", "COMP_WORDS": "poc ru", "COMP_CWORD": "1"}
    assert "run" in _run(prefix / "bin" / "poc", env=asked).stdout.split()
