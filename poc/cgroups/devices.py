"""Which device nodes a group may make and open: the OCI device rules, for v1's devices controller and for v2.

The rules are an ordered list; both kernels hold a default and exceptions from it. `fold` turns the one into
the other, and refuses what can't be said that way. v1 takes the result as lines of text, v2 as an eBPF
program of type CGROUP_DEVICE, assembled here by hand: a dozen instructions, and no compiler to load.

Source: admin-guide/cgroup-v1/devices.rst, bpf(2), struct bpf_cgroup_dev_ctx in linux/bpf.h.
"""

from __future__ import annotations

import os
from ctypes import addressof, c_uint32, create_string_buffer
from errno import EINVAL
from struct import pack, unpack_from

from poc._libc import check, libc
from poc.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ctypes import Array, c_char
    from typing import Any

    Rules = Iterable[Mapping[str, Any]]
    _Device = tuple[str, int, int]
    Exceptions = dict[_Device, str]

_ANY = -1
_ALL = "rwm"


def fold(rules: Rules) -> tuple[bool, Exceptions]:
    """The default (True: allow) and its exceptions, {(type "b"|"c", major, minor): letters of "rwm"}; -1 is any.

    ``rules`` are OCI ``linux.resources.devices``, applied in order to a group that may do everything. A rule
    that would cut a hole into a wider exception raises InvalidArgument: v1 would silently leave it out.
    """
    default, exceptions = True, {}  # type: bool, Exceptions
    for rule in rules:
        allow, kind, access = bool(rule["allow"]), rule.get("type") or "a", _access(rule)
        major, minor = _number(rule, "major"), _number(rule, "minor")
        if kind == "a" and access == _ALL and major == minor == _ANY:
            default, exceptions = allow, {}
            continue
        for node in _nodes(kind):
            if allow == default:
                _withdraw(exceptions, (node, major, minor), access)
            else:
                _except(exceptions, (node, major, minor), access)
    return default, exceptions


def _access(rule: Mapping[str, Any]) -> str:
    access = rule.get("access") or _ALL
    if not set(access) <= set(_ALL):
        raise InvalidArgument(f"devices: {access!r} is no access; it is made of r, w and m")
    return _letters(access)


def _letters(access: str) -> str:
    return "".join(letter for letter in _ALL if letter in access)


def _number(rule: Mapping[str, Any], key: str) -> int:
    number = rule.get(key)
    return _ANY if number is None or number < 0 else int(number)


def _nodes(kind: str) -> str:
    """The types of node, as v1 writes them, that an OCI type means."""
    try:
        return {"a": "bc", "b": "b", "c": "c", "u": "c"}[kind]
    except KeyError:
        raise InvalidArgument(f"devices: {kind!r} is no type of device; it is a (all), b, c or u") from None


def _except(exceptions: Exceptions, wanted: _Device, access: str) -> None:
    # v1 wants one exception to cover all of an access, so that where two meet, both together are a third. Only an open
    # for reading and writing asks for two things at once; where either covers that there is no need.
    opens = set(access) - {"m"}
    for known, letters in list(exceptions.items()):
        others = set(letters) - {"m"}
        if (meet := _meet(known, wanted)) and not (opens <= others or others <= opens):
            exceptions[meet] = _letters(exceptions.get(meet, "") + letters + access)
    exceptions[wanted] = _letters(exceptions.get(wanted, "") + access)


def _withdraw(exceptions: Exceptions, wanted: _Device, access: str) -> None:
    for known, letters in list(exceptions.items()):
        meet = _meet(known, wanted)
        if meet == known:
            exceptions[known] = "".join(letter for letter in letters if letter not in access)
            if not exceptions[known]:
                del exceptions[known]
        elif meet and set(letters) & set(access):
            raise InvalidArgument(
                f"devices: the rule on {_line(wanted, access)} contradicts a part of that on {_line(known, letters)}"
            )


def _meet(one: _Device, other: _Device) -> _Device | None:
    """The devices that both mean."""
    if one[0] != other[0]:
        return None
    numbers = []
    for a, b in zip(one[1:], other[1:], strict=True):
        if _ANY not in (a, b) and a != b:
            return None
        numbers.append(max(a, b))
    return one[0], numbers[0], numbers[1]


def lines(default: bool, exceptions: Exceptions) -> list[tuple[str, list[str]]]:
    """The same as (file, texts) to write to a v1 group. The first clears whatever was there."""
    first, rest = ("devices.allow", "devices.deny") if default else ("devices.deny", "devices.allow")
    return [(first, ["a"]), (rest, [_line(device, access) for device, access in exceptions.items()])]


