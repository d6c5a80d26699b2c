"""Whether a container that has ended is started again, and when: docker's restart policies. Pure.

A policy is docker's object, ``{"Name": "on-failure", "MaximumRetryCount": 3}``. The monitor asks `Restarts` at each
end of a run, `starts_at_boot` is for after a reboot.
"""

from __future__ import annotations

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

POLICIES = ("no", "on-failure", "always", "unless-stopped")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0  # seconds; each is twice the one before
_LONG_ENOUGH = 10.0  # seconds of running, after which the pauses begin anew


def parse_policy(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """``on-failure:3``, or docker's object. Raises InvalidArgument."""
    if isinstance(value, str):
        name, colon, text = value.partition(":")
        if colon and not text.removeprefix("-").isdecimal():
            raise InvalidArgument(f"--restart: {value!r}: the maximum retry count must be an integer")
        most = int(text) if colon else 0
    else:
        name, most = value.get("Name", ""), int(value.get("MaximumRetryCount") or 0)
    name = name or "no"
    if name not in POLICIES:
        raise InvalidArgument(f"--restart: invalid restart policy {name!r}; there are {', '.join(POLICIES)}")
    if most and name != "on-failure":
        raise InvalidArgument(f"--restart: a maximum retry count can't be used with {name!r}, only with on-failure")
    if most < 0:
        raise InvalidArgument("--restart: the maximum retry count cannot be negative")
    return {"Name": name, "MaximumRetryCount": most}


class Restarts:
    """Counts them, and says how long to wait before the next. One for each start by hand."""

    __slots__ = ("_pause", "count")

    def __init__(self) -> None:
        self.count = 0
        self._pause = 0.0

    def pause(self, policy: Mapping[str, Any], exit_code: int, ran: float) -> float | None:
        """Seconds until the next start of one that ``ran`` for so many, None when there is none."""
        self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE) if ran < _LONG_ENOUGH else FIRST_PAUSE
        if policy["Name"] == "no" or (policy["Name"] == "on-failure" and not self._may_fail_again(policy, exit_code)):
            return None
        self.count += 1
        return self._pause

    def _may_fail_again(self, policy: Mapping[str, Any], exit_code: int) -> bool:
        most = policy["MaximumRetryCount"]
        return exit_code != 0 and (not most or self.count < most)


def starts_at_boot(policy: Mapping[str, Any], ended: Mapping[str, Any], by_hand: bool) -> bool:
    """Is it to run after the host has started? ``ended`` is how it last did, {} if it never ran."""
    if not ended.get("started_at"):
        return False
    if policy["Name"] == "on-failure":
        return not by_hand and bool(ended["exit_code"])
    return policy["Name"] == "always" or (policy["Name"] == "unless-stopped" and not by_hand)
