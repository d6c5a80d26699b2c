"""An OCI seccomp profile (``linux.seccomp``) compiled to the kernel's classic BPF, by libseccomp through pyseccomp.

libseccomp writes the filter; a prologue in front of it does what libseccomp can't::

    for each architecture:  a call younger than this libseccomp, but named in the profile → its action
                            a number beyond every call the profile names                  → ENOSYS
    then libseccomp's filter, with its default action

Without the second line a new C library's first try of a new call would end in the profile's EPERM, which it takes
for an answer; ENOSYS makes it take the older way (runc does the same). It is left out where the default lets calls
pass. Loads nothing, keeps nothing, and is imported only when the cache of `poc.runtime.seccomp` has no answer.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from poc import _fs
from poc.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Instruction = tuple[int, int, int, int]

_ROOT = "/linux/seccomp"

# The kernel's SECCOMP_RET_* and the largest errno that fits in; the kernel clamps what is larger.
_ACTIONS = {
    "SCMP_ACT_KILL": (0x00000000, None),
    "SCMP_ACT_KILL_THREAD": (0x00000000, None),
    "SCMP_ACT_KILL_PROCESS": (0x80000000, None),
    "SCMP_ACT_TRAP": (0x00030000, None),
    "SCMP_ACT_ERRNO": (0x00050000, 4095),
    "SCMP_ACT_TRACE": (0x7FF00000, 0xFFFF),
    "SCMP_ACT_NOTIFY": (0x7FC00000, None),
    "SCMP_ACT_LOG": (0x7FFC0000, None),
    "SCMP_ACT_ALLOW": (0x7FFF0000, None),
}
# A tracer gets to see a call, so it can say ENOSYS itself.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_EPERM = 1
_RETURN_ENOSYS = 0x00050000 | 38

ACTIONS = tuple(_ACTIONS)
OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32"),
        *("PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64"),
        *("LOONGARCH64", "M68K", "SH", "SHEB"),
    )
)
# AUDIT_ARCH_* of those that pyseccomp has no name for; whether libseccomp knows them is for it to say.
_UNNAMED = {"LOONGARCH64": 0xC0000102, "M68K": 4, "SH": 0x4000002A, "SHEB": 42}

# Since 424 a call has the same number everywhere, but for an offset on x32 and MIPS.
_OPENAT2 = 437
_YOUNG = {
    name: number
    for number, name in enumerate(
        (
            *("futex_waitv", "set_mempolicy_home_node", "cachestat", "fchmodat2", "map_shadow_stack", "futex_wake"),
            *("futex_wait", "futex_requeue", "statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr"),
            *("lsm_list_modules", "mseal", "setxattrat", "getxattrat", "listxattrat", "removexattrat"),
            *("open_tree_attr", "file_getattr", "file_setattr", "listns", "rseq_slice_yield"),
        ),
        449,
    )
}

# Classic BPF: load a word of seccomp_data, jump, return. linux/bpf_common.h
_LOAD, _JUMP, _JUMP_EQ, _JUMP_GT, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_LONGEST = 4096
_X32_BIT = 0x40000000


class _Rule:
    """One system call of a profile: what to do with it, and the (index, operator, value, second value) it takes."""

    __slots__ = ("action", "conditions", "name", "pointer")

    def __init__(self, pointer: str, name: str, action: int, conditions: Sequence[tuple[int, int, int, int]]) -> None:
        self.pointer = pointer
        self.name = name
        self.action = action
        self.conditions = conditions


def compile_profile(seccomp: Mapping[str, Any]) -> bytes:
    """The program for seccomp(2): 8 bytes an instruction, in this machine's byte order.

    A name that no one here knows is skipped, as runc and crun do. Raises InvalidArgument with the JSON pointer of
    what is wrong, Unsupported for what this libseccomp lacks.
    """
    library = _library()
    default = _action(seccomp, "defaultAction", "defaultErrnoRet", _ROOT)
    rules = list(_rules(seccomp))
    compiled = library.SyscallFilter(default)
    architectures = _add_architectures(library, compiled, seccomp)
    if len(rules) > 32:
        compiled.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree; without any rule libseccomp 2.5 gets it wrong
    strict = seccomp["defaultAction"] not in _PERMISSIVE
    young: dict[str, int] = {}
    for rule in rules:
        if rule.action != default and not _add_rule(library, compiled, rule):
            _add_young(young, rule, strict)
    program = _prologue(library, architectures, {rule.name for rule in rules}, young, strict) + _export(compiled)
    if len(program) > 8 * _LONGEST:
        raise InvalidArgument(f"{_ROOT}: compiles to {len(program) // 8} instructions; the kernel takes {_LONGEST}")
    return program


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise Unsupported(f"seccomp profiles need pyseccomp and libseccomp (Debian: libseccomp2): {error}") from None
    return pyseccomp


# ── reading the profile ──


def _rules(seccomp: Mapping[str, Any]) -> Iterator[_Rule]:
    for pointer, entry in _items(seccomp, "syscalls", _ROOT, dict):
        action = _action(entry, "action", "errnoRet", pointer)
        conditions = [_condition(argument, place) for place, argument in _items(entry, "args", pointer, dict)]
        for place, name in _items(entry, "names", pointer, str):
            yield _Rule(place, name, action, conditions)


def _action(holder: Mapping[str, Any], key: str, errno_key: str, pointer: str) -> int:
    name = _choice(holder, key, _ACTIONS, pointer)
    code, largest = _ACTIONS[name]
    if holder.get(errno_key) is None:
        return code if largest is None else code | _EPERM
    if largest is None:
        raise InvalidArgument(f"{pointer}/{errno_key}: {name} returns no errno")
    return code | _integer(holder, errno_key, largest, pointer)


def _condition(argument: Mapping[str, Any], pointer: str) -> tuple[int, int, int, int]:
    operator = OPERATORS.index(_choice(argument, "op", OPERATORS, pointer)) + 1
    value = _integer(argument, "value", 2**64 - 1, pointer)
    second = 0 if argument.get("valueTwo") is None else _integer(argument, "valueTwo", 2**64 - 1, pointer)
    return _integer(argument, "index", 5, pointer), operator, value, second


def _items(holder: Mapping[str, Any], key: str, pointer: str, kind: type) -> Iterator[tuple[str, Any]]:
    items = holder.get(key)
    if items is None:
        return
    if not isinstance(items, list):
        raise InvalidArgument(f"{pointer}/{key}: {items!r:.60} is no array")
    for position, item in enumerate(items):
        if not isinstance(item, kind):
            wanted = "string" if kind is str else "object"
            raise InvalidArgument(f"{pointer}/{key}/{position}: {item!r:.60} is no {wanted}")
        yield f"{pointer}/{key}/{position}", item


def _choice(holder: Mapping[str, Any], key: str, choices: Iterable[str], pointer: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or value not in choices:
        given = "missing" if value is None else f"{value!r:.60} is none of {', '.join(choices)}"
        raise InvalidArgument(f"{pointer}/{key}: {given}")
    return value


def _integer(holder: Mapping[str, Any], key: str, largest: int, pointer: str) -> int:
    value = holder.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        given = "missing" if value is None else f"{value!r:.60} is no integer from 0 to {largest}"
        raise InvalidArgument(f"{pointer}/{key}: {given}")
    return value


# ── through libseccomp ──


def _add_architectures(library: Any, compiled: Any, seccomp: Mapping[str, Any]) -> list[int]:
    """Every architecture the filter covers. The native one is always among them, listed or not."""
    architectures = [library.system_arch()]
    for pointer, name in _items(seccomp, "architectures", _ROOT, str):
        if name not in ARCHITECTURES:
            raise InvalidArgument(f"{pointer}: {name!r:.60} is none of {', '.join(ARCHITECTURES)}")
        short = name.removeprefix("SCMP_ARCH_")
        architecture = _UNNAMED.get(short) or getattr(library.Arch, short)
        if architecture in architectures:
            continue
        try:
            compiled.add_arch(architecture)
        except OSError as error:
            raise Unsupported(f"{pointer}: libseccomp can't have {name} here: {error.strerror}") from None
        architectures.append(architecture)
    return architectures


def _add_rule(library: Any, compiled: Any, rule: _Rule) -> bool:
    """Whether libseccomp knows the call."""
    number = library.resolve_syscall(library.Arch.NATIVE, rule.name)
    if number == -1:
        return False
    arguments = [library.Arg(*condition) for condition in rule.conditions]
    indices = {condition[0] for condition in rule.conditions}
    # libseccomp has no two conditions on one argument. As in runc and crun they then are rules of their own: any fits.
    alternatives = [arguments] if len(indices) == len(arguments) else [[argument] for argument in arguments]
    try:
        for alternative in alternatives:
            compiled.add_rule(rule.action, number, *alternative)
    except OSError as error:
        raise InvalidArgument(f"{rule.pointer}: libseccomp refuses {rule.name}: {error.strerror}") from None
    return True


def _add_young(young: dict[str, int], rule: _Rule, strict: bool) -> None:
    """Remember a call that libseccomp does not know, if we do. The first rule for it holds."""
    if rule.name not in _YOUNG:
        return
    if not rule.conditions:
        young.setdefault(rule.name, rule.action)
    elif not strict:
        # Left out it would pass, whatever its arguments. Under a strict default leaving it out is the safe side.
        raise Unsupported(f"{rule.pointer}: this libseccomp is older than {rule.name} and can't check its arguments")


def _export(compiled: Any) -> bytes:
    with open(os.memfd_create("seccomp", os.MFD_CLOEXEC), "rb") as file:
        compiled.export_bpf(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return _fs.read_all(file.fileno())


# ── the prologue ──


def _prologue(
    library: Any, architectures: Sequence[int], names: set[str], young: dict[str, int], strict: bool
) -> bytes:
    program: list[Instruction] = []
    for architecture in architectures:
        offset = library.resolve_syscall(architecture, "openat2") - _OPENAT2
        known = [library.resolve_syscall(architecture, name) for name in names]
        known += [offset + _YOUNG[name] for name in names & _YOUNG.keys()]
        last = max(known, default=-1) if strict else -1
        returns = [(offset + _YOUNG[name], action) for name, action in young.items()]
        # Back to front: a section jumps over those behind it.
        program = _section(library, architecture, returns, last, len(program)) + program
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _section(
    library: Any, architecture: int, returns: Sequence[tuple[int, int]], last: int, behind: int
) -> list[Instruction]:
    """The prologue of one architecture; ``behind`` instructions later the filter begins. ``last`` < 0: no ENOSYS."""
    tests = [step for number, action in returns for step in ((_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, action))]
    numbers = [number for number, _ in returns]
    if last >= 0:
        tests += [(_JUMP_GT, 0, 1, last), (_RETURN, 0, 0, _RETURN_ENOSYS)]
        numbers.append(last + 1)
    if not numbers:
        return []
    tests.append((_JUMP, 0, 0, behind))
    # Most calls are older than all of those: one comparison for them.
    body = [(_JUMP_GE, 1, 0, min(numbers)), (_JUMP, 0, 0, len(tests) + behind), *tests]
    if architecture == library.Arch.X32:
        body.insert(0, (_JUMP_SET, 0, len(body), _X32_BIT))
    elif architecture == library.Arch.X86_64:
        body.insert(0, (_JUMP_SET, len(body), 0, _X32_BIT))
    body.insert(0, (_LOAD, 0, 0, _NUMBER))
    # x32 calls come as x86_64 with a bit set in the number.
    audit = library.Arch.X86_64 if architecture == library.Arch.X32 else architecture
    return [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQ, 0, len(body), audit), *body]