def _line(device: _Device, access: str) -> str:
    kind, major, minor = device
    return f"{kind} {'*' if major == _ANY else major}:{'*' if minor == _ANY else minor} {access}"


# bpf(2): commands, program and attach types, flags, and the bits of bpf_cgroup_dev_ctx.access_type.
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_KIND = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_MOST_PROGRAMS = 64  # the kernel's BPF_CGROUP_MAX_PROGS
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}

# eBPF opcodes, used on the registers r0 (result), r1 (context), r2 type, r3 access, r4 major, r5 minor.
_LOAD_WORD, _MOVE, _MOVE_REGISTER, _AND, _SHIFT_RIGHT, _EXIT = 0x61, 0xB4, 0xBC, 0x54, 0x74, 0x95
_JUMP_EQUAL, _JUMP_UNEQUAL, _JUMP_UNEQUAL_REGISTER = 0x16, 0x56, 0x5E


def program(default: bool, exceptions: Exceptions) -> bytes:
    """The same as an eBPF program: 1 in r0 lets the access through, 0 makes it EPERM."""
    code = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_MOVE_REGISTER, 3, 2),
        _instruction(_AND, 2, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, 3, value=16),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for device, access in exceptions.items():
        code += _match(default, device, sum(_ACCESS[letter] for letter in access))
    return b"".join([*code, *_verdict(default)])


def _match(default: bool, device: _Device, access: int) -> list[bytes]:
    tests = [(_JUMP_UNEQUAL, 2, 0, _KIND[device[0]])]
    tests += [(_JUMP_UNEQUAL, 4, 0, device[1])] if device[1] != _ANY else []
    tests += [(_JUMP_UNEQUAL, 5, 0, device[2])] if device[2] != _ANY else []
    # An allowance must cover all that is asked for; a ban applies when it touches any of it.
    tests += [(_JUMP_EQUAL, 1, 0, 0)] if default else [(_JUMP_UNEQUAL_REGISTER, 1, 3, 0)]
    masked = [_instruction(_MOVE_REGISTER, 1, 3), _instruction(_AND, 1, value=access)]
    verdict = _verdict(not default)
    jumps = [
        _instruction(code, register, source, offset=len(tests) - position - 1 + len(verdict), value=value)
        for position, (code, register, source, value) in enumerate(tests)
    ]
    return [*masked, *jumps, *verdict]


def _verdict(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, 0, value=int(allow)), _instruction(_EXIT)]


def _instruction(code: int, register: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return pack("<BBhi", code, register | source << 4, offset, value)


def attach(group_fd: int, default: bool, exceptions: Exceptions) -> None:
    """Put the rules in force on a v2 group (a descriptor of its directory), in place of those there before.

    Raises Unsupported where the kernel has no such programs (CONFIG_CGROUP_BPF) or this machine is unknown here.
    """
    old = _attached(group_fd)
    new = _load(program(default, exceptions))
    try:
        # All programs of a group must agree, so between these two steps it can do less, never more.
        _bpf(_PROG_ATTACH, pack("=IIII", group_fd, new, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
    finally:
        os.close(new)
    for number in old:
        _detach(group_fd, number)


def _load(code: bytes) -> int:
    instructions, licence = create_string_buffer(code, len(code)), create_string_buffer(b"Apache-2.0")
    try:
        return _bpf(
            _PROG_LOAD,
            pack("=IIQQ", _TYPE_CGROUP_DEVICE, len(code) // 8, addressof(instructions), addressof(licence)),
        )
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise Unsupported("devices: this kernel has no eBPF programs on cgroups (CONFIG_CGROUP_BPF)") from None


def _attached(group_fd: int) -> list[int]:
    """The ids of the device programs on this very group."""
    ids = (c_uint32 * _MOST_PROGRAMS)()
    query = create_string_buffer(
        pack("=IIIIQI4x", group_fd, _ATTACH_CGROUP_DEVICE, 0, 0, addressof(ids), _MOST_PROGRAMS), 32
    )
    _bpf(_PROG_QUERY, query)
    (count,) = unpack_from("=I", query.raw, 24)
    return list(ids[:count])


def _detach(group_fd: int, number: int) -> None:
    fd = _bpf(_PROG_GET_FD_BY_ID, pack("=I8x", number))
    try:
        _bpf(_PROG_DETACH, pack("=IIII", group_fd, fd, _ATTACH_CGROUP_DEVICE, 0))
    finally:
        os.close(fd)


def _bpf(command: int, attributes: bytes | Array[c_char]) -> int:
    try:
        number = _SYS_BPF[os.uname().machine]
    except KeyError as machine:
        raise Unsupported(f"devices: the eBPF program is not made for machine {machine}") from None
    result = libc.syscall(number, command, attributes, len(attributes))
    return check(result, f"bpf {command}")
