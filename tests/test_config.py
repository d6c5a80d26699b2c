"""What a user may ask for, and in which words the rest is refused: `poc.engine.config` and `users`. No root needed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from poc.engine.config import ContainerConfig
from poc.engine.users import read_layered, resolve
from poc.engine.values import parse_environment, parse_signal, parse_size
from poc.errors import InvalidArgument, Unsupported
from poc.oci.defaults import ALL_CAPABILITIES, CAPABILITIES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment:x:7:7::/:
user:x:1000:1001:a user\x0c\x85:/home/user:/bin/sh
1000:x:5000:5000:a user called 1000:/home/1000:
nohome:x:1002:1002:::
short:x:3:3
minus:x:-1:0::/:
superscript:x:\xc2\xb2:\xc2\xb2::/:
huge:x:99999999999999999999:0::/:
\xff:x:1003:1003::/bytes:
toolarge:x:4294967295:0::/:
"""
GROUP = b"root:x:0:\nwheel:x:10:root,user\nuser:x:1001:user\nstaff:x:50:nohome,user\nbad:x:x:user\n\xff:x:60:\n"


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (10,), "/root"),
        ("root", 0, 0, (10,), "/root"),
        ("0", 0, 0, (10,), "/root"),
        ("user", 1000, 1001, (10, 50), "/home/user"),
        ("user:", 1000, 1001, (10, 50), "/home/user"),
        ("user:staff", 1000, 50, (), "/home/user"),
        ("user:77", 1000, 77, (), "/home/user"),
        ("1000", 5000, 5000, (), "/home/1000"),
        ("1002", 1002, 1002, (50,), "/"),
        ("4242", 4242, 0, (), "/"),
        ("4242:4343", 4242, 4343, (), "/"),
        (":staff", 0, 50, (), "/root"),
        ("\udcff", 1003, 1003, (), "/bytes"),
        ("\udcff:\udcff", 1003, 60, (), "/bytes"),
        ("4294967294", 4294967294, 0, (), "/"),
    ],
)
def test_users(text: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    user = resolve(text, PASSWD, GROUP)
    assert (user.uid, user.gid, user.groups, user.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nosuch", "unable to find user nosuch"),
        ("user:nosuch", "unable to find group nosuch"),
        ("short", "unable to find user short"),
        ("minus", "unable to find user minus"),
        ("-1", "unable to find user -1"),
        ("superscript", "unable to find user superscript"),
        ("²", "unable to find user ²"),
        ("# a comment:x", "unable to find group x"),
        ("huge", "larger than 4294967294"),
        ("toolarge", "larger than 4294967294"),
        ("9" * 5000, "larger than 4294967294"),
        ("0:4294967295", "larger than 4294967294"),
    ],
)
def test_users_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        resolve(text, PASSWD, GROUP)


def test_users_of_an_image_without_any() -> None:
    assert (resolve("", b"", b"").uid, resolve("5", b"", b"").home) == (0, "/")
    with pytest.raises(InvalidArgument, match="unable to find user root"):
        resolve("root", b"", b"")


def test_a_small_file_is_read_from_the_topmost_layer_and_from_nowhere_else(tmp_path: Path) -> None:
    top, bottom = tmp_path / "top", tmp_path / "bottom"
    for layer in (top, bottom):
        (layer / "etc").mkdir(parents=True)
    layers = [str(tmp_path / "missing"), str(top), str(bottom)]
    passwd = top / "etc/passwd"
    (tmp_path / "secret").write_text("the host's")

    assert read_layered(layers, "etc/passwd") == b""
    (bottom / "etc/passwd").write_text("bottom")
    assert read_layered(layers, "etc/passwd") == b"bottom"
    passwd.write_text("top")
    assert read_layered(layers, "etc/passwd") == b"top"

    for link in ("../../secret", str(tmp_path / "secret"), "/secret", "../../../../../../../../etc/passwd"):
        passwd.unlink()
        passwd.symlink_to(link)
        assert b"the host's" not in read_layered(layers, "etc/passwd")
        assert b"root" not in read_layered(layers, "etc/passwd")
    passwd.unlink()
    passwd.symlink_to("passwd")
    assert read_layered(layers, "etc/passwd") == b"", "a link to itself"
    passwd.unlink()
    os.mkfifo(passwd)
    assert read_layered(layers, "etc/passwd") == b"", "and nobody waits for a writer"
    passwd.unlink()
    passwd.write_text("x")
    os.truncate(passwd, 1 << 30)
    assert read_layered(layers, "etc/passwd") == b""


