"""Control groups: a container's limits, on cgroup v1, on v2, and on hosts that mix the two.

One `Cgroup` is the same path in every hierarchy that is mounted. What a limit means in files is a pure
`plan` of (controller, file, value); `Cgroup.apply` writes it. What this host can't enforce is refused.

    host()                       hierarchies   which hierarchies there are, and what they can do
    plan(resources, host())      settings      OCI resources in, settings out
    Cgroup("poc/<id>")           group         mkdir, write, kill, rmdir
    group.allow_devices(rules)   devices       v1's devices.allow, v2's eBPF program
    Scope("a.slice/b-c.scope")   systemd       the same as a scope of systemd's; imported only when asked for

The order in which a process gets in, for a process that starts others (`poc.runtime`):

    group.create(); group.apply(resources)
    clone3(CLONE_INTO_CGROUP, cgroup=group.fd())     v2: the child is born inside
    in the child: group.join(unified=False)          v1: a process that moves itself waits for nobody
    in the child: unshare(CLONE_NEWCGROUP)           only now: the namespace's root is where the caller is

`CLONE_NEWCGROUP` in the clone itself would make the parent's group the root, CLONE_INTO_CGROUP or not.

Not here: docker's flags and their limits (`poc.engine`), and moving processes that aren't yours.
Sources: cgroups(7), the kernel's admin-guide/cgroup-v1/ and admin-guide/cgroup-v2.rst, and config-linux.md
of the OCI runtime specification.
"""

from __future__ import annotations

from poc.cgroups.group import Cgroup, claim
from poc.cgroups.hierarchies import Hierarchies, host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.cgroups.settings import Setting, plan

__all__ = ["Cgroup", "Hierarchies", "Setting", "claim", "host", "plan"]


def __getattr__(name: str) -> Any:
    """`plan` and `Setting` are loaded by whoever sets a limit, not by all who only look at a group or remove it."""
    if name not in ("Setting", "plan"):
        raise AttributeError(f"module 'poc.cgroups' has no attribute {name!r}")
    from poc.cgroups import settings

    return getattr(settings, name)
