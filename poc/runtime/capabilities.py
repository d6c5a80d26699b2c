"""Capability sets (capabilities(7)) of the calling process: exactly what ``process.capabilities`` says."""

from __future__ import annotations

import prctl

from poc import _libc
from poc.errors import InvalidArgument
from poc.oci.defaults import ALL_CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NUMBERS = {name: number for number, name in enumerate(ALL_CAPABILITIES)}
_SETS = (("effective", prctl.CAP_EFFECTIVE), ("permitted", prctl.CAP_PERMITTED), ("inheritable", prctl.CAP_INHERITABLE))
_PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 47, 2, 4


def numbers(names: Iterable[str]) -> set[int]:
    """The kernel's numbers of ``CAP_*`` names. Raises InvalidArgument for one it does not know."""
    try:
        return {_NUMBERS[name] for name in names}
    except KeyError as error:
        raise InvalidArgument(f"unknown capability: {error.args[0]}") from None


def limit_bounding(names: Iterable[str]) -> None:
    """Drop everything else from the bounding set, for good. Needs CAP_SETPCAP."""
    keep = numbers(names)
    for number in prctl.ALL_CAPS:
        if number not in keep:
            prctl.capbset_drop(number)


def apply(sets: Mapping[str, Sequence[str]]) -> None:
    """Set effective, permitted, inheritable and ambient; what the host itself lacks can't be given."""
    permitted = prctl.get_caps((prctl.ALL_CAPS, prctl.CAP_PERMITTED))[prctl.CAP_PERMITTED]
    available = {number for number, held in permitted.items() if held}
    arguments = []
    for name, flag in _SETS:
        wanted = numbers(sets.get(name, ())) & available
        arguments.append((sorted(wanted), flag, True))
        arguments.append((sorted(set(prctl.ALL_CAPS) - wanted), flag, False))
    prctl.set_caps(*arguments)
    _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in sorted(numbers(sets.get("ambient", ())) & available):
        _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
