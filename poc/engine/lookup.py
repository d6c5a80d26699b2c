"""Any object by its name: a container, an image, a network or a volume, in the order in which docker looks."""

from __future__ import annotations

from poc.errors import InvalidArgument, NotFound, ObjectNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poc.engine import Engine


def inspect(engine: Engine, name: str, kind: str = "", size: bool = False) -> dict[str, Any]:
    """docker's ``inspect`` object of what has this name; ``kind`` is one of `KINDS`, or "" for any.

    ``size``: with the bytes that a container has written. Raises NotFound, Conflict, InvalidArgument.
    """
    if kind and kind not in KINDS:
        raise InvalidArgument(f"--type: {kind!r} is none of {', '.join(KINDS)}")
    for each in (kind,) if kind else KINDS:
        try:
            return _FIND[each](engine, name, size)
        except (NotFound, InvalidArgument):  # the latter: it can't be an image's name
            if kind:
                raise
    raise ObjectNotFound(name)


def _container(engine: Engine, name: str, size: bool) -> dict[str, Any]:
    container = engine.containers.get(name)
    attrs = container.attrs
    if size:
        attrs["SizeRw"], attrs["SizeRootFs"] = container.sizes()
    return attrs


_FIND: dict[str, Callable[[Engine, str, bool], dict[str, Any]]] = {
    "container": _container,
    "image": lambda engine, name, _: engine.images.get(name).attrs,
    "network": lambda engine, name, _: engine.networks.get(name).attrs,
    "volume": lambda engine, name, _: engine.volumes.get(name).attrs,
}
KINDS = tuple(_FIND)
