"""OCI runtimes alone: the same bundle for each, and nobody above them, so neither images nor logs."""

from __future__ import annotations

import json
import os
import shutil

from poc.bench.image import PATH
from poc.bench.runtimes.base import ALL, LOGS, Limits, Runtime, first_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.bench.image import Image
    from poc.bench.workspace import Workspace

_DELETE_ALL = 'for id in $("$@" list -q); do "$@" delete --force "$id"; done'


class Oci(Runtime):
    """Whoever has runc's command line; ``command`` is how it is called."""

    can = ALL - {LOGS}

    def __init__(self, name: str, command: Sequence[str]) -> None:
        super().__init__(name)
        self.command = list(command)

    def absent(self) -> str:
        program = self.command[0]
        if not shutil.which(program):
            return f"{program} is not {'there' if '/' in program else 'installed'}"
        if self._refuses_hybrid and hybrid_mount():
            return f"{self.name} refuses a host with v1 and v2 cgroups mixed (`poc bench` hides the v2 mount from it)"
        return ""

    @property
    def _refuses_hybrid(self) -> bool:
        return os.path.basename(self.command[0]) == "crun"

    @property
    def needs_mounts(self) -> bool:  # type: ignore[override]
        return self._refuses_hybrid and bool(hybrid_mount())

    def version(self) -> str:
        return first_line(*self.command, "--version")

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        self._bundles = workspace.directory(f"bundles-{len(os.listdir(workspace.path))}")
        state = workspace.directory(f"{os.path.basename(self._bundles)}/state")
        self.command = [*self.command, "--root", state]
        workspace.undo("sh", "-c", _DELETE_ALL, "-", *self.command)

    def _bundle(self, command: Sequence[str], limits: Limits | None, network: bool = False) -> tuple[str, str]:
        """A new container's name and bundle."""
        name = self.new_name()
        namespace = self.network.add(name) if network else ""
        path = f"{self._bundles}/{name}"
        os.mkdir(path)
        with open(f"{path}/config.json", "w") as file:
            json.dump(self._configuration(name, command, limits or Limits(), namespace), file)
        return name, path

    def _configuration(self, name: str, command: Sequence[str], limits: Limits, namespace: str) -> dict[str, Any]:
        from poc.oci import defaults, generate

        process = generate.process(command, [f"PATH={PATH}"], capabilities=_available(defaults.CAPABILITIES))
        cgroup = f"/{self.workspace.tag}/{name}"
        spec = generate.spec(process, self.image.rootfs, "bench", cgroup, limits.resources())
        if namespace:
            own = next(one for one in spec["linux"]["namespaces"] if one["type"] == "network")
            own["path"] = namespace
        return {**spec, "ociVersion": "1.0.2"}  # crun 1.8 refuses later ones

    def run(self, command: Sequence[str], limits: Limits | None = None) -> str:
        name, bundle = self._bundle(command, limits)
        return self.call(*self.command, "run", "--bundle", bundle, name)

    def create(self, command: Sequence[str], limits: Limits | None = None, network: bool = False) -> str:
        name, bundle = self._bundle(command, limits, network)
        self.call(*self.command, "create", "--bundle", bundle, name)
        return name

    def start(self, name: str) -> None:
        self.call(*self.command, "start", name)

    def exec(self, name: str, command: Sequence[str]) -> str:
        return self.call(*self.command, "exec", name, *command)

    def pause(self, name: str) -> None:
        self.call(*self.command, "pause", name)

    def unpause(self, name: str) -> None:
        self.call(*self.command, "resume", name)

    def update(self, name: str, limits: Limits) -> None:
        cpu = limits.resources()["cpu"]
        self.call(*self.command, "update", f"--cpu-quota={cpu['quota']}", f"--cpu-period={cpu['period']}", name)

    def destroy(self, name: str) -> None:
        self.call(*self.command, "delete", "--force", name)
        self.network.remove(name)


def _available(names: Sequence[str]) -> list[str]:
    """Those that this host can give: some runtimes fail over the others."""
    from poc.oci.defaults import ALL_CAPABILITIES

    with open("/proc/self/status") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
    return [name for name in names if held >> ALL_CAPABILITIES.index(name) & 1]


def hybrid_mount() -> str:
    """Where cgroup v2 is mounted beside v1; "" where there is only one of them."""
    with open("/proc/self/mounts") as file:
        mounted = [line.split()[1:3] for line in file]
    kinds = {kind: path for path, kind in mounted}
    return kinds["cgroup2"] if {"cgroup", "cgroup2"} <= kinds.keys() else ""
