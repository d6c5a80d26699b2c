"""One call for each name on the command line: a name that fails is complained of, and the others still get theirs."""

from __future__ import annotations

from poc.cli.output import complain
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def each(names: Iterable[str], call: Callable[[str], object]) -> int:
    """Call for each name; print the result, or the name where there is none. Returns 0, or 1 where one failed."""
    code = 0
    for name in names:
        try:
            result = call(name)
        except (PocError, OSError) as error:
            complain(error)
            code = 1
        else:
            print(name if result is None else result, flush=True)
    return code
