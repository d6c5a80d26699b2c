"""The pure plans of a container: its OCI configuration, its mounts, overlay options. No root needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poc import _libc, rootfs
from poc.errors import InvalidArgument
from poc.oci import defaults, generate

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from poc.oci.types import Mount, Spec

DOCKER_CAPABILITIES = {
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
    "CAP_AUDIT_WRITE",
}


def spec(mounts: tuple[Mount, ...] = (), **options: Any) -> Spec:
    process = generate.process(["sh"], ["A=1"])
    return generate.spec(process, "rootfs", "host", "poc/id", {"pids": {"limit": 5}}, mounts, **options)


def test_what_a_container_gets_that_asks_for_nothing() -> None:
    made = spec()
    assert json.loads(json.dumps(made)) == made
    assert {ns["type"] for ns in made["linux"]["namespaces"]} == {"pid", "ipc", "mount", "network", "uts", "cgroup"}
    held = made["process"]["capabilities"]
    assert set(held) == {"bounding", "effective", "permitted"}, "neither inheritable nor ambient (CVE-2022-29162)"
    assert all(set(names) == DOCKER_CAPABILITIES for names in held.values())
    assert made["root"] == {"path": "rootfs", "readonly": False}
    linux = made["linux"]
    assert linux["resources"]["pids"] == {"limit": 5} and linux["resources"]["devices"][0] == {
        "allow": False,
        "access": "rwm",
    }
    assert {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"} <= set(linux["readonlyPaths"])
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    by_target = {mount["destination"]: mount for mount in made["mounts"]}
    assert set(by_target) == {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"}
    assert "ro" in by_target["/sys"]["options"] and "ro" in by_target["/sys/fs/cgroup"]["options"]
    assert "size=67108864" in by_target["/dev/shm"]["options"]


def test_privileged() -> None:
    made = spec(privileged=True, shared=("network",), readonly=True)
    linux = made["linux"]
    assert not {"maskedPaths", "readonlyPaths", "seccomp"} & set(linux)
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert not any("ro" in mount["options"] for mount in made["mounts"])
    assert "network" not in {ns["type"] for ns in linux["namespaces"]}
    assert made["root"]["readonly"]


def test_mounts_of_the_user_come_last_shallow_ones_first() -> None:
    def bind(target: str) -> Mount:
        return {"destination": target, "type": "bind", "source": "/src", "options": ["rbind"]}

    targets = [
        mount["destination"] for mount in spec((bind("/a/b/c"), bind("/sys"), bind("/a"), bind("/a/b")))["mounts"]
    ]
    assert targets[-4:] == ["/sys", "/a", "/a/b", "/a/b/c"]
    assert targets.count("/sys") == 1
    targets = [mount["destination"] for mount in spec((bind("/dev"),))["mounts"]]
    assert [target for target in targets if target.startswith("/dev")] == ["/dev"], "it brings what is below it"
    targets = [mount["destination"] for mount in spec((bind("/device"), bind("/dev/shm")))["mounts"]]
    assert {"/dev", "/dev/pts", "/dev/shm", "/device"} <= set(targets)


def test_the_plan_follows_the_configuration() -> None:
    def names(steps: list[rootfs.Step]) -> list[tuple[str, str]]:
        return [(type(step).__name__, getattr(step, "target", getattr(step, "path", ""))) for step in steps]

    steps = names(rootfs.plan(spec(), [("unified", "", "/sys/fs/cgroup/poc/id")]))
    assert steps[0] == ("Mount", "/proc") and steps[1] == ("Mount", "/dev") and steps[-1] == ("DefaultDevices", "")
    assert ("Mount", "/sys/fs/cgroup") in steps
    hybrid = [("cpu,cpuacct", "cpu,cpuacct", "/c"), ("systemd", "none,name=systemd", "/s"), ("unified", "", "/u")]
    steps = names(rootfs.plan(spec(), hybrid))
    for expected in (
        ("Mount", "/sys/fs/cgroup"),
        ("Directories", "/sys/fs/cgroup"),
        ("Mount", "/sys/fs/cgroup/cpu,cpuacct"),
        ("Link", "/sys/fs/cgroup/cpu"),
        ("Link", "/sys/fs/cgroup/cpuacct"),
        ("Mount", "/sys/fs/cgroup/systemd"),
        ("Mount", "/sys/fs/cgroup/unified"),
        ("Remount", "/sys/fs/cgroup"),
    ):
        assert expected in steps
    protection = names(rootfs.plan_protection(spec(readonly=True)))
    assert protection[-1] == ("Remount", "/")
    assert {path for kind, path in protection if kind == "Mask"} == set(defaults.MASKED_PATHS)
    assert {path for kind, path in protection if kind == "Readonly"} == set(defaults.READONLY_PATHS)
    assert rootfs.plan_protection(spec(privileged=True)) == []


def test_nothing_is_made_in_a_dev_that_is_the_hosts() -> None:
    mount: Mount = {"destination": "/dev/.", "type": "bind", "source": "/dev", "options": ["rbind"]}
    made = spec((mount,), privileged=True)
    made["linux"]["devices"] = [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]
    assert all(isinstance(step, rootfs.Mount) for step in rootfs.plan(made))
    mount["type"], mount["options"] = "tmpfs", []
    assert any(isinstance(step, rootfs.DefaultDevices) for step in rootfs.plan(spec((mount,))))


def test_mount_options() -> None:
    mount = rootfs.Mount("/a", "tmpfs", "tmpfs", ["noexec", "nosuid", "exec", "size=1m", "mode=755", "rslave", "ro"])
    assert mount.flags == _libc.MS_NOSUID | _libc.MS_RDONLY
    assert mount.data == "size=1m,mode=755"
    assert mount.propagation == (_libc.MS_SLAVE | _libc.MS_REC,)
    bind = rootfs.Mount("/a", "bind", "/b", ["rbind", "ro", "suid", "noatime"])
    assert bind.flags & _libc.MS_BIND and bind.flags & _libc.MS_REC
    assert bind.attributes() == (1 | 0x10, 2 | 0x70), "the atime modes are one field, not bits"
    assert rootfs.Mount("/a", "bind", "/b", ["bind"]).attributes() is None


def unescape(text: str) -> tuple[str, list[str]]:
    """What overlayfs makes of an escaped list of paths (fs/overlayfs/params.c): (end of the option, paths)."""
    paths, path, characters = [], "", iter(text)
    for character in characters:
        if character == "\\":
            path += next(characters)
        elif character == ":":
            paths.append(path)
            path = ""
        elif character == ",":
            break
        else:
            path += character
    return "".join(characters), [*paths, path]


@given(st.lists(st.text(alphabet="/ab:,\\ \"'\n=é", min_size=1), min_size=1, max_size=4))
def test_overlay_options_survive_any_path(paths: list[str]) -> None:
    options = rootfs.Overlay(paths, "/u,p:\\", "/work").options()
    assert options.startswith("lowerdir=") and options.endswith(",workdir=/work")
    rest, found = unescape(options.removeprefix("lowerdir="))
    assert found == paths
    assert rest.startswith("upperdir=/u\\,p:\\\\")


def test_propagation_names() -> None:
    assert rootfs.parse_propagation("rslave") == _libc.MS_SLAVE | _libc.MS_REC
    with pytest.raises(InvalidArgument, match="rootfsPropagation 'x'"):
        rootfs.parse_propagation("x")


def test_a_path_is_opened_while_others_rename(tmp_path: Path) -> None:
    """openat2(2) gives up with EAGAIN when anything is renamed or mounted while it goes through a ``..``."""
    (tmp_path / "a").mkdir()
    renaming = "import os\nos.mkdir('x')\nwhile True: os.rename('x', 'y'); os.rename('y', 'x')"
    root = os.open(tmp_path, os.O_PATH)
    others = subprocess.Popen([sys.executable, "-c", renaming], cwd=tmp_path)
    try:
        while not {"x", "y"} & set(os.listdir(tmp_path)):
            assert others.poll() is None
        for _ in range(2000):
            os.close(rootfs.open_in_root(root, "a/../" * 30))
    finally:
        others.kill()
        others.wait()
        os.close(root)
