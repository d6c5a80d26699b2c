"""The layers of poc (the table in the design): imports go down only.

Counted are the imports that run, inside functions too: one under ``if TYPE_CHECKING:`` binds nothing at run time.
"""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

from conftest import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

# A part of poc is a module or a package right under it. From the bottom up; __init__ is the public API.
LAYERS = (
    ("errors", "_libc", "_fs", "_lean", "_processes"),
    ("namespaces", "cgroups", "rootfs", "net"),
    ("oci",),
    ("runtime",),
    ("images",),
    ("engine",),
    ("__init__",),
    ("cli", "bench"),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
GROUND, MECHANISMS = LAYERS[0], LAYERS[1]

# Parts of one layer do not know each other, but for these.
BESIDE = {(a, b) for a in GROUND for b in GROUND} | {("net", "namespaces"), ("cli", "bench")}
# What a layer must not know although it lies below.
KERNEL = (*MECHANISMS, "runtime", "_libc", "ctypes")
FRONT_ONLY = ("click", "tabulate", "rich")
MUST_NOT_KNOW = {
    "cli": KERNEL,
    "bench": (*KERNEL, *FRONT_ONLY[:1]),
    "engine": FRONT_ONLY,
    "images": ("runtime", "oci", *FRONT_ONLY),
    "runtime": ("pyroute2", *FRONT_ONLY),
    "oci": (*MECHANISMS, "ctypes"),
}


def test_every_part_has_its_layer() -> None:
    assert {part for part, _ in _modules()} <= LEVEL.keys()


def test_imports_go_down_only() -> None:
    offences = [
        f"{os.path.relpath(path, CHECKOUT)}:{line} imports {target}"
        for part, path in _modules()
        for line, target in _imports(path)
        if not _may(part, target)
    ]
    assert offences == []


def test_offences_are_seen(tmp_path: object) -> None:
    """The reader of imports finds each way to write one, and leaves out what is for the type checker only."""
    path = os.path.join(str(tmp_path), "module.py")
    with open(path, "w") as file:
        file.write(
            "import os, poc.engine\n"
            "from poc import errors, images\n"
            "from poc.net.bridge import Bridge\n"
            "def f():\n    from poc.cli import main\n    __import__('poc.runtime.init')\n"
            "    import importlib; importlib.import_module('poc.oci')\n"
            "if TYPE_CHECKING:\n    from poc.cgroups import Cgroup\nelse:\n    import ctypes\n"
        )
    assert sorted(target for _, target in _imports(path)) == sorted(
        ["os", "engine", "errors", "images", "net", "cli", "runtime", "importlib", "oci", "ctypes"]
    )
    assert _may("engine", "images") and not _may("images", "engine")
    assert _may("net", "namespaces") and not _may("cgroups", "rootfs")
    assert not _may("engine", "click") and not _may("cli", "_libc")


def _may(part: str, target: str) -> bool:
    if target in MUST_NOT_KNOW.get(part, ()):
        return False
    if target not in LEVEL or target == part:
        return True  # from elsewhere, or of its own
    return LEVEL[target] < LEVEL[part] or (part, target) in BESIDE


def _modules() -> Iterator[tuple[str, str]]:
    """Each module's part of poc, and its file."""
    root = os.path.join(CHECKOUT, "poc")
    for directory, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                yield os.path.relpath(path, root).split(os.sep)[0].removesuffix(".py"), path


def _imports(path: str) -> Iterator[tuple[int, str]]:
    """The line and the part of poc, or the foreign package, of each import that runs."""
    with open(path) as file:
        tree = ast.parse(file.read(), path)
    for node in _running(tree):
        for name in _names(node):
            parts = name.split(".")
            yield (
                getattr(node, "lineno", 0),
                (parts[1] if len(parts) > 1 else "__init__") if parts[0] == "poc" else parts[0],
            )


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those in the body of ``if TYPE_CHECKING:``."""
    yield node
    checked = node.body if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") else []
    for child in ast.iter_child_nodes(node):
        if child not in checked:
            yield from _running(child)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        for alias in node.names:
            yield f"poc.{alias.name}" if node.module == "poc" and alias.name in LEVEL else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
        literal = node.args[0] if node.args else None
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            yield literal.value
