"""A start is quick because little is loaded: what `sys.modules` holds at the moment of the clone, and at the end.

The clock is left to scripts/bench-start: on a busy machine it says nothing about an import.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

from conftest import CHECKOUT, needs

if TYPE_CHECKING:
    from pathlib import Path

    import poc

# Each costs a start between 1 and 200 ms. json and socket bring re, enum and collections; those are paid for.
HEAVY = {
    *("click", "pyroute2", "tabulate", "psutil", "rich", "yaml", "jinja2", "zstandard", "pyseccomp"),
    *("asyncio", "concurrent", "dataclasses", "datetime", "inspect", "logging", "multiprocessing", "pathlib"),
    *("random", "shutil", "site", "ssl", "subprocess", "tarfile", "tempfile", "threading", "typing", "urllib"),
}
# Runs the command line as scripts/start.py does, and notes what is loaded: when clone3 is called, and at the end.
DRIVER = """
import sys
sys.path += sys.argv[1:3]
report, sys.argv[1:4] = sys.argv[3], []

def note():
    with open(report, "a") as file:
        file.write(" ".join(sys.modules) + "\\n")

from poc import _libc
clone3 = _libc.clone3
def noting_clone3(arguments):
    note()
    return clone3(arguments)
_libc.clone3 = noting_clone3

from poc.cli.main import main
code = main()
note()
sys.exit(code)
"""


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = [CHECKOUT, sysconfig.get_path("purelib")]
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", program, *places, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def test_import_poc_loads_next_to_nothing() -> None:
    program = "import sys, json; sys.path += sys.argv[1:]; before = set(sys.modules); import poc; "
    done = _python(program + "print(json.dumps(sorted(set(sys.modules) - before)))")
    assert set(json.loads(done.stdout)) <= {"poc", "__future__"}


@needs("root", "overlay", "program:busybox")
def test_run_has_nothing_heavy_loaded(engine: poc.Engine, engine_root: str, tmp_path: Path) -> None:
    report = tmp_path / "modules"
    checks = ("--health-cmd", "true", "--health-interval", "1m30s")
    command = ("--root", engine_root, "run", "--rm", "--network", "none", *checks, "busybox", "echo", "hi")
    _python(DRIVER, str(report), *command)  # the first run compiles what later ones find in caches
    report.unlink()
    assert _python(DRIVER, str(report), *command).stdout == "hi\n"

    at_clone, at_the_end = ({name.split(".")[0] for name in line.split()} for line in report.read_text().splitlines())
    assert "poc" in at_clone and "ctypes" in at_clone
    assert at_clone & HEAVY == set()
    assert at_the_end & HEAVY == set()
