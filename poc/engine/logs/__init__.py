"""What a container prints, kept: `open_log` for the monitor who writes it, `poc.engine.logs.reading` for who reads.

    jsonfile    docker's json-file, one JSON object a line, in files that are rotated; the default
    journald    the journal of systemd, over its socket
    syslog      a syslog server, over a datagram or stream socket
    options     which drivers and options there are; checks what the user wants

A writer has ``write(stream, data)``, which takes a stream's bytes in pieces of any size, and ``close()``. Both may
raise OSError: then something is lost, and the container goes on.
"""

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from poc.engine.container import Container

    class Writer(Protocol):
        def write(self, stream: str, data: bytes) -> None: ...

        def close(self) -> None: ...


_PATIENCE = 1.0  # seconds


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC with nanoseconds, such as 2024-05-01T12:00:00.123456789Z."""
    return timestamp_of(time.time_ns() if seconds is None else int(seconds * 1_000_000_000))


def timestamp_of(nanoseconds: int) -> str:
    """The same of a number of nanoseconds."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:09d}Z"


def await_readers(path: str) -> None:
    """Before a log is deleted at its end: let those who follow it open all of it (`reading.Reader.open_all`)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # nobody ever followed it
    deadline = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.005)
    finally:
        os.close(fd)


def open_log(container: Container) -> Writer:
    """The writer that a container's configuration asks for. Raises PocError and OSError."""
    from poc.engine.logs.jsonfile import JsonFile

    config = container.config
    if config.log_driver == "json-file" and not config.log_opts:
        return JsonFile(container.log_path)
    from poc.engine.logs.options import open_as_wished

    return open_as_wished(container)


def load_ahead(container: Container) -> None:
    """Load what `open_log` will, before a fork in a program with threads."""
    if container.config.log_driver != "json-file" or container.config.log_opts:
        import zlib  # noqa: F401

        from poc.engine.logs import journald, options, syslog  # noqa: F401
