"""A syslog server: one message for each line, in docker's four forms. A line's stream is its severity.

    ""             <30>Jan  2 15:04:05 TAG[PID]: line
    rfc3164        <30>Jan  2 15:04:05 HOST TAG[PID]: line
    rfc5424        <30>1 2024-05-01T12:00:00Z HOST TAG PID TAG - line
    rfc5424micro   the same with microseconds

The handler of the standard library brings the whole of `logging`, and knows the first only.
"""

from __future__ import annotations

import os
import time

from poc._lean import socket
from poc.engine.logs.remote import Remote, Sender
from poc.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.logs.remote import Address

LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_PORT = 514
_SEVERITIES = {"stdout": 6, "stderr": 3}  # information, error
_KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
_LOCAL_KINDS = {"unixgram": socket.SOCK_DGRAM, "unix": socket.SOCK_STREAM}


def parse_address(text: str) -> tuple[str, str]:
    """(scheme, rest) of ``udp://host:514``, ``tcp://``, ``unix:///path``, ``unixgram:///path``; "": this host's own.

    Raises InvalidArgument, and Unsupported for tcp+tls.
    """
    if not text:
        return "", ""
    scheme, found, rest = text.partition("://")
    if scheme == "tcp+tls":
        raise Unsupported("log opt syslog-address: tcp+tls is not supported; there are tcp, udp, unix and unixgram")
    if not found or scheme not in (*_KINDS, *_LOCAL_KINDS):
        raise InvalidArgument(
            f"log opt syslog-address: {text!r} is none of tcp://HOST[:PORT], udp://HOST[:PORT], unix:///PATH"
        )
    if scheme in _LOCAL_KINDS:
        if not rest.startswith("/") or not os.path.exists(rest):
            raise InvalidArgument(f"log opt syslog-address: {rest!r} is no socket's path")
    else:
        _host_and_port(rest)
    return scheme, rest


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, str(_PORT)
    host = host.strip("[]")
    if not host or not (port.isdecimal() and port.isascii()) or not 0 < int(port) < 1 << 16:
        raise InvalidArgument(f"log opt syslog-address: {text!r} is not HOST[:PORT]")
    return host, int(port)


def _candidates(scheme: str, rest: str) -> list[tuple[int, int, Address]]:
    """What to connect to, the best first. Raises OSError when the name has no address."""
    if not scheme:
        return [
            (socket.AF_UNIX, kind, path) for path in LOCAL if os.path.exists(path) for kind in _LOCAL_KINDS.values()
        ]
    if scheme in _LOCAL_KINDS:
        return [(socket.AF_UNIX, _LOCAL_KINDS[scheme], rest)]
    found = socket.getaddrinfo(*_host_and_port(rest), 0, _KINDS[scheme])
    return [(family, kind, (str(address[0]), int(address[1]))) for family, kind, _, _, address in found]


def _connect(scheme: str, rest: str, longest_queue: int) -> Sender:
    reason: OSError | None = None
    try:
        for family, kind, address in _candidates(scheme, rest):
            try:
                return Sender(family, kind, address, longest_queue)
            except OSError as error:
                reason = error if reason is None else reason
    except OSError as error:
        reason = error
    where = f"{scheme}://{rest}" if scheme else LOCAL[0]
    raise Unsupported(f"log driver syslog: {where}: {reason.strerror if reason else 'no address'}")


class Syslog(Remote):
    """Sends each line with a facility's number and a tag, in one of the forms above."""

    __slots__ = ("_facility", "_format", "_host", "_tag")

    def __init__(self, address: tuple[str, str], facility: int, format: str, tag: str, longest_queue: int = 0) -> None:
        """Raises Unsupported when nobody is there to take it."""
        super().__init__(_connect(*address, longest_queue))
        self._facility, self._format = facility, format
        self._tag = tag.encode("utf-8", "surrogateescape")
        self._host = os.uname().nodename.encode()

    def _say(self, stream: str, line: bytes, is_partial: bool) -> None:
        priority = self._facility << 3 | _SEVERITIES[stream]
        self._sender.send(b"<%d>%b%b\n" % (priority, self._head(), line))

    def _head(self) -> bytes:
        tag, pid = self._tag, os.getpid()
        if self._format.startswith("rfc5424"):
            return b"1 %b %b %b %d %b - " % (_rfc3339(self._format).encode(), self._host, tag, pid, tag)
        host = self._host + b" " if self._format else b""
        return b"%b %b%b[%d]: " % (time.strftime("%b %e %H:%M:%S").encode(), host, tag, pid)


def _rfc3339(format: str) -> str:
    now = time.time()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
    zone = time.strftime("%z", time.localtime(now))
    micro = f".{int(now % 1 * 1_000_000):06d}" if format == "rfc5424micro" else ""
    return f"{text}{micro}{'Z' if zone == '+0000' else f'{zone[:3]}:{zone[3:]}'}"
