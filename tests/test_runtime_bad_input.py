"""`poc-runtime` on a config.json that is none, or makes no sense: one line with the JSON pointer, and nothing left.

`test_runtime_cli` has one bad value for each property, `test_runtime_mutants` what nobody would think of.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs
from oci_examples import EXAMPLES, merge
from test_runtime_cli import Bundle, Runtime, bundle, runtime  # noqa: F401

from poc._fs import write_text
from poc.errors import PocError
from poc.oci import validate
from poc.runtime.seccomp import filter_flags
from poc.runtime.seccomp_compiler import compile_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_sandbox import Sandbox

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(120)]

WRONG: tuple[Any, ...] = (7, 1.5, True, "x", [], {}, [7], {"x": 7})


def _check(config: Any) -> None:
    validate.check(config)
    if profile := config["linux"].get("seccomp"):
        compile_profile(profile)
        filter_flags(profile)


def _places(value: Any, pointer: str = "") -> Iterator[tuple[Any, Any, str]]:
    """(object or array, key or position, JSON pointer) of everything in a configuration."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        here = f"{pointer}/{validate.escape(str(key))}"
        yield value, key, here
        if isinstance(item, (dict, list)):
            yield from _places(item, here)


def test_every_wrong_type_is_named() -> None:
    tried = set()
    for addition in EXAMPLES:
        config = json.loads(json.dumps(merge(addition)))  # no object in two places
        try:
            _check(copy.deepcopy(config))
        except PocError:
            continue  # refused as it is
        for holder, key, pointer in _places(config):
            right = holder[key]
            if pointer in tried or pointer == "/process/user/username":
                continue
            tried.add(pointer)
            for wrong in WRONG:
                if type(wrong) is type(right):
                    continue
                holder[key] = wrong
                with pytest.raises(PocError) as caught:
                    _check(copy.deepcopy(config))
                assert str(caught.value).startswith(f"{pointer}: "), (pointer, wrong)
            holder[key] = right
    assert len(tried) > 150


def _mapped(uid: Any, gid: Any = None, **process: Any) -> Any:
    namespaces = [{"type": "user"}]
    linux = {"namespaces": namespaces, "uidMappings": _ids(uid), "gidMappings": _ids(gid or [(0, 100000, 1000)])}
    return {"linux": linux, "process": process}


def _ids(ranges: Any) -> list[dict[str, int]]:
    return [dict(zip(("containerID", "hostID", "size"), entry, strict=True)) for entry in ranges]


def _memory(**values: int) -> Any:
    return {"linux": {"resources": {"memory": values}}}


