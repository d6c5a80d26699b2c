"""Health checks as docker has them: what is asked for, and what a row of results says of a container. Pure.

A check is docker's object: ``{"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": …, "Timeout": …, "StartPeriod":
…, "Retries": …}``, times in nanoseconds; what is 0 or not there is docker's default. `poc.engine.checks` does them.
"""

from __future__ import annotations

from poc.engine.spans import parse_span
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
_SECOND = 1_000_000_000
_DEFAULTS = {"Interval": 30 * _SECOND, "Timeout": 30 * _SECOND, "StartPeriod": 0, "Retries": 3}
_SHORTEST = 1_000_000  # nanoseconds
_KEPT = 5  # results
LONGEST_OUTPUT = 4096  # bytes of each
_OPTIONS = {"Interval": "--health-interval", "Timeout": "--health-timeout", "StartPeriod": "--health-start-period"}
_NAMES = {"test": "Test", "interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}


def parse_check(value: Mapping[str, Any]) -> dict[str, Any]:
    """docker-py's ``{"test": "curl …" or ["CMD", …], "interval": "5s" or nanoseconds, "retries": 3}``, or docker's.

    Raises InvalidArgument.
    """
    given = {_NAMES.get(key, key.capitalize() if key == "retries" else key): entry for key, entry in value.items()}
    if unknown := sorted(given.keys() - {"Test", *_DEFAULTS}):
        raise InvalidArgument(f"healthcheck: unknown: {', '.join(unknown)}")
    check = {key: _parse_time(option, given[key]) for key, option in _OPTIONS.items() if given.get(key)}
    if given.get("Retries"):
        check["Retries"] = _parse_retries(given["Retries"])
    test = given.get("Test")
    if isinstance(test, str):
        test = ["CMD-SHELL", test]
    if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"healthcheck: a test begins with CMD, CMD-SHELL or NONE, not with {test[0]!r}")
    return {**({"Test": list(test)} if test else {}), **check}


def _parse_time(option: str, value: str | int) -> int:
    if isinstance(value, str):
        try:
            value = parse_span(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{option}: {error}") from None
    if value < 0:
        raise InvalidArgument(f"{option} cannot be negative")
    if 0 < value < _SHORTEST:
        raise InvalidArgument(f"{option} cannot be less than 1ms")
    return value


def _parse_retries(value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        raise InvalidArgument(f"--health-retries: {value!r} is no whole number") from None
    if number < 0:
        raise InvalidArgument("--health-retries cannot be negative")
    return number


def effective(wanted: Mapping[str, Any] | None, image: Mapping[str, Any] | None) -> dict[str, Any]:
    """What holds: what was asked for, and the rest as the image has it."""
    return {**(image or {}), **{key: value for key, value in (wanted or {}).items() if value}}


def command(check: Mapping[str, Any], shell: list[str] | None) -> list[str]:
    """What is to be run, [] for nothing; ``shell`` is the image's."""
    kind, *words = check.get("Test") or ["NONE"]
    if kind == "CMD-SHELL":
        return [*(shell or ("/bin/sh", "-c")), *words]
    return words if kind == "CMD" else []


def seconds(check: Mapping[str, Any], name: str) -> float:
    """``Interval``, ``Timeout`` or ``StartPeriod``."""
    return float(check.get(name) or _DEFAULTS[name]) / _SECOND


class Health:
    """A container's state of health; ``before`` is what it was at the end of the last run."""

    __slots__ = ("_check", "log", "status", "streak")

    def __init__(self, check: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self._check = check
        self.status = STARTING
        self.streak = 0
        self.log: list[dict[str, Any]] = list(before.get("Log", ()))

    def take(self, result: dict[str, Any], age: float) -> bool:
        """Count a result, docker's object, of a check begun ``age`` seconds after the start. Another status now?"""
        self.log = [*self.log, result][-_KEPT:]
        before = self.status
        if result["ExitCode"] == 0:
            self.streak, self.status = 0, HEALTHY
        elif before != STARTING or age >= seconds(self._check, "StartPeriod"):
            self.streak += 1
            if self.streak >= (self._check.get("Retries") or _DEFAULTS["Retries"]):
                self.status = UNHEALTHY
        return self.status != before

    def as_object(self) -> dict[str, Any]:
        """docker's State.Health."""
        return {"Status": self.status, "FailingStreak": self.streak, "Log": self.log}


def output(data: bytes) -> str:
    """What a check wrote, as it is kept; cut off where it is too long."""
    text = data[:LONGEST_OUTPUT].decode("utf-8", "replace")
    return f"{text}..." if len(data) > LONGEST_OUTPUT else text
