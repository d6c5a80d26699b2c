"""SCMP_ACT_NOTIFY through `poc-runtime`: an agent at listenerPath gets the listener, and decides."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from fcntl import ioctl
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs
from test_runtime_cli import Bundle, Runtime, bundle, output, runtime  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs("root", "program:busybox"), pytest.mark.timeout(90)]

RECV, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1
MKDIR, GETCWD = 83, 79  # x86_64's


class Agent:
    """Takes every listener it is sent, and answers: mkdir with EMLINK, everything else goes on."""

    def __init__(self, path: str) -> None:
        self.messages: list[Any] = []
        self.calls: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                while more := connection.recv(1 << 16):
                    data += more
            self.messages.append(json.loads(data))
            self._threads.append(threading.Thread(target=self._answer, args=(fds[0],)))
            self._threads[-1].start()

    def _answer(self, listener: int) -> None:
        try:
            while True:
                request = bytearray(80)
                ioctl(listener, RECV, request)
                identity, _, _, number = struct.unpack_from("=QIIi", request)
                self.calls.append(number)
                mkdir = number == MKDIR
                answer = struct.pack("=QqiI", identity, 0, -errno.EMLINK if mkdir else 0, 0 if mkdir else CONTINUE)
                ioctl(listener, SEND, answer)
        except OSError:
            os.close(listener)  # ENOENT: nobody is under the filter any more

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._socket.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(str(tmp_path / "agent"))
    yield agent
    agent.close()


def _profile(bundle: Bundle, tmp_path: Path, *names: str) -> None:  # noqa: F811
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": str(tmp_path / "agent"),
        "listenerMetadata": "opaque",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
    }


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize("bound", [False, True], ids=["", "no_new_privs"])
def test_the_agent_decides(
    runtime: Runtime,  # noqa: F811
    bundle: Bundle,  # noqa: F811
    agent: Agent,
    tmp_path: Path,
    output: Any,  # noqa: F811
    bound: bool,
) -> None:
    """On create and start, on run, and on exec, with the state as it is then."""
    _profile(bundle, tmp_path, "mkdir")
    bundle.config["process"]["noNewPrivileges"] = bound
    bundle.config["annotations"] = {"org.example": "yes"}
    bundle.write("mkdir /tmp/new; sleep 60")
    assert runtime("create", "--bundle", bundle.directory, "notify", output=output.fd).exit_code == 0, output()
    pid = runtime.state("notify")["pid"]
    assert runtime("start", "notify").exit_code == 0
    done = runtime("exec", "notify", "sh", "-c", "mkdir /tmp/other; echo went on")
    assert done.stdout == "went on\n" and "Too many links" in done.stderr
    runtime("delete", "--force", "notify")
    assert "Too many links" in output()
    bundle.write("mkdir /tmp/new")
    assert "Too many links" in runtime("run", "--bundle", bundle.directory, "notify").stderr

    first, joined, _ = agent.messages
    assert agent.calls == [MKDIR] * 3
    assert (first["fds"], first["pid"], first["metadata"], first["ociVersion"]) == (
        ["seccompFd"],
        pid,
        "opaque",
        "1.2.0",
    )
    state = {"ociVersion": "1.2.0", "id": "notify", "pid": pid, "bundle": bundle.directory}
    assert {**state, "status": "creating", "annotations": {"org.example": "yes"}}.items() <= first["state"].items()
    assert {**state, "status": "running"}.items() <= joined["state"].items() and joined["pid"] != pid


@pytest.mark.parametrize("bound", [False, True], ids=["", "no_new_privs"])
@pytest.mark.parametrize(
    "names",
    [("sendmsg", "write", "sendto"), ("execve", "execveat"), ("fcntl", "close", "capset", "prctl", "futex", "brk")],
    ids=lambda names: names[0],
)
def test_what_the_runtime_calls_itself_may_notify(
    runtime: Runtime,  # noqa: F811
    bundle: Bundle,  # noqa: F811
    agent: Agent,
    tmp_path: Path,
    names: tuple[str, ...],
    bound: bool,
) -> None:
    """The runtime waits for no call that waits for the agent."""
    _profile(bundle, tmp_path, *names)
    bundle.config["process"]["noNewPrivileges"] = bound
    bundle.write("echo through; exit 7")
    done = runtime("run", "--bundle", bundle.directory, "notify")
    assert (done.stdout, done.exit_code) == ("through\n", 7), done
    assert agent.calls


def test_without_an_agent(runtime: Runtime, bundle: Bundle, tmp_path: Path, output: Any) -> None:  # noqa: F811
    """An error that names it; the program never runs."""
    _profile(bundle, tmp_path, "mkdir")
    bundle.write("echo ran")
    done = runtime("run", "--bundle", bundle.directory, "notify")
    reason = f"poc-runtime: seccomp agent at {tmp_path}/agent: No such file or directory\n"
    assert (done.stdout, done.stderr, done.exit_code) == ("", reason, 1)
    assert runtime("create", "--bundle", bundle.directory, "notify", output=output.fd).exit_code == 0
    assert runtime("start", "notify").stderr == reason
    assert runtime.state("notify")["status"] == "stopped" and output() == ""

    del bundle.config["linux"]["seccomp"]["listenerPath"]
    for metadata, pointer in (("opaque", "listenerMetadata"), ("", "listenerPath")):
        bundle.config["linux"]["seccomp"]["listenerMetadata"] = metadata
        bundle.write()
        assert f"/linux/seccomp/{pointer}: " in runtime("create", "--bundle", bundle.directory, "other").stderr
    bundle.config["linux"]["seccomp"].update(syscalls=[], listenerPath="/no/such/agent")
    bundle.write("echo ran")
    assert runtime("run", "--bundle", bundle.directory, "other").stdout == "ran\n", "of no use, so ignored"
