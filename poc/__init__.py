"""poc: a container runtime for Python.

    >>> import poc
    >>> poc.run("ubuntu", ["echo", "hi"], cpus=0.5, remove=True).output
    'hi\\n'

`run` and `Engine` are the whole engine in docker-py's words. The mechanisms work alone: `poc.namespaces.clone`,
`poc.cgroups.Cgroup`, `poc.rootfs`, `poc.net`. Everything is loaded when it is first used.
"""

from __future__ import annotations

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
    from poc.engine.containers import Container as Container
    from poc.engine.containers import RunResult as RunResult

__version__ = "0.1.0"

_MODULES = ("cgroups", "errors", "namespaces", "net", "rootfs")
_NAMES = {"Engine": "poc.engine", "Container": "poc.engine.containers", "RunResult": "poc.engine.containers"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"poc.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'poc' has no attribute {name!r}")


def run(image: str, command: str | Sequence[str] | None = None, **options: Any) -> Any:
    """`Engine().containers.run(...)`, with ``remove`` on unless detached or said otherwise."""
    from poc.engine import Engine

    options.setdefault("remove", not options.get("detach", False))
    return Engine().containers.run(image, command, **options)
