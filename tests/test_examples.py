"""The programs in examples/, run as a reader would run them, on the busybox image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

import poc

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = needs("root")


def run(engine: poc.Engine, name: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "busybox"],
        env={**os.environ, "POC_ROOT": engine.paths.data, "PYTHONPATH": str(EXAMPLES.parent)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_limits_measures_what_was_asked_for(engine: poc.Engine) -> None:
    found = [
        (float(asked), float(got)) for asked, got in re.findall(r"for (\S+) CPUs, got (\S+)", run(engine, "limits.py"))
    ]
    assert [asked for asked, _ in found] == [0.1, 0.25, 0.5]
    assert all(0 < got < asked * 1.3 for asked, got in found)


def test_parallel_adds_up(engine: poc.Engine) -> None:
    assert run(engine, "parallel.py") == "551 primes below 4002\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("id -u; touch /x 2>/dev/null || exit 3", "65534\n— exit status 3\n"),
        ("while :; do :; done", "— exit status 137\n"),
        ("tail /dev/zero; echo $?", "out of memory"),
        ("ping -c 1 -W 1 10.209.0.1 2>/dev/null || echo no network", "no network"),
    ],
)
def test_sandbox_holds(engine: poc.Engine, code: str, said: str) -> None:
    assert said in run(engine, "sandbox.py", code)
