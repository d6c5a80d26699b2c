"""The journal of systemd, over its native protocol: a datagram of ``NAME=value`` lines for each line of the log.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL. The libraries for it bring libsystemd, which would stay in the memory
of every monitor; one datagram needs none of it. Parts of a long line have CONTAINER_PARTIAL_MESSAGE=true, as docker's.
"""

from __future__ import annotations

from poc._lean import socket
from poc.engine.logs.remote import Remote, Sender
from poc.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {"stdout": 6, "stderr": 3}  # syslog(3): information, error


class Journald(Remote):
    """Sends each line with ``fields``, which have the journal's names."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str], longest_queue: int = 0) -> None:
        """Raises Unsupported where there is no journal."""
        try:
            sender = Sender(socket.AF_UNIX, socket.SOCK_DGRAM, SOCKET, longest_queue)
        except OSError as error:
            raise Unsupported(f"log driver journald: no journal listens on {SOCKET}: {error.strerror}") from None
        super().__init__(sender)
        self._fields = b"".join(
            _field(name, value.encode("utf-8", "surrogateescape")) for name, value in fields.items()
        )

    def _say(self, stream: str, line: bytes, is_partial: bool) -> None:
        partial = b"CONTAINER_PARTIAL_MESSAGE=true\n" if is_partial else b""
        priority = b"PRIORITY=%d\n" % _PRIORITIES[stream]
        self._sender.send(self._fields + priority + partial + _field("MESSAGE", line))


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
