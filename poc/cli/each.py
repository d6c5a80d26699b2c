"""One call for each name on the command line: a name that fails is complained of, and the others still get theirs."""

from __future__ import annotations

from poc.cli.output import complain
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Call = Callable[[str], object]

_MOST_AT_ONCE = 250  # a call has up to three descriptors open, of 1024


def each(names: Sequence[str], call: Call, together: bool = False, forgiven: tuple[type[PocError], ...] = ()) -> int:
    """Call for each name; print the result, or the name where there is none. Returns 0, or 1 where one failed.

    ``together``: the calls mostly wait, so they are made at the same time, in threads; what is printed keeps its order.
    What is ``forgiven`` is only complained of.
    """
    code = 0
    for name, result in zip(names, outcomes(names, call, together), strict=True):
        if isinstance(result, Exception):
            complain(result)
            code = code if isinstance(result, forgiven) else 1
        else:
            print(name if result is None else result, flush=True)
    return code


def outcomes(names: Sequence[str], call: Call, together: bool) -> Iterator[object]:
    """What each call returns, or the PocError or OSError it raises, in the order of the names."""
    if together and len(names) > 1:
        for first in range(0, len(names), _MOST_AT_ONCE):
            yield from _in_threads(names[first : first + _MOST_AT_ONCE], call)
    else:
        for name in names:
            yield _outcome(call, name)


def _outcome(call: Call, name: str) -> object:
    try:
        return call(name)
    except (PocError, OSError) as error:
        return error


def _in_threads(names: Sequence[str], call: Call) -> Iterator[object]:
    import threading

    found: dict[int, object] = {}

    def work(number: int, name: str) -> None:
        found[number] = _outcome(call, name)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(names)]
    for thread in threads:
        thread.start()
    for number, thread in enumerate(threads):
        thread.join()
        yield found[number]
