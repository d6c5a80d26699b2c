"""poc itself, through its command line: `poc`, or `poc:RUNTIME` with another OCI runtime below it."""

from __future__ import annotations

import sys

import poc
from poc.bench.runtimes.base import Engine
from poc.engine import Engine as Store
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.image import Image
    from poc.bench.workspace import Workspace

_REMOVE_ALL = '"$@" ps -aq | xargs -r "$@" rm -f'
_START = "import sys; sys.path[:] = {path!r}; sys.argv[0] = {name!r}; from {module} import main; main()"


def own_command(name: str = "poc", module: str = "poc.__main__") -> list[str]:
    """How this very poc is called as a program, without what `site` would cost, as the launchers do it."""
    code = _START.format(path=[path for path in sys.path if path], name=name, module=module)
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", code]


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

    def version(self) -> str:
        return f"poc {poc.__version__}" + (f" with {self.runtime}" if self.runtime else "")

    def prepare(self, workspace: Workspace, image: Image) -> None:
        super().prepare(workspace, image)
        root = workspace.directory("poc")
        self.command = [*own_command(), "--root", root]
        workspace.undo("sh", "-c", _REMOVE_ALL, "-", *self.command)
        Store(root).images.store.add_tar(image.tar, self.reference, {"Cmd": ["sh"]})
