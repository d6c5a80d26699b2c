"""What a benchmark is asked for: keywords, or YAML files with Touchstone's keys.

::

    runtimes: [host, poc, runc]     # or a mapping of names to the paths of OCI runtimes
    filter: [operations, limits]    # beginnings of suites' names
    runs: 10
    warmup: 1
    scale: 1
    output: results.json
"""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_RUNS, _QUICK_RUNS = 10, 5


class Config(NamedTuple):
    """One benchmark. ``seed`` decides the order; ``directory`` is where it works; ``paths``: of OCI runtimes.

    ``image``: of the store ``root``, in place of one of the host's own programs. ``runs`` None: 10, with ``quick`` 5.
    """

    runtimes: tuple[str, ...] = ("host", "poc")
    suites: tuple[str, ...] = ()
    runs: int | None = None
    warmup: int = 1
    quick: bool = False
    scale: float = 1.0
    seed: int | None = None
    output: str | None = None
    directory: str | None = None
    paths: Mapping[str, str] = {}
    image: str | None = None
    root: str | None = None

    @property
    def rounds(self) -> int:
        """How many of them count."""
        return self.runs if self.runs is not None else _QUICK_RUNS if self.quick else _RUNS

    def given(self, **changes: Any) -> Config:
        """With what a user says besides; a runtime whose path is given takes part."""
        paths = changes.get("paths", {})
        found = self._replace(**{**changes, "paths": {**self.paths, **paths}})
        return found._replace(runtimes=tuple(dict.fromkeys((*found.runtimes, *paths))))

    def checked(self) -> Config:
        """With a seed. Raises InvalidArgument."""
        if not self.runtimes:
            raise InvalidArgument("no runtimes to compare (--runtimes host,poc; `poc bench runtimes` lists those here)")
        if self.rounds < 1 or self.warmup < 0:
            raise InvalidArgument("it takes at least one run, and no less than 0 to warm up")
        if not 0 < self.scale <= 1000:
            raise InvalidArgument(f"scale {self.scale:g}: larger than 0, at most 1000")
        return self if self.seed is not None else self._replace(seed=random.SystemRandom().randrange(1 << 31))


def paths(texts: Sequence[str]) -> dict[str, str]:
    """Names of runtimes and their paths, from NAME=PATH. Raises InvalidArgument."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path.startswith("/")):
            raise InvalidArgument(f"--runtime-path {text}: NAME=/PATH is wanted")
        found[name] = path
    return found


def with_outputs(configs: Sequence[Config], stem: str) -> list[Config]:
    """Each with a file of its own to write to: ``stem``.json where it has none. Raises InvalidArgument."""
    named = [
        one if one.output else one._replace(output=f"{stem}{f'-{number}' if number else ''}.json")
        for number, one in enumerate(configs)
    ]
    if len({os.path.realpath(str(one.output)) for one in named}) < len(named):
        raise InvalidArgument("several configurations write to one output; give each its own in its file")
    for one in named:
        path = os.path.realpath(str(one.output))  # before hours are spent
        if os.path.isdir(path) or not os.access(os.path.dirname(path), os.W_OK):
            raise InvalidArgument(f"the results can't be written to {one.output}: no such directory, or not a file")
    return named


def load(path: str, base: Config) -> Config:
    """The benchmark that a YAML file asks for; what it does not say is ``base``'s. Raises InvalidArgument, OSError."""
    import yaml

    with open(path) as file:
        try:
            data = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise InvalidArgument(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InvalidArgument(f"{path}: a mapping of {', '.join(_READERS)} is wanted")
    found = base
    for key, value in data.items():
        if key not in _READERS:
            raise InvalidArgument(f"{path}: unknown key {key!r}; there are {', '.join(_READERS)}")
        try:
            found = found._replace(**_READERS[key](value))
        except (TypeError, ValueError):
            raise InvalidArgument(f"{path}: {key}: {value!r} can't be used") from None
    return found


def _runtimes(value: Any) -> dict[str, Any]:
    """A list of names, or a mapping of names to paths, where null means the one of that name."""
    if isinstance(value, dict):
        paths = {str(name): str(path) for name, path in value.items() if path is not None}
        return {"runtimes": tuple(map(str, value)), "paths": paths}
    return {"runtimes": _words(value)}


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(value)
    return tuple(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "runtimes": _runtimes,
    "filter": lambda value: {"suites": _words(value)},
    "runs": lambda value: {"runs": _whole(value)},
    "warmup": lambda value: {"warmup": _whole(value)},
    "scale": lambda value: {"scale": float(value)},
    "image": lambda value: {"image": _text(value)},
    "seed": lambda value: {"seed": _whole(value)},
    "output": lambda value: {"output": _text(value)},
}
