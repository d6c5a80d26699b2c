"""Seccomp: what the kernel does to a process under a filter, and how filters are compiled and cached.

Each effect is tried in a child of its own, since no process ever sheds a filter.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from fcntl import ioctl
from typing import TYPE_CHECKING, Any

import prctl
import pyseccomp
import pytest
from conftest import CHECKOUT, needs

from poc import _libc
from poc.errors import InvalidArgument, Unsupported
from poc.oci.defaults import CAPABILITIES
from poc.oci.seccomp import default_profile
from poc.runtime import seccomp
from poc.runtime.seccomp_compiler import compile_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86_64 machine code and call numbers")

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
AF_ALG, AF_VSOCK = 38, 40
SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101
BAD = 2**64 - 1  # no address, no descriptor, no valid flags
TARGET = "getsid"  # a call that neither the interpreter nor the harness makes
MARK = 77
NUMBERS_AFTER_LIBSECCOMP = {"statmount": 457, "lsm_list_modules": 461, "mseal": 462, "file_getattr": 468}


def under(
    program: bytes | None, deed: Callable[[], Any], flags: Sequence[str] = (), no_new_privs: bool = False
) -> tuple[Any, int]:
    """What ``deed`` returned in a child under the filter (None if it was killed), and the signal that killed it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.setsid()
            if no_new_privs:
                prctl.set_no_new_privs(1)
            if program is not None:
                seccomp.load(program, flags)
            os.write(writer, json.dumps(deed()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(data) if data else None, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def call(name: str | int, *arguments: int) -> int:
    """One system call: 0, or its errno."""
    number = name if isinstance(name, int) else NUMBERS_AFTER_LIBSECCOMP.get(name)
    if number is None:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        assert number >= 0, name
    words = [ctypes.c_ulong(argument) for argument in arguments]
    return ctypes.get_errno() if _libc.libc.syscall(ctypes.c_long(number), *words) == -1 else 0


def calls(*tried: tuple[str | int, *tuple[int, ...]]) -> Callable[[], list[int]]:
    return lambda: [call(name, *arguments) for name, *arguments in tried]


def profile(action: str, *conditions: tuple[int, str, int, int], **more: Any) -> dict[str, Any]:
    """Everything allowed, but for `TARGET`."""
    rule: dict[str, Any] = {"names": [TARGET], "action": action, **more}
    if conditions:
        keys = ("index", "op", "value", "valueTwo")
        rule["args"] = [dict(zip(keys, condition, strict=True)) for condition in conditions]
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


# ── the default profile ──


DENIED: tuple[tuple[str, *tuple[int, ...]], ...] = (
    ("add_key", BAD, BAD, BAD, 0, 0),
    ("keyctl", BAD),
    ("request_key", BAD, BAD, BAD, 0),
    ("io_uring_setup", 1, BAD),
    ("io_uring_enter", BAD, 0, 0, BAD),
    ("userfaultfd", BAD),
    ("kexec_load", 0, 1000, 0, BAD),
    ("swapon", BAD, BAD),
    ("pivot_root", BAD, BAD),
    ("mount", BAD, BAD, BAD, 0, BAD),
    ("umount2", BAD, BAD),
    ("open_tree", BAD, BAD, BAD),
    ("bpf", BAD, BAD, BAD),
    ("setns", BAD, BAD),
    ("unshare", CLONE_NEWNS),
    ("unshare", CLONE_NEWUSER),
    ("clone", CLONE_NEWUSER | signal.SIGCHLD, BAD),
    ("lsm_list_modules", BAD, BAD, BAD),
    ("personality", 0x40000),
    ("personality", BAD),
    ("socket", AF_VSOCK, socket.SOCK_STREAM, 0),
    ("socket", AF_ALG, socket.SOCK_SEQPACKET, 0),
    # The kernel looks at 32 of the 64 bits the filter sees.
    ("socket", AF_VSOCK | 1 << 32, socket.SOCK_STREAM, 0),
    ("socket", AF_ALG | 1 << 63, socket.SOCK_SEQPACKET, 0),
)

# (capability, call): refused without the capability, and with it the kernel itself judges.
BY_CAPABILITY: tuple[tuple[str, str, *tuple[int, ...]], ...] = (
    ("CAP_BPF", "bpf", BAD, BAD, BAD),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at", BAD, BAD, 0),
    ("CAP_PERFMON", "perf_event_open", BAD, 0, 0, BAD, BAD),
    ("CAP_SYS_ADMIN", "mount", BAD, BAD, BAD, 0, BAD),
    ("CAP_SYS_ADMIN", "setns", BAD, BAD),
    ("CAP_SYS_ADMIN", "unshare", CLONE_NEWNS),
    ("CAP_SYS_ADMIN", "lsm_list_modules", BAD, BAD, BAD),
    ("CAP_SYS_BOOT", "reboot", 0, 0, 0),
    ("CAP_SYS_CHROOT", "chroot", BAD),
    ("CAP_SYS_MODULE", "finit_module", BAD, BAD, 0),
    ("CAP_SYS_NICE", "set_mempolicy", BAD, BAD, BAD),
    ("CAP_SYS_PACCT", "acct", BAD),
    ("CAP_SYS_PTRACE", "kcmp", 0, 0, BAD),
    ("CAP_SYS_TIME", "clock_settime", 0, BAD),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog", BAD, 0, 0),
)


@needs("root")
def test_the_default_profile_refuses_what_reaches_past_the_container() -> None:
    for denied in DENIED:
        # Without the filter it is something else that fails, if anything.
        bare, _ = under(None, lambda denied=denied: _clone_safely(denied))  # type: ignore[misc]
        assert bare != errno.EPERM, denied
        filtered, _ = under(compile_profile(default_profile(CAPABILITIES)), calls(denied))
        assert filtered == [errno.EPERM], denied


def _clone_safely(tried: tuple[str, *tuple[int, ...]]) -> int:
    """A raw clone returns twice; without a filter its child must not go on with the test."""
    return 0 if tried[0] == "clone" else calls(tried)()[0]


@needs("root")
def test_capabilities_bring_their_calls_back() -> None:
    without = compile_profile(default_profile(()))
    for capability, *tried in BY_CAPABILITY:
        refused, _ = under(without, calls(tuple(tried)))  # type: ignore[arg-type]
        assert refused == [errno.EPERM], tried
        bare, _ = under(None, calls(tuple(tried)))  # type: ignore[arg-type]
        given, _ = under(compile_profile(default_profile([capability])), calls(tuple(tried)))  # type: ignore[arg-type]
        assert given == bare != [errno.EPERM], (capability, tried)


@needs("root")
def test_the_default_profile_lets_programs_work() -> None:
    def work() -> list[Any]:
        done: list[str] = []
        thread = threading.Thread(target=done.append, args=("thread",))
        thread.start()
        thread.join()
        sockets = [
            call("socket", family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
            for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_INET | 1 << 32)
        ]
        netlink = call("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0)
        personality = call("personality", 0xFFFFFFFF)
        ran = subprocess.run(["/bin/sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True, check=True)
        return [done, sockets, netlink, personality, ran.stdout]

    filtered, killer = under(compile_profile(default_profile(CAPABILITIES)), work)
    assert (filtered, killer) == ([["thread"], [0, 0, 0, 0], 0, 0, "42\n"], 0)


@needs("root")
def test_a_call_from_the_future_is_unknown_not_forbidden() -> None:
    """glibc turns to clone, fchmodat and so on at ENOSYS, but takes EPERM for the answer."""
    program = compile_profile(default_profile(CAPABILITIES))
    tried = calls(("clone3", BAD, 0), (1000,), (467, BAD, BAD, BAD), ("lsm_list_modules", BAD, BAD, BAD))
    assert under(program, tried)[0] == [errno.ENOSYS, errno.ENOSYS, errno.ENOSYS, errno.EPERM]
    # Calls younger than this libseccomp, but older than poc, are the kernel's to judge.
    young = calls(("mseal", 1, 1, BAD), ("statmount", BAD, BAD, 0, BAD), ("fchmodat2", BAD, BAD, 0, BAD))
    assert under(program, young) == under(None, young)


# push rbx; mov eax, edi; mov ebx, esi; int 0x80; pop rbx; ret
INT_0X80 = bytes.fromhex("53 89f8 89f3 cd80 5b c3")


@needs("root")
@x86_64_only
def test_32_bit_calls_are_under_the_filter_too() -> None:
    """Any 64-bit program may say `int 0x80`; a filter of 64-bit numbers alone would let it call what it likes."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(INT_0X80)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call32 = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)
    getpid, umount2, keyctl, personality, uselib = 20, 52, 288, 136, 86

    def deed() -> list[int]:
        tried = ((getpid, 0), (umount2, -1), (keyctl, -1), (personality, 0x40000), (uselib, -1), (1000, 0))
        return [min(call32(*arguments), 0) for arguments in tried]

    bare, killer = under(None, lambda: call32(getpid, 0) > 0)
    if killer:
        pytest.skip("this kernel takes no 32-bit calls")
    assert bare
    denied = -errno.EPERM
    assert under(compile_profile(default_profile(CAPABILITIES)), deed)[0] == [0, *[denied] * 4, -errno.ENOSYS]
    # An architecture that the profile does not list is not let through: it is fatal.
    assert under(compile_profile(profile("SCMP_ACT_LOG")), deed) == (None, signal.SIGSYS)


# ── actions, operators, flags ──


def judge(given: dict[str, Any], deed: Callable[[], Any]) -> tuple[Any, int]:
    return under(compile_profile(given), deed, no_new_privs=True)


def test_every_action_has_its_effect() -> None:
    tried = calls((TARGET, 0))
    assert judge(profile("SCMP_ACT_ALLOW"), tried) == ([0], 0)
    assert judge(profile("SCMP_ACT_LOG"), tried) == ([0], 0)
    assert judge(profile("SCMP_ACT_ERRNO"), tried) == ([errno.EPERM], 0)
    assert judge(profile("SCMP_ACT_ERRNO", errnoRet=MARK), tried) == ([MARK], 0)
    assert judge(profile("SCMP_ACT_ERRNO", errnoRet=0), calls((TARGET, BAD))) == ([0], 0)
    assert judge(profile("SCMP_ACT_TRACE", errnoRet=MARK), tried) == ([errno.ENOSYS], 0)  # no tracer
    for action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        assert judge(profile(action), tried) == (None, signal.SIGSYS), action

    def trapped() -> list[int]:
        seen: list[int] = []
        signal.signal(signal.SIGSYS, lambda number, frame: seen.append(number))
        call(TARGET, 0)
        return seen

    assert judge(profile("SCMP_ACT_TRAP"), trapped) == ([signal.SIGSYS], 0)


def test_a_default_action_holds_for_what_is_not_named() -> None:
    names = ["write", "exit_group", TARGET, "mmap", "munmap", "brk", "futex"]
    given = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": MARK,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
    beyond = max(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in names) + 1
    tried = calls((TARGET, 0), ("getpgid", 0), (beyond,), (1000,))
    assert judge(given, tried) == ([0, MARK, errno.ENOSYS, errno.ENOSYS], 0)


def test_killing_a_thread_spares_the_others() -> None:
    libc = ctypes.CDLL(None)  # releases the GIL, which the dying thread would take along
    number = ctypes.c_long(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, TARGET))

    def deed() -> str:
        threading.Thread(target=libc.syscall, args=(number, 0), daemon=True).start()
        while len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.001)
        return "survived"

    assert judge(profile("SCMP_ACT_KILL_THREAD"), deed) == ("survived", 0)
    assert judge(profile("SCMP_ACT_KILL_PROCESS"), deed) == (None, signal.SIGSYS)


PIVOT = 5 << 32 | 7
OPERATORS: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("NE", lambda value: value != PIVOT),
    ("LT", lambda value: value < PIVOT),
    ("LE", lambda value: value <= PIVOT),
    ("EQ", lambda value: value == PIVOT),
    ("GE", lambda value: value >= PIVOT),
    ("GT", lambda value: value > PIVOT),
)


def test_every_operator_compares_all_64_bits() -> None:
    values = (0, 7, PIVOT - 1, PIVOT, PIVOT + 1, 4 << 32 | 8, 6 << 32, BAD)
    for name, matches in OPERATORS:
        given = profile("SCMP_ACT_ERRNO", (0, f"SCMP_CMP_{name}", PIVOT, 0), errnoRet=MARK)
        results, _ = judge(given, calls(*((TARGET, value) for value in values)))
        assert [result == MARK for result in results] == [matches(value) for value in values], name
    mask = 0xF0 << 32 | 0xF
    given = profile("SCMP_ACT_ERRNO", (0, "SCMP_CMP_MASKED_EQ", mask, 0x20 << 32 | 3), errnoRet=MARK)
    tried = (0x20 << 32 | 3, 0x2F << 32 | 0xF3, 0x30 << 32 | 3, 3)
    results, _ = judge(given, calls(*((TARGET, value) for value in tried)))
    assert [result == MARK for result in results] == [True, True, False, False]


def test_conditions_on_several_arguments() -> None:
    both = profile("SCMP_ACT_ERRNO", (0, "SCMP_CMP_EQ", 1, 0), (5, "SCMP_CMP_GT", 9, 0), errnoRet=MARK)
    results, _ = judge(
        both, calls((TARGET, 1, 0, 0, 0, 0, 10), (TARGET, 1, 0, 0, 0, 0, 9), (TARGET, 2, 0, 0, 0, 0, 10))
    )
    assert [result == MARK for result in results] == [True, False, False]
    either = profile("SCMP_ACT_ERRNO", (0, "SCMP_CMP_EQ", 1, 0), (0, "SCMP_CMP_EQ", 2, 0), errnoRet=MARK)
    results, _ = judge(either, calls((TARGET, 1), (TARGET, 2), (TARGET, 3)))
    assert [result == MARK for result in results] == [True, True, False]


def test_names_beyond_libseccomp() -> None:
    """A call to forbid is forbidden even where libseccomp is too old to know it; what nobody knows is skipped."""
    given = profile("SCMP_ACT_ERRNO", errnoRet=MARK)
    given["syscalls"][0]["names"] += ["no_such_call", "mseal", "file_getattr"]
    tried = calls(
        (TARGET, 0), ("mseal", BAD, 0, 0), ("file_getattr", BAD, BAD, 0, 0, 0), (1000,), ("statmount", 0, 0, 0, 0)
    )
    results, _ = judge(given, tried)
    assert results[:3] == [MARK] * 3
    assert MARK not in results[3:]


def test_flags_reach_the_kernel() -> None:
    program = compile_profile(profile("SCMP_ACT_ERRNO", errnoRet=MARK))
    for flag in ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"):
        assert under(program, calls((TARGET, 0)), [flag], no_new_privs=True)[0] == [MARK]

    def modes(flags: Sequence[str]) -> list[str]:
        stop = threading.Event()
        other = threading.Thread(target=stop.wait)
        other.start()
        prctl.set_no_new_privs(1)
        seccomp.load(program, flags)
        found = []
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/status") as file:
                found += [line.split()[1] for line in file if line.startswith("Seccomp:")]
        stop.set()
        other.join()
        return sorted(found)

    assert under(None, lambda: modes(()))[0] == ["0", "2"]
    assert under(None, lambda: modes(["SECCOMP_FILTER_FLAG_TSYNC"]))[0] == ["2", "2"]


def test_the_flags_of_a_profile() -> None:
    spec_allow, listener = "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_NEW_LISTENER"
    quiet, notifying = profile("SCMP_ACT_ERRNO"), profile("SCMP_ACT_NOTIFY")
    assert seccomp.filter_flags(quiet) == (spec_allow,)
    assert seccomp.filter_flags({**quiet, "flags": []}) == ()
    assert seccomp.filter_flags({**notifying, "flags": ["SECCOMP_FILTER_FLAG_LOG"]}) == (
        "SECCOMP_FILTER_FLAG_LOG",
        listener,
    )
    for flags in (
        ["SECCOMP_FILTER_FLAG_NEW_LISTENER"],
        ["LOG"],
        [7],
        "LOG",
        ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    ):
        with pytest.raises(InvalidArgument, match=r"^/linux/seccomp/flags"):
            seccomp.filter_flags({**quiet, "flags": flags})


def test_loading_fails_as_the_kernel_says() -> None:
    def load(program: bytes) -> int | None:
        try:
            seccomp.load(program)
        except OSError as error:
            return error.errno
        return 0

    assert under(None, lambda: load(b"nonsense"), no_new_privs=True)[0] == errno.EINVAL
    if os.geteuid() == 0:
        program = compile_profile(profile("SCMP_ACT_LOG"))

        def unprivileged() -> int | None:
            os.setresuid(1000, 1000, 1000)
            return load(program)

        assert under(None, unprivileged)[0] == errno.EACCES


def test_a_listener_reaches_its_agent_and_the_agent_decides(tmp_path: Path) -> None:
    given = profile("SCMP_ACT_NOTIFY")
    flags = [*seccomp.filter_flags(given), "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    program, path = compile_profile(given), str(tmp_path / "agent")
    state = {"ociVersion": "1.2.0", "id": "demo", "status": "creating", "pid": 1, "bundle": "/b"}
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as agent, open(reader, "rb") as answers:
        agent.bind(path)
        agent.listen()
        agent.settimeout(30)
        pid = os.fork()
        if pid == 0:
            try:
                prctl.set_no_new_privs(1)
                listener = seccomp.load(program, flags)
                assert listener is not None
                with seccomp.agent(path) as connected:
                    seccomp.send_listener(connected, listener, 1, state, "opaque")
                os.close(listener)
                number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, TARGET)
                os.write(writer, b"%d" % _libc.libc.syscall(ctypes.c_long(number), ctypes.c_ulong(31)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writer)
        connection, _ = agent.accept()
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            while more := connection.recv(1 << 16):
                data += more
        (listener,) = fds
        request = bytearray(80)
        ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, request)
        identity, caller, argument = struct.unpack_from("=QI20xQ", request)
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, struct.pack("=QqiI", identity, 4242, 0, 0))
        os.close(listener)
        assert answers.read() == b"4242"
    os.waitpid(pid, 0)
    assert (caller, argument) == (pid, 31)
    assert json.loads(data) == {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": 1,
        "metadata": "opaque",
        "state": state,
    }
    with pytest.raises(FileNotFoundError, match="No such file"):
        seccomp.agent(path + "x")


# ── compiling: the programs for machines that are not at hand ──


def run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """The kernel's interpreter of classic BPF, as far as filters use it: the filter's verdict."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        code, true, false, constant = instructions[position]
        position += 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x05:
            position += constant
        else:
            tests = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}
            holds = tests[code] if code in tests else {0x45: bool(accumulator & constant)}[code]
            position += true if holds else false


ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
X86_64, X86, ARM64 = pyseccomp.Arch.X86_64, pyseccomp.Arch.X86, pyseccomp.Arch.AARCH64
X32_BIT = 0x40000000


@x86_64_only
def test_every_architecture_has_its_own_numbers() -> None:
    given = default_profile((), "x86_64")
    given["architectures"].append("SCMP_ARCH_AARCH64")
    program = compile_profile(given)
    verdicts = [
        # openat, mount, mseal, lsm_list_modules, beyond
        [run(program, X86_64, number) for number in (257, 165, 462, 461, 467)],
        [run(program, X86_64, X32_BIT | number) for number in (257, 165, 462, 461, 600)],
        [run(program, X86, number) for number in (295, 21, 462, 461, 467)],
        [run(program, ARM64, number) for number in (56, 40, 462, 461, 467)],
    ]
    assert verdicts == [[ALLOW, EPERM, ALLOW, EPERM, ENOSYS]] * 4
    # The flags come first, but not on s390x.
    assert [run(program, ARM64, 220, flags) for flags in (signal.SIGCHLD, CLONE_NEWUSER)] == [ALLOW, EPERM]
    (clone,) = [rule for rule in default_profile((), "s390x")["syscalls"] if rule["names"] == ["clone"]]
    assert clone["args"][0]["index"] == 1
    # Without x32 in the list its calls are of a foreign architecture.
    given["architectures"].remove("SCMP_ARCH_X32")
    assert run(compile_profile(given), X86_64, X32_BIT | 257) == 0


def test_the_default_profile_is_the_callers_to_change() -> None:
    given = default_profile(CAPABILITIES)
    given["syscalls"][0]["names"].clear()
    assert "openat" in default_profile(CAPABILITIES)["syscalls"][0]["names"]


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"defaultAction": None}, "/defaultAction: missing"),
    ({"defaultAction": "SCMP_ACT_MAYBE"}, "/defaultAction: 'SCMP_ACT_MAYBE' is none of"),
    ({"defaultErrnoRet": 1}, "/defaultErrnoRet: SCMP_ACT_ALLOW returns no errno"),
    ({"architectures": "SCMP_ARCH_X86"}, "/architectures: 'SCMP_ARCH_X86' is no array"),
    ({"architectures": ["SCMP_ARCH_NATIVE"]}, "/architectures/0: 'SCMP_ARCH_NATIVE' is none of"),
    ({"syscalls": {}}, "/syscalls: {} is no array"),
    ({"syscalls": [7]}, "/syscalls/0: 7 is no object"),
    ({"syscalls": [{"names": [TARGET]}]}, "/syscalls/0/action: missing"),
    ({"syscalls": [{"names": [7], "action": "SCMP_ACT_LOG"}]}, "/syscalls/0/names/0: 7 is no string"),
    (profile("SCMP_ACT_KILL", errnoRet=1), "/syscalls/0/errnoRet: SCMP_ACT_KILL returns no errno"),
    (profile("SCMP_ACT_ERRNO", errnoRet=4096), "/syscalls/0/errnoRet: 4096 is no integer from 0 to 4095"),
    (profile("SCMP_ACT_ERRNO", errnoRet=True), "/syscalls/0/errnoRet: True is no integer"),
    (profile("SCMP_ACT_LOG", (-1, "SCMP_CMP_EQ", 0, 0)), "/syscalls/0/args/0/index: -1 is no integer from 0 to 5"),
    (profile("SCMP_ACT_LOG", (6, "SCMP_CMP_EQ", 0, 0)), "/syscalls/0/args/0/index: 6 is no integer from 0 to 5"),
    (profile("SCMP_ACT_LOG", (0, "SCMP_CMP_EQ", 1 << 64, 0)), "/syscalls/0/args/0/value: 18446744073709551616 is no"),
    (profile("SCMP_ACT_LOG", (0, "EQ", 0, 0)), "/syscalls/0/args/0/op: 'EQ' is none of"),
    ({"syscalls": [{"names": [], "action": "SCMP_ACT_LOG", "args": [{}]}]}, "/syscalls/0/args/0/op: missing"),
)


def test_what_is_wrong_is_named_by_its_json_pointer() -> None:
    for change, complaint in WRONG:
        with pytest.raises(InvalidArgument) as caught:
            compile_profile({"defaultAction": "SCMP_ACT_ALLOW", **change})
        assert str(caught.value).startswith(f"/linux/seccomp{complaint}"), caught.value


def test_what_can_not_be_had_here_is_said() -> None:
    foreign = "SCMP_ARCH_S390X" if sys.byteorder == "little" else "SCMP_ARCH_X86_64"
    with pytest.raises(Unsupported, match=f"^/linux/seccomp/architectures/0: .*{foreign}"):
        compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [foreign]})
    young = profile("SCMP_ACT_ERRNO", (0, "SCMP_CMP_EQ", 0, 0))
    young["syscalls"][0]["names"] = ["rseq_slice_yield"]
    with pytest.raises(Unsupported, match=r"^/linux/seccomp/syscalls/0/names/0: .* rseq_slice_yield"):
        compile_profile(young)
    many = profile("SCMP_ACT_ERRNO")
    many["syscalls"] += [
        {
            **profile("SCMP_ACT_ERRNO", (0, "SCMP_CMP_EQ", value, 0), errnoRet=value % 4000 + 1)["syscalls"][0],
            "names": ["close"],
        }
        for value in range(2000)
    ]
    with pytest.raises(InvalidArgument, match=r"^/linux/seccomp: .* 4096"):
        compile_profile(many)


