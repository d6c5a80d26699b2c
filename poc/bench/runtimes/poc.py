"""poc itself, through its command line: `poc`, or `poc:RUNTIME` with another OCI runtime below it."""

from __future__ import annotations

import poc
from poc.bench.command import own_command
from poc.bench.runtimes.base import Engine
from poc.engine import Engine as Store
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.image import Image
    from poc.bench.workspace import Workspace

_REMOVE_ALL = '"$@" ps -aq | xargs -r "$@" rm -f'


class Poc(Engine):
    """In a store of its own, inside the workspace."""

    def __init__(self, name: str, runtime: str = "") -> None:
        super().__init__(name, "poc")
        self.runtime = runtime
        if runtime:
            self.options = [*self.options, f"--runtime={runtime}"]

    def absent(self) -> str:
        if not self.runtime:
            return ""
        from poc.engine import foreign

        try:
            foreign.choose(self.runtime)
        except PocError as error:
            return str(error)
        return ""

    def _joined(self, name: str) -> str:
        return "bridge"

    def version(self) -> str:
        return f"poc {poc.__version__}" + (f" with {self.runtime}" if self.runtime else "")

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        root = workspace.directory("poc")
        self.command = [*own_command(), "--root", root]
        workspace.undo("sh", "-c", _REMOVE_ALL, "-", *self.command)
        Store(root).images.store.add_tar(image.tar, self.reference, {"Cmd": ["sh"]})
