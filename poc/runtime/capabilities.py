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
_SETS = ("effective", "permitted", "inheritable")
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


def apply(sets: Mapping[str, Sequence[str]], kept: Sequence[str] = ()) -> None:
    """Set effective, permitted, inheritable and ambient; what the host itself lacks can't be given.

    ``kept`` are held beyond that, until `give_up`.
    """
    _, available, _ = _libc.capabilities()
    more = _bits(kept)
    effective, permitted, inheritable = (_bits(sets.get(name, ())) for name in _SETS)
    inheritable &= available
    _libc.set_capabilities((effective | more) & available, (permitted | more) & available, inheritable)
    _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    # The kernel takes only what is inheritable too. As in runc, whose own example has more, the rest is passed over.
    for number in sorted(numbers(sets.get("ambient", ()))):
        if inheritable & permitted & 1 << number:
            _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


def _bits(names: Iterable[str]) -> int:
    return sum(1 << number for number in numbers(names))


def give_up(name: str, sets: Mapping[str, Sequence[str]]) -> None:
    """Take away what `apply` kept, where ``sets`` does not grant it."""
    held = zip(_SETS, _libc.capabilities(), strict=True)
    bit = _bits((name,))
    _libc.set_capabilities(*(bits if name in sets.get(kind, ()) else bits & ~bit for kind, bits in held))