# ── the cache ──


def test_the_cache_spares_the_compiler(tmp_path: Path) -> None:
    """A start with a warm cache imports neither the compiler nor pyseccomp."""
    directory = str(tmp_path / "run" / "seccomp")
    source = (
        "import sys\n"
        "from poc.oci.seccomp import default_profile\n"
        "from poc.runtime.seccomp import program\n"
        f"print(program(default_profile(['CAP_KILL']), {directory!r}).hex())\n"
        "print(sorted({'pyseccomp', 'poc.runtime.seccomp_compiler', 'hashlib', 'subprocess'} & set(sys.modules)))\n"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", source], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    (cold, cold_modules), (warm, warm_modules) = (output.splitlines() for output in outputs)
    assert "pyseccomp" in cold_modules
    assert warm_modules == "[]"
    assert bytes.fromhex(cold) == bytes.fromhex(warm) == compile_profile(default_profile(["CAP_KILL"]))
    (name,) = os.listdir(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(f"{directory}/{name}").st_mode & 0o777 == 0o600


def test_only_an_intact_cache_file_of_ones_own_is_believed(tmp_path: Path) -> None:
    given = profile("SCMP_ACT_KILL_PROCESS")
    right = seccomp.program(given, str(tmp_path))
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    assert good.endswith(right)
    lax = compile_profile(profile("SCMP_ACT_ALLOW"))
    forged = good[: -len(right) - 8] + seccomp._checksum(lax) + lax

    def restored() -> bool:
        believed = seccomp.program(given, str(tmp_path)) == right
        return believed and not path.is_symlink() and path.read_bytes() == good and path.stat().st_mode & 0o777 == 0o600

    path.write_bytes(forged)
    assert seccomp.program(given, str(tmp_path)) == lax  # what follows is refused for its flaw alone
    for damaged in (b"", good[:-8], good[:-3], good + b"\0" * 8, good[:-5] + b"\xff" + good[-4:], b"x" + good[1:]):
        path.write_bytes(damaged)
        assert restored(), damaged[-16:]
    path.write_bytes(forged)
    path.chmod(0o644)
    assert restored()
    if os.geteuid() == 0:
        path.write_bytes(forged)
        os.chown(path, 1000, 1000)
        assert restored()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(forged)
    elsewhere.chmod(0o600)
    path.unlink()
    path.symlink_to(elsewhere)
    assert restored()
    assert elsewhere.read_bytes() == forged


def test_threads_may_meet_at_an_empty_cache(tmp_path: Path) -> None:
    given, programs = default_profile(CAPABILITIES), []
    expected = compile_profile(given)
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        programs.append(seccomp.program(given, str(tmp_path)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert programs == [expected] * 8
    assert len(list(tmp_path.iterdir())) == 1


def test_profiles_that_share_a_cache_file_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_SLOTS", 1)
    profiles = [profile("SCMP_ACT_ERRNO", errnoRet=number) for number in (1, 2)]
    expected = [compile_profile(given) for given in profiles]
    assert expected[0] != expected[1]
    for _ in range(2):
        assert [seccomp.program(given, str(tmp_path)) for given in profiles] == expected
    assert len(list(tmp_path.iterdir())) == 1
