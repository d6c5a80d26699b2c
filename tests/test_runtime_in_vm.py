"""`poc-runtime` with what the kernels of scripts/vm-test have and a build machine may not: pure cgroup v2, AppArmor."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs
from test_runtime_cli import Bundle, Runtime
from test_runtime_cli import bundle as bundle
from test_runtime_cli import output as output
from test_runtime_cli import runtime as runtime
from test_runtime_process import groups_of, sleeping, start_exec, write_file

from poc import _fs, _libc
from poc.cgroups import Cgroup, host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(90)]


@pytest.mark.skipif(host().mode != "v2", reason="needs pure cgroup v2; of the others there is a test beside runc")
def test_exec_in_a_group_below(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path) -> None:
    sleeping(runtime, bundle, "grouped", output)
    path = bundle.config["linux"]["cgroupsPath"]
    os.mkdir(f"{host().unified}{path}/part")
    assert groups_of(start_exec(runtime, tmp_path, "grouped", words=("--cgroup", "part"))) == {"": f"{path}/part"}
    for wish in ("nowhere", "../.."):
        done = runtime("exec", "--cgroup", wish, "grouped", "true")
        assert (done.exit_code, done.stderr.count("\n")) == (255, 1), done


@needs("cgroup2")
def test_exec_beside_a_first_process_that_moved_on(
    runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path
) -> None:
    """Below its own group, which then gives controllers away and takes no process, or out of it: exec follows."""
    unified, path = host().unified, bundle.config["linux"]["cgroupsPath"]
    pid = sleeping(runtime, bundle, "moved-on", output)
    own, inner, away = f"{unified}{path}", f"{unified}{path}/init", f"{unified}/poc-test-away-{os.getpid()}"
    with open(f"{own}/cgroup.controllers") as file:
        controllers = file.read().split()
    os.mkdir(inner)
    os.mkdir(away)
    try:
        if controllers:
            write_file(f"{inner}/cgroup.procs", str(pid))
            write_file(f"{own}/cgroup.subtree_control", f"+{controllers[0]}")
            other = start_exec(runtime, tmp_path, "moved-on")
            assert groups_of(other)[""] == f"{path}/init"
            _end(other)
        write_file(f"{away}/cgroup.procs", str(pid))  # and now there is not even the group any more
        os.rmdir(inner)
        os.rmdir(own)
        other = start_exec(runtime, tmp_path, "moved-on")
        assert groups_of(other)[""] == f"/poc-test-away-{os.getpid()}"
        _end(other)
    finally:
        runtime("delete", "--force", "moved-on")
        os.rmdir(away)


def _end(pid: int) -> None:
    fd = os.pidfd_open(pid)
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    select.select([fd], [], [], 20)
    os.close(fd)


@needs("cgroup2:memory")
def test_a_limit_below_what_is_in_use(runtime: Runtime, bundle: Bundle, output: Any) -> None:
    """v2 would kill; checkBeforeUpdate refuses."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 1 << 27}}
    bundle.write("dd if=/dev/zero of=/dev/shm/fill bs=1M count=32 && sleep 60")
    bundle.config["mounts"].append({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"})
    bundle.write()
    runtime("run", "--detach", "--bundle", bundle.directory, "full", output=output.fd)
    group = Cgroup(bundle.config["linux"]["cgroupsPath"])
    deadline = time.monotonic() + 20
    while group.stats()["memory"]["usage"] < 32 << 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    wish = json.dumps({"memory": {"limit": 16 << 20, "checkBeforeUpdate": True}})
    done = runtime("update", "--resources", "-", "full", input=wish)
    assert done.exit_code == 1 and "memory.limit: 16777216 is no more than the group uses now" in done.stderr
    assert group.stats()["memory"]["limit"] == 1 << 27
    wish = json.dumps({"memory": {"limit": 1 << 26, "checkBeforeUpdate": True}})
    assert runtime("update", "--resources", "-", "full", input=wish).exit_code == 0
    assert group.stats()["memory"]["limit"] == 1 << 26


# ── AppArmor ──


SECURITY = "/sys/kernel/security"


@pytest.fixture
def confinement() -> Iterator[str]:
    """A profile that nobody else has: the unconfined one of an AppArmor namespace made for it."""
    if not os.path.exists("/sys/module/apparmor/parameters/enabled"):
        pytest.skip("needs AppArmor, which scripts/vm-test has")
    mounted = os.path.ismount(SECURITY)
    if not mounted:
        _libc.mount("securityfs", SECURITY, "securityfs")
    space = f"{SECURITY}/apparmor/policy/namespaces/poc-test-{os.getpid()}"
    try:
        os.mkdir(space)
        try:
            yield f":{os.path.basename(space)}:unconfined"
        finally:
            os.rmdir(space)
    finally:
        if not mounted:
            _libc.umount(SECURITY)


def test_apparmor(runtime: Runtime, bundle: Bundle, output: Any, tmp_path: Path, confinement: str) -> None:
    """The profile holds for the program, of run and of exec; the container's /proc need not be one."""
    bundle.config["process"]["apparmorProfile"] = confinement
    bundle.config["mounts"][0].update(type="tmpfs", source="tmpfs")
    pid = sleeping(runtime, bundle, "confined", output)
    assert _profile(pid) == confinement
    assert _profile(start_exec(runtime, tmp_path, "confined")) == confinement
    assert _profile(start_exec(runtime, tmp_path, "confined", apparmorProfile="unconfined")) == "unconfined"
    done = runtime("exec", "--apparmor", "poc-no-such-profile", "confined", "true")
    assert (done.exit_code, done.stderr.count("\n")) == (255, 1)
    assert done.stderr.startswith("poc-runtime: /process/apparmorProfile: "), done


def _profile(pid: int) -> str:
    with open(f"/proc/{pid}/attr/current") as file:
        return file.read().strip("\n\0").removesuffix(" (unconfined)")


def test_a_process_that_was_reaped_is_none_to_open() -> None:
    """Linux 6.1 says EINVAL as long as somebody holds a descriptor of it, later ones ESRCH."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    held = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        with pytest.raises(ProcessLookupError):
            _fs.pidfd_open(pid)
    finally:
        os.close(held)
