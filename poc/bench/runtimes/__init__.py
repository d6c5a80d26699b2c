"""The runtimes that can be compared, by name: host, poc, poc:RUNTIME, poc-runtime, runc, crun, docker, docker:NAME,
podman, containerd, and any OCI runtime by its path.
"""

from __future__ import annotations

from poc.bench.runtimes.base import Absent, Host, Runtime
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KNOWN = ("host", "poc", "poc-runtime", "runc", "crun", "youki", "runsc", "docker", "podman", "containerd")
_OCI = ("runc", "crun", "youki", "runsc")


def find(name: str, paths: Mapping[str, str] | None = None) -> Runtime:
    """The runtime of that name; ``paths`` are those of OCI runtimes by the names the user gave them.

    Raises InvalidArgument for a name that means nothing; whether it is here, `Runtime.absent` says.
    """
    kind, _, other = name.partition(":")
    if name in (paths or {}):
        from poc.bench.runtimes.oci import Oci

        return Oci(name, [(paths or {})[name]])
    if kind == "host" and not other:
        return Host(name)
    if kind == "poc":
        from poc.bench.runtimes.poc import Poc

        return Poc(name, other)
    if name == "poc-runtime" or name in _OCI or name.startswith("/"):
        return _oci(name)
    if kind in ("docker", "podman", "containerd") and (kind == "docker" or not other):
        return _engine(kind, name, other)
    raise InvalidArgument(
        f"no runtime {name!r}; there are {', '.join(KNOWN)}, poc:RUNTIME, docker:RUNTIME,"
        " and any other as --runtime-path NAME=/PATH"
    )


def _oci(name: str) -> Runtime:
    from poc.bench.command import own_command
    from poc.bench.runtimes.oci import Oci

    if name == "poc-runtime":
        return Oci(name, own_command(name, "poc.runtime.__main__"))
    return Oci(name, [name])


def _engine(kind: str, name: str, other: str) -> Runtime:
    from poc.bench.runtimes.daemons import Containerd, Docker, Podman

    return Docker(name, other) if kind == "docker" else Podman(name) if kind == "podman" else Containerd(name)


def known(paths: Mapping[str, str]) -> list[Runtime]:
    """All that have a name here, whether they can be used or not."""
    return [find(name, paths) for name in dict.fromkeys((*KNOWN, *paths))]


def choose(names: Sequence[str], paths: Mapping[str, str] | None = None) -> list[Runtime]:
    """Those of these names, each once. Raises Absent for one that is not here, InvalidArgument."""
    found = [find(name, paths) for name in dict.fromkeys(names)]
    reasons = {runtime.name: reason for runtime in found if (reason := runtime.absent())}
    if reasons:
        told = [reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in reasons.items()]
        raise Absent("; ".join(told))
    return found
