"""How this very poc is called as a program."""

from __future__ import annotations

import sys

_START = "import sys; sys.path[:] = {path!r}; sys.argv[0] = {name!r}; from {module} import main; main()"


def own_command(name: str = "poc", module: str = "poc.__main__") -> list[str]:
    """Without what `site` would cost, as the launchers do it."""
    code = _START.format(path=[path for path in sys.path if path], name=name, module=module)
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", code]