def test_sizes() -> None:
    sizes = {
        "1": 1,
        "512b": 512,
        "2k": 2048,
        "2K": 2048,
        "1.5m": 3 << 19,
        "64MB": 64 << 20,
        "1gib": 1 << 30,
        " 3t ": 3 << 40,
    }
    assert {text: parse_size(text) for text in sizes} == sizes
    assert parse_size(7) == 7
    for text in ("", "m", "1x", "-1", "1 2", "1..5", "0x10", "²", "inf"):
        with pytest.raises(InvalidArgument, match="is not a size"):
            parse_size(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "a=b")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert parse_environment(["A=1", "B=", "C=x=y\n", "HERE", "NOWHERE"]) == ["A=1", "B=", "C=x=y\n", "HERE=a=b"]
    assert parse_environment({"A": "1", "N": 2}) == ["A=1", "N=2"]
    for entry in ("", "=x", "A=\0"):
        with pytest.raises(InvalidArgument, match="invalid environment variable"):
            parse_environment([entry])


def test_signals() -> None:
    assert {parse_signal(value) for value in ("15", 15, "TERM", "term", "SIGTERM")} == {15}
    for value in ("", "0", "65", "-1", "SIGNOSUCH", "SIG", "default_int_handler", "SIG_DFL", "²", "9" * 5000):
        with pytest.raises(InvalidArgument, match="invalid signal"):
            parse_signal(value)