_PLAIN = [(0, 100000, 1000)]
CONTRADICTIONS = (
    (
        _mapped([(0, 100000, 10), (5, 200000, 10)]),
        "/linux/uidMappings/1/containerID: 5 is mapped by /linux/uidMappings/0",
    ),
    (_mapped([(0, 100000, 10), (10, 100009, 1)]), "/linux/uidMappings/1/hostID: 100009 is mapped by"),
    (_mapped(_PLAIN, [(0, 5, 0)]), "/linux/gidMappings/0/size: 0 maps nobody"),
    (_mapped([(0, 4294967294, 2)]), "/linux/uidMappings/0/size: hostID would go beyond"),
    (_mapped([(1, 100000, 10)]), "/linux/uidMappings: nobody is root"),
    (_mapped(_PLAIN, user={"uid": 1000}), "/process/user/uid: 1000 is not mapped by /linux/uidMappings"),
    (_mapped(_PLAIN, user={"gid": 1000}), "/process/user/gid: 1000 is not mapped by /linux/gidMappings"),
    (_mapped(_PLAIN, user={"additionalGids": [1, 2000]}), "/process/user/additionalGids/1: 2000 is not mapped by"),
    ({"linux": {"namespaces": [{"type": "user"}], "uidMappings": _ids(_PLAIN)}}, "/linux/gidMappings: missing"),
    ({"linux": {"uidMappings": _ids(_PLAIN)}}, "/linux/uidMappings: there is no user namespace"),
    ({"linux": {"namespaces": [{"type": "pid"}]}}, "/linux/namespaces/6/type: pid comes twice"),
    ({"linux": {"namespaces": [{"type": "space"}]}}, "/linux/namespaces/6/type: 'space' is none of user, cgroup"),
    ({"linux": {"namespaces": [{"type": "time", "path": "/nowhere"}]}}, "/linux/namespaces/6/path: /nowhere: No such"),
    ({"hostname": "x" * 65}, "/hostname: longer than the 64 bytes"),
    (_memory(limit=1 << 28, swap=1 << 27), "/linux/resources: memory.swap: 134217728 is less than memory.limit"),
    (_memory(kernel=1 << 28), "/linux/resources: memory.kernel: Linux no longer"),
    ({"linux": {"resources": {"cpu": {"cpus": "9-1"}}}}, "/linux/resources: cpuset: the range 9-1"),
    ({"linux": {"resources": {"unified": {"cgroup.freeze": "1"}}}}, "/linux/resources: unified: cgroup.freeze is no"),
    (
        {"linux": {"resources": {"devices": [{"allow": True, "access": "x"}]}}},
        "/linux/resources: devices: 'x' is no access",
    ),
    (
        {"mounts": [{"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["bind", "subvol=1"]}]},
        "/mounts: mount /mnt: subvol=1 means nothing for a bind mount",
    ),
    (
        {"mounts": [{"destination": "/mnt", "type": "proc", "options": ["tmpcopyup"]}]},
        "/mounts: mount /mnt: tmpcopyup is for tmpfs",
    ),
)


def test_contradictions(sandbox: Sandbox) -> None:
    for addition, text in CONTRADICTIONS:
        config = json.dumps(merge(addition)).encode()
        done = sandbox.run(config)
        assert (done.status, done.left) == (1, []), done
        assert done.stderr.startswith(f"poc-runtime: {text}") and done.stderr.count("\n") == 1, done.stderr
        said = sandbox.run(config, "--log-format", "json", "create", "--bundle", sandbox.bundle, "id")
        assert (said.status, said.left) == (1, [])
        assert f"poc-runtime: {json.loads(said.stderr)['msg']}\n" == done.stderr


def test_a_joined_user_namespace_with_mappings(runtime: Runtime, bundle: Bundle) -> None:  # noqa: F811
    """Engines repeat those of the namespace. When they are others, who is who could not be told."""
    inside = subprocess.Popen(["unshare", "--user", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{inside.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pass
        for file in ("uid_map", "gid_map"):
            write_text(f"/proc/{inside.pid}/{file}", "0 100000 1000")
        bundle.config["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{inside.pid}/ns/user"})
        for hosts, status in ((100000, 0), (200000, 1)):
            mapping = _ids([(0, hosts, 1000)])
            bundle.config["linux"].update(uidMappings=mapping, gidMappings=mapping)
            done = runtime("run", "--bundle", bundle.write("true"), "joined")
            assert done.exit_code == status, done
            assert ("/linux/uidMappings: not those of the user namespace that is joined" in done.stderr) == bool(status)
    finally:
        inside.kill()
        inside.wait()


def test_update(runtime: Runtime, bundle: Bundle) -> None:  # noqa: F811
    assert runtime("create", "--bundle", bundle.write("true"), "one", output=2).exit_code == 0
    for wish, text in (
        ({"pids": {"limit": "x"}}, "/linux/resources/pids/limit: 'x' is no integer"),
        ({"memory": {"kernel": 1 << 28}}, "/linux/resources: memory.kernel: Linux no longer"),
        ([], "/linux/resources: [] is not an object"),
    ):
        done = runtime("update", "--resources", "-", "one", input=json.dumps(wish))
        assert done.exit_code == 1 and done.stderr.startswith(f"poc-runtime: {text}"), done


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_no_file(runtime: Runtime, bundle: Bundle, form: str) -> None:  # noqa: F811
    path = f"{bundle.directory}/config.json"
    os.unlink(path)
    for command, reason in (
        ("true", "No such file or directory"),
        ("mkdir", "is no regular file"),
        ("rmdir", "No such file or directory"),
        ("mkfifo", "is no regular file"),
        ("ln -sf /dev/zero", "is no regular file"),
        ("ln -sf config.json", "Too many levels of symbolic links"),
    ):
        subprocess.run([*command.split(), path], check=True)
        done = runtime("--log-format", form, "run", "--bundle", bundle.directory, "bad")
        text = done.stderr.removeprefix("poc-runtime: ") if form == "text" else json.loads(done.stderr)["msg"]
        assert done.exit_code == 1 and done.stderr.count("\n") == 1
        assert text.startswith(path) and reason in text, text
        assert not os.path.exists(runtime.root)
    nowhere = runtime("run", "--bundle", f"{bundle.directory}/nowhere", "bad")
    assert nowhere.stderr == f"poc-runtime: {bundle.directory}/nowhere/config.json: No such file or directory\n"


MEGABYTES = 10 << 20


def test_ten_megabytes(sandbox: Sandbox) -> None:
    """Whatever it is that is long: the line that says so is not."""
    long = "x" * MEGABYTES
    for addition, text in (
        ({"process": {"args": [long]}}, "executable file not found in $PATH"),
        ({"process": {"args": ["true", long]}}, "Argument list too long"),
        ({"process": {"env": [f"A={long}"]}}, "Argument list too long"),
        ({"process": {"cwd": f"/{long}"}}, "File name too long"),
        ({"process": {long: 1}}, ""),
        ({"annotations": {"long": long}}, ""),
        ({"hostname": long}, "/hostname: longer than"),
        ({"root": {"path": long}}, "is no directory"),
        ({"mounts": [{"destination": long}]}, "File name too long"),
        ({"linux": {"cgroupsPath": long}}, "File name too long"),
        ({"linux": {"namespaces": [{"type": long}]}}, "/linux/namespaces/6/type: 'xxx"),
        ({"linux": {"sysctl": {long: "1"}}}, "/linux/sysctl/xxx"),
        ({"linux": {"maskedPaths": ["/none"] * 100_000}}, ""),
    ):
        done = sandbox.run(json.dumps(merge(addition)).encode())
        assert done.left == [] and done.status == int(bool(text)), done.stderr[:3000]
        assert text in done.stderr and done.stderr.count("\n") == done.status and len(done.stderr) < 3000
    for data, text in (
        (b" " * MEGABYTES, "not JSON"),
        (b"[" * MEGABYTES, "nested too deeply"),
        (b"9" * MEGABYTES, "not JSON"),
        (b'{"a":' * (MEGABYTES // 5), "nested too deeply"),
        (b"\0" * MEGABYTES, "not JSON"),
        (os.urandom(MEGABYTES), "not JSON"),
        (json.dumps([0] * (MEGABYTES // 3)).encode(), "is not an object"),
    ):
        done = sandbox.run(data)
        assert (done.status, done.left, done.stderr.count("\n")) == (1, [], 1)
        assert text in done.stderr and len(done.stderr) < 3000
