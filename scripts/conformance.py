#!/usr/bin/env python3
"""Runs a suite that others wrote with an OCI runtime: docs/conformance.md says where from, and how to build it.

    conformance.py runtime-tools CHECKOUT RUNTIME [PROGRAM…]     each of validation/*/*.t is a test
    conformance.py crun          CHECKOUT RUNTIME [FILE…]        of each test in tests/test_*.py; tests/init is built

Prints a line for each test that did not pass, then the counts. What the tests say is in ./conformance-SUITE-RUNTIME/.
It all happens in a mount namespace of its own; with UNMOUNT=/sys/fs/cgroup/unified there without that mount (crun
takes no host that has cgroups of both versions).
"""

from __future__ import annotations

import glob
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter

PATIENCE = 150  # seconds for a program, or for what is left of a file's tests

# The little that test_mounts.py uses of util-linux's module, of which Debian has no package.
LIBMOUNT = """
class Mount:
    def __init__(self, line):
        before, after = line.split(" - ", 1)
        self.target, self.vfs_options = before.split()[4:6]
        self.fs_options = after.split()[2]

class Table:
    def __init__(self, path):
        self.mounts = [Mount(line) for line in open(path) if " - " in line]

    def find_target(self, target):
        return next((mount for mount in reversed(self.mounts) if mount.target == target), None)
"""

# crun's words for a runtime that has runc's.
ADAPTER = """#!{python}
import os, shutil, sys
given, words = iter(sys.argv[1:]), []
for word in given:
    name, _, value = word.partition("=")
    if name == "--cgroup-manager":
        words += ["--systemd-cgroup"] if (value or next(given)) == "systemd" else []
    elif name == "--config" and {{"run", "create"}} & set(words):
        if os.path.abspath(file := value or next(given)) != os.path.abspath("config.json"):
            shutil.copy(file, "config.json")
    else:
        words.append(word)
os.execv("{runtime}", ["{runtime}", *words])
"""

# crun 1.8 takes no ociVersion but 1.0, and runtime-tools writes that of its own specification.
OLD_VERSION = """#!{python}
import os, re, sys
words = sys.argv[1:]
bundle = words[words.index("--bundle") + 1] if "--bundle" in words else "."
if words[:1] == ["create"] and os.path.exists(config := f"{{bundle}}/config.json"):
    text = re.sub(r'"ociVersion": "[^"]*"', '"ociVersion": "1.0.2"', open(config).read())
    open(config, "w").write(text)
os.execv("{runtime}", ["{runtime}", *words])
"""


def main() -> None:
    suite, checkout, runtime, *only = sys.argv[1:]
    checkout, runtime = os.path.abspath(checkout), os.path.abspath(shutil.which(runtime) or runtime)
    is_crun = os.path.basename(runtime) == "crun"
    output = os.path.abspath(f"conformance-{suite}-{os.path.basename(runtime)}")
    os.makedirs(output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="conformance-") as work:
        with open(f"{work}/libmount.py", "w") as file:
            file.write(LIBMOUNT)
        if suite == "crun":
            command = runtime if is_crun else _script(f"{work}/runtime", ADAPTER, runtime)
            results = _run_files(checkout, command, only, output, work)
        else:
            command = _script(f"{work}/runtime", OLD_VERSION, runtime) if is_crun else runtime
            results = _run_programs(checkout, command, only, output)
    for name, result in results.items():
        if result != "passed":
            print(result, name)
    print(*(f"{count} {result}" for result, count in sorted(Counter(results.values()).items())), sep=", ")


def _script(path: str, text: str, runtime: str) -> str:
    with open(path, "w") as file:
        file.write(text.format(python=sys.executable, runtime=runtime))
    os.chmod(path, 0o755)
    return path


def _run_programs(checkout: str, command: str, only: list[str], output: str) -> dict[str, str]:
    results = {}
    for program in sorted(glob.glob(f"{checkout}/validation/*/*.t")):
        name = os.path.basename(program)[:-2]
        if only and name not in only:
            continue
        code, text = _run([program], checkout, {"RUNTIME": command}, f"{output}/{name}")
        plans = [int(count) for count in re.findall(r"^1\.\.(\d+)", text, re.M)]
        kept = sum(plans) == len(re.findall(r"^ok", text, re.M))
        results[name] = "passed" if code == 0 and kept and not re.search(r"^not ok", text, re.M) else "failed"
    return results


def _run_files(checkout: str, command: str, only: list[str], output: str, work: str) -> dict[str, str]:
    results = {}
    environment = {"OCI_RUNTIME": command, "INIT": f"{checkout}/tests/init", "PYTHONPATH": f"{work}:{checkout}/tests"}
    for path in sorted(glob.glob(f"{checkout}/tests/test_*.py")):
        file = os.path.basename(path)[5:-3]
        if only and file not in only:
            continue
        listing = f"import test_{file} as module; print(*module.all_tests, sep='\\n')"
        _, text = _run([sys.executable, "-c", listing], work, environment, f"{output}/{file}.names")
        left, some = text.split("\n")[:-1], {}  # type: list[str], dict[str, str]
        while left:
            _, text = _run([sys.executable, path], work, {**environment, **some}, f"{output}/{file}.{len(left)}")
            for result, name, skip in re.findall(r"(not ok|ok) \d+ - (.+?)( #SKIP.*?)? # [\d.]+s$", text, re.M):
                results[f"{file}: {name}"] = "skipped" if skip else "passed" if result == "ok" else "failed"
                left.remove(name)
            if left:  # this one did not end, or ended all
                results[f"{file}: {left.pop(0)}"] = "failed"
                some = {"RUN_TESTS": " ".join(left)}
    return results


def _run(words: list[str], directory: str, environment: dict[str, str], output: str) -> tuple[int, str]:
    """On a terminal, as some tests want one. (exit status, what it said)"""
    master, slave = pty.openpty()
    environment = {**os.environ, **environment}
    process = subprocess.Popen(
        words, cwd=directory, env=environment, start_new_session=True, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    said, deadline = b"", time.monotonic() + PATIENCE
    while select.select([master], [], [], 0.2)[0] or process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        if select.select([master], [], [], 0)[0]:
            try:
                said += os.read(master, 1 << 16)
            except OSError:
                break  # nobody has the terminal open any more
    code = process.wait()
    os.close(master)
    text = said.decode(errors="replace").replace("\r\n", "\n")
    with open(output, "w") as file:
        file.write(text)
    return code, text


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("runtime-tools", "crun"):
        sys.exit(__doc__)
    if "CONFORMANCE" not in os.environ:
        os.environ["CONFORMANCE"] = "in its own mount namespace"
        alone = 'if [ -n "$UNMOUNT" ]; then umount "$UNMOUNT" || exit; fi; exec "$@"'
        os.execvp("unshare", ["unshare", "-m", "--propagation", "private", "sh", "-c", alone, "-", *sys.argv])
    main()
