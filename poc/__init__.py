"""poc: a container runtime for Python.

    >>> import poc
    >>> poc.run("ubuntu", ["echo", "hi"], cpus=0.5, remove=True).output
    'hi\\n'

`run` and `Engine` are the whole engine in docker-py's words. The mechanisms work alone: `poc.namespaces.clone`,
`poc.cgroups.Cgroup`, `poc.rootfs`, `poc.net`. Everything is loaded when it is first used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc import cgroups as cgroups
    from poc import errors as errors
    from poc import namespaces as namespaces
    from poc import net as net
    from poc import rootfs as rootfs
    from poc.engine import Engine as Engine
    from poc.engine.container import Container as Container
    from poc.engine.results import RunResult as RunResult
    from poc.engine.volumes import Volume as Volume

__version__ = "0.1.0"

_MODULES = ("cgroups", "errors", "namespaces", "net", "rootfs")
_NAMES = {
    "Engine": "poc.engine",
    "Container": "poc.engine.container",
    "Volume": "poc.engine.volumes",
    "RunResult": "poc.engine.results",
}


def __getattr__(name: str) -> Any:
    module = f"poc.{name}" if name in _MODULES else _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module 'poc' has no attribute {name!r}")
    __import__(module)
    return sys.modules[module] if name in _MODULES else getattr(sys.modules[module], name)


def run(image: str, command: str | Sequence[str] | None = None, **options: Any) -> Any:
    """`Engine().containers.run(...)`, with ``remove`` on unless detached or said otherwise."""
    from poc.engine import Engine

    options.setdefault("remove", not options.get("detach", False))
    return Engine().containers.run(image, command, **options)
