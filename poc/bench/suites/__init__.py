"""The suites, named context.component.facet as Touchstone's are, and chosen by any beginning of a name."""

from __future__ import annotations

from poc.bench.suites.apps import APPS
from poc.bench.suites.base import Suite
from poc.bench.suites.disk import DISK
from poc.bench.suites.limits import LIMITS_KEPT
from poc.bench.suites.network import NETWORKS
from poc.bench.suites.operations import OPERATIONS, OTHERS
from poc.bench.suites.workloads import COMPARE, PERFORMANCE
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUITES: tuple[Suite, ...] = (*COMPARE, *PERFORMANCE, *OPERATIONS, *OTHERS, *LIMITS_KEPT, *DISK, *NETWORKS, *APPS)


def choose(prefixes: Sequence[str], suites: Sequence[Suite] = SUITES) -> list[Suite]:
    """Those whose name begins with one of ``prefixes``, whole words: "performance", "operations.container".

    None given: all but the comparison with the host, which takes hours. Raises InvalidArgument.
    """
    if not prefixes:
        return [suite for suite in suites if not suite.name.startswith("compare.")]
    chosen: dict[str, Suite] = {}
    for prefix in prefixes:
        found = [suite for suite in suites if f"{suite.name}.".startswith(f"{prefix.rstrip('.')}.")]
        if not found:
            raise InvalidArgument(f"no suite {prefix!r} (`poc bench suites` lists them)")
        chosen.update((suite.name, suite) for suite in found)
    return list(chosen.values())
