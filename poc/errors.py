"""Everything poc raises on purpose.

    PocError                    exit 125; base of all below
    ├── InvalidArgument         a value that can't be used: what, and what would be right (also a ValueError)
    ├── NotFound                (also a LookupError)
    │   ├── ContainerNotFound
    │   ├── ImageNotFound
    │   ├── NetworkNotFound
    │   ├── VolumeNotFound
    │   └── ObjectNotFound      nothing of any kind
    ├── Conflict                the object's state forbids it: a name in use, a running container
    │   └── ContainerExists
    ├── Unsupported             this host can't: the kernel facility that lacks, and why
    ├── SetupError              the container's process could not be started
    │   ├── CommandNotFound     exit 127
    │   └── CommandNotExecutable  exit 126
    └── ContainerError          `poc.run(..., check=True)`: the command itself exited with a non-zero status

A kernel call that fails stays an ``OSError`` whose text names the call and the path
(``mount overlay on /…: Invalid argument``); see `poc._libc.check`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class PocError(Exception):
    """Base of poc's own errors. ``exit_code`` is what the command line ends with (docker's 125)."""

    exit_code = 125


class InvalidArgument(PocError, ValueError):
    """A flag, a field or a file says something that can't be used."""


class NotFound(PocError, LookupError):
    """No such object."""

    exit_code = 1


class ContainerNotFound(NotFound):
    """No container has this name, id or unique id prefix."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such container: {name}")


class ImageNotFound(NotFound):
    """No image has this reference."""

    exit_code = 125

    def __init__(self, reference: str, hint: str = "`poc images` lists those here, `poc init` makes `ubuntu`") -> None:
        super().__init__(f"no such image: {reference} ({hint})")


class NetworkNotFound(NotFound):
    """No network has this name."""

    exit_code = 125

    def __init__(self, name: str) -> None:
        super().__init__(f"no such network: {name}")


class VolumeNotFound(NotFound):
    """No volume has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such volume: {name:.200}")


class ObjectNotFound(NotFound):
    """Neither a container nor an image, a network or a volume has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such object: {name}")


class Conflict(PocError):
    """The object's present state forbids the call."""

    exit_code = 1


class ContainerExists(Conflict):
    """The name belongs to another container."""

    exit_code = 125

    def __init__(self, name: str) -> None:
        super().__init__(f"the container name {name!r} is in use; remove that container or choose another name")


class Unsupported(PocError):
    """This host can't do what was asked: names the facility and says why."""


class SetupError(PocError):
    """The container's first process could not be brought to its `execve`.

    ``step`` names what failed ("mount proc on /proc"), ``errno`` the kernel's answer or None.
    """

    def __init__(self, message: str, step: str = "", errno: int | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno


class CommandNotFound(SetupError):
    """The command is not in the container."""

    exit_code = 127


class CommandNotExecutable(SetupError):
    """The command is there, but can't be executed."""

    exit_code = 126


class ContainerError(PocError):
    """The command in the container ended with a non-zero status. ``result`` is the `RunResult`."""

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


def explain(error: BaseException) -> str:
    """What a person is told of an exception: of an `OSError` the path and the reason, without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or repr(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def pack(error: BaseException) -> dict[str, Any]:
    """What one process says to another of an exception; `unpack` makes one of it there."""
    kind, errno, step = type(error).__name__, getattr(error, "errno", None), getattr(error, "step", "")
    return {"failure": kind, "text": explain(error), "errno": errno, "step": step}


def unpack(said: dict[str, Any]) -> Exception:
    """One of poc's own again, or an `OSError`; SetupError for what is neither."""
    kind = globals().get(said["failure"])
    if kind is None and said["errno"] is not None:
        return OSError(said["errno"], said["text"])
    kind = kind or SetupError
    error: PocError = kind.__new__(kind)
    error.args = (said["text"],)
    if isinstance(error, SetupError):
        error.step, error.errno = said["step"], said["errno"]
    return error


def shorten(text: str, longest: int) -> str:
    """A message of at most ``longest`` characters: what it begins with stays, and the reason at its end."""
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"
