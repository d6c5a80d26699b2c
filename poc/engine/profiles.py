"""A seccomp profile as docker has it (moby's profiles/seccomp) turned into the OCI configuration's.

Beyond the specification's it has rules under conditions (``includes``, ``excludes``: architectures, capabilities, the
kernel's version), and ``archMap``, from which this machine's architecture takes its own. Pure, but for uname(2).
"""

from __future__ import annotations

import os

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

# uname(2)'s machine: the profile's word for it in conditions, and in ``archMap``
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i386": ("x86", "SCMP_ARCH_X86"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
}


def to_oci(profile: Mapping[str, Any], capabilities: Collection[str]) -> dict[str, Any] | None:
    """``linux.seccomp`` for a container whose bounding set is ``capabilities``; None for a profile that says nothing.

    Raises InvalidArgument.
    """
    rules = profile.get("syscalls") or []
    if not profile.get("defaultAction") and not rules:
        return None
    if profile.get("architectures") and profile.get("archMap"):
        raise _wrong("it has both 'architectures' and 'archMap'")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise _wrong("'syscalls' is no list of objects")
    result = {key: value for key, value in profile.items() if key not in ("archMap", "syscalls") and value is not None}
    if profile.get("archMap"):
        result["architectures"] = _architectures(profile["archMap"])
    result["syscalls"] = [_rule(rule) for rule in rules if _applies(rule, capabilities)]
    return result


def _wrong(what: str) -> InvalidArgument:
    return InvalidArgument(f"the seccomp profile can't be used: {what}")


def _architectures(table: Any) -> list[str]:
    own = _MACHINES.get(os.uname().machine, ("", ""))[1]
    try:
        found = [entry for entry in table if entry["architecture"] == own]
        return [own, *(found[0].get("subArchitectures") or ())] if found else []
    except (TypeError, KeyError, AttributeError):
        raise _wrong("'archMap' is no list of architectures") from None


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    names = rule.get("names") or []
    if name := rule.get("name"):
        if names:
            raise _wrong(f"a rule has both 'name' ({name!r:.60}) and 'names'")
        names = [name]
    kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
    return {"names": names, **kept}


def _applies(rule: Mapping[str, Any], capabilities: Collection[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    try:
        return all(_facts(includes, capabilities, every=True)) and not any(_facts(excludes, capabilities, every=False))
    except (TypeError, AttributeError, ValueError):
        raise _wrong("'includes' and 'excludes' hold caps, arches and minKernel") from None


def _facts(condition: Mapping[str, Any], capabilities: Collection[str], every: bool) -> list[bool]:
    """Of what it names, what is so here; capabilities count together."""
    facts = []
    if arches := condition.get("arches"):
        facts.append(_MACHINES.get(os.uname().machine, ("", ""))[0] in arches)
    if names := condition.get("caps"):
        held = [name in capabilities for name in names]
        facts.append(all(held) if every else any(held))
    if wanted := condition.get("minKernel"):
        facts.append(_version(os.uname().release) >= _version(wanted))
    return facts


def _version(text: str) -> tuple[int, int]:
    """(4, 19) of "4.19.1-generic" as well as of "4.19"."""
    first, second = text.replace("-", ".").split(".")[:2]
    return int(first), int(second)
