"""The ports of a container in docker's words, from what inspect tells of them. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Ports = Mapping[str, list[dict[str, Any]] | None]


def displayed(ports: Ports | None) -> str:
    """``0.0.0.0:8000-8001->8000-8001/tcp, 0.0.0.0:80->8080/tcp, 53/udp``: what ps shows.

    Neighbours are one range where they are published under their own numbers, or not at all.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    moved = []
    for number, protocol, address, published in sorted(_each(ports or {})):
        if address and published != number:
            moved.append(f"{_at(address, published)}->{number}/{protocol}")
        else:
            groups.setdefault((address, protocol), []).append(number)
    shown = [text for (address, protocol), numbers in groups.items() for text in _ranges(address, protocol, numbers)]
    return ", ".join([*moved, *shown])


def published(ports: Ports | None, port: str = "") -> list[tuple[str, str]]:
    """(``80/tcp``, ``0.0.0.0:8080``) of each published port, or of one."""
    return [
        (f"{number}/{protocol}", _at(address, public))
        for number, protocol, address, public in sorted(_each(ports or {}))
        if address and port in ("", f"{number}/{protocol}")
    ]


def _each(ports: Ports) -> Iterable[tuple[int, str, str, int]]:
    for port, bindings in ports.items():
        number, _, protocol = port.partition("/")
        for binding in bindings or [{}]:
            address = (binding.get("HostIp") or "0.0.0.0") if binding else ""
            yield int(number), protocol, address, int(binding.get("HostPort") or 0)


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _ranges(address: str, protocol: str, numbers: list[int]) -> Iterable[str]:
    first = last = numbers[0]
    for number in [*numbers[1:], 0]:
        if number == last + 1:
            last = number
            continue
        span = str(first) if first == last else f"{first}-{last}"
        at = f"[{address}]" if ":" in address else address
        yield f"{at}:{span}->{span}/{protocol}" if address else f"{span}/{protocol}"
        first = last = number