def test_capabilities() -> None:
    def of(**options: Any) -> set[str]:
        return set(ContainerConfig(**options).capabilities())

    default, everything = set(CAPABILITIES), set(ALL_CAPABILITIES)
    assert len(CAPABILITIES) == 14 and of() == default
    assert of(cap_add=["net_admin", "CAP_SYS_TIME"]) == default | {"CAP_NET_ADMIN", "CAP_SYS_TIME"}
    assert of(cap_drop=["CHOWN"]) == default - {"CAP_CHOWN"}
    assert of(cap_drop=["ALL"]) == set()
    assert of(cap_drop=["all"], cap_add=["CHOWN"]) == {"CAP_CHOWN"}
    assert of(cap_add=["ALL"]) == everything
    assert of(cap_add=["ALL"], cap_drop=["SYS_ADMIN"]) == everything - {"CAP_SYS_ADMIN"}
    assert of(privileged=True) == everything
    assert of(privileged=True, cap_drop=["CHOWN"]) == everything - {"CAP_CHOWN"}
    assert of(privileged=True, cap_drop=["ALL"], cap_add=["CHOWN"]) == {"CAP_CHOWN"}
    with pytest.raises(InvalidArgument, match="unknown capability: 'FLY'"):
        of(cap_add=["FLY"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"volumes": [""]}, "invalid volume specification"),
        ({"volumes": [":"]}, "invalid volume specification"),
        ({"volumes": ["/tmp:"]}, "invalid volume specification"),
        ({"volumes": [":/tmp"]}, "invalid volume specification"),
        ({"volumes": ["/tmp:/a:ro:x"]}, "invalid volume specification"),
        ({"volumes": ["/tmp:/a:wo"]}, "invalid mode: 'wo'"),
        ({"volumes": ["/tmp:relative"]}, "must be an absolute path other than /"),
        ({"volumes": ["/tmp:/"]}, "must be an absolute path other than /"),
        ({"volumes": ["/tmp://"]}, "must be an absolute path other than /"),
        ({"volumes": ["/tmp:/a/../.."]}, "must be an absolute path other than /"),
        ({"volumes": ["/tmp:/a\0b"]}, "must be an absolute path other than /"),
        ({"volumes": ["/tmp\0:/a"]}, "a path has no NUL character"),
        ({"volumes": ["/tmp:/a", "/tmp:/b/../a"]}, "duplicate mount point: /a"),
        ({"volumes": ["/tmp:/a"], "tmpfs": ["/a"]}, "duplicate mount point: /a"),
        ({"tmpfs": ["relative"]}, "must be an absolute path other than /"),
        ({"tmpfs": {"//": ""}}, "must be an absolute path other than /"),
        ({"name": "a"}, "invalid container name 'a'"),
        ({"name": "-a"}, "invalid container name"),
        ({"name": "a/b"}, "invalid container name"),
        ({"name": "../../etc/passwd"}, "invalid container name"),
        ({"name": "a\nb"}, "invalid container name"),
        ({"name": "ab\n"}, "invalid container name"),
        ({"name": "a" * 100_000}, "invalid container name"),
        ({"hostname": "a\nb"}, "invalid hostname"),
        ({"hostname": "a" * 64}, "invalid hostname"),
        ({"hostname": "\udcff"}, "invalid hostname"),
        ({"hostname": ""}, "invalid hostname"),
        ({"working_dir": "relative"}, "it must be an absolute path"),
        ({"working_dir": "/a\0b"}, "it must be an absolute path"),
        ({"command": ["a\0b"]}, "without NUL characters"),
        ({"command": ["sleep", 5]}, "not 5"),
        ({"entrypoint": ["\0"]}, "without NUL characters"),
        ({"network": "nosuch"}, "no such network: nosuch"),
        ({"stop_signal": "FOO"}, "invalid signal: FOO"),
        ({"stop_timeout": "soon"}, "--stop-timeout: 'soon' is not a whole number"),
        ({"storage_opt": {"colour": "red"}}, "unknown option 'colour'"),
        ({"storage_opt": ["size=1k"]}, "size must be 8m or more"),
        ({"storage_opt": ["size=much"]}, "is not a size"),
        ({"cpus": "0"}, "--cpus: 0 is out of range"),
        ({"cpus": -1}, "--cpus: -1 is out of range"),
        ({"cpus": "4096"}, "--cpus: 4096 is out of range"),
        ({"cpus": "nan"}, "--cpus: nan is out of range"),
        ({"cpus": "many"}, "--cpus: 'many' is not a number"),
        ({"cpus": 1, "cpu_quota": 50_000}, "exclude each other"),
        ({"mem_limit": "1k"}, "the minimum is 6m"),
        ({"mem_limit": "16m", "memswap_limit": "8m"}, "must not be smaller"),
        ({"memswap_limit": "8m"}, "needs --memory"),
        ({"mem_limit": "16m", "mem_reservation": "32m"}, "must not be larger"),
        ({"oom_kill_disable": True}, "needs --memory"),
        ({"pids_limit": "-2"}, "--pids-limit: -2 is out of range"),
        ({"device_read_bps": ["sda:1m"]}, "is not /dev/DEVICE:RATE"),
        ({"device_write_iops": ["/dev/sda:0"]}, "--device-write-iops: 0 is out of range"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((InvalidArgument, Unsupported)) as refused:
        ContainerConfig(**options)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 300


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        ContainerConfig(colour="red")


def test_a_config_survives_its_file() -> None:
    options: dict[str, Any] = {
        **{"image": "i", "command": "echo 'a b' \udcff", "environment": {"A": "\udcff\n"}, "labels": ["k=v", "bare"]},
        **{"tmpfs": ["/run:size=1m", "/tmp"], "cpus": "0.5", "mem_limit": "64m", "entrypoint": "/bin/sh", "tty": True},
    }
    config = ContainerConfig(**options)
    assert ContainerConfig.loaded(json.loads(json.dumps(config.values))).values == config.values
    assert config.command == ["echo", "a b", "\udcff"]
    assert (config.labels, config.tmpfs) == ({"k": "v", "bare": ""}, {"/run": "size=1m", "/tmp": ""})
    assert config.entrypoint == ["/bin/sh"]


def test_resources() -> None:
    half = ContainerConfig(cpus=0.5, mem_limit="64m", pids_limit=0)
    assert half.resources() == {
        "cpu": {"period": 100_000, "quota": 50_000},
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
    }
    assert ContainerConfig().resources() == {}
