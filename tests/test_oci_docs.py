"""docs/oci.md says what is true: its tables against the code, both ways."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CHECKOUT, needs
from oci_examples import EXAMPLES, merge

from poc import rootfs as root_file_system
from poc.cgroups.hierarchies import Hierarchies
from poc.cgroups.settings import plan
from poc.errors import Unsupported
from poc.oci import validate
from poc.runtime import __main__ as command_line
from poc.runtime import commands, report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oci_sandbox import Sandbox

STATES = ("supported", "refused", "ignored")


def _rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    with open(os.path.join(CHECKOUT, "docs", "oci.md")) as file:
        section = re.split(rf"^## {heading}$", file.read(), flags=re.MULTILINE)[1].partition("\n## ")[0]
    lines = [line.strip().strip("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


PROPERTIES = {
    _words(property)[0]: state
    for heading in ("config.json", "config.json: linux")
    for property, state, _ in _rows(heading)
}


OF_EXEC = "/process/execCPUAffinity/"  # which `run` does not read


def _leaves(schema: Any, pointer: str = "") -> Iterator[str]:
    """The pointers of a schema of `poc.oci.validate`, with * for positions and names."""
    if isinstance(schema, list) and isinstance(schema[0], dict):
        schema, pointer = schema[0], f"{pointer}/*"
    if isinstance(schema, dict):
        for name, inner in schema.items():
            yield from _leaves(inner, f"{pointer}/{name.removesuffix('!')}")
    else:
        yield pointer


def _pointers(value: Any, pointer: str = "") -> Iterator[str]:
    """Every pointer into a configuration."""
    yield pointer
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _pointers(item, f"{pointer}/{validate.escape(str(key))}")


def _matches(row: str, pointer: str) -> bool:
    return re.fullmatch(re.escape(row).replace(r"\*", "[^/]+"), pointer) is not None


def test_every_property_has_a_row() -> None:
    assert set(PROPERTIES.values()) == set(STATES)
    known = {pointer for pointer in _leaves(validate._SPEC) if pointer != "/linux/seccomp/*"}
    assert known - PROPERTIES.keys() == set()
    beyond = {row for row in PROPERTIES.keys() - known if not row.startswith("/linux/seccomp/")}
    assert {PROPERTIES[row] for row in beyond} <= {"ignored"}, beyond


def _refused(config: Any) -> str:
    """Why a configuration is refused wherever it is run, "" when it is not."""
    try:
        validate.check(json.loads(json.dumps(config)))
        why = [_refused_on(hierarchies, config) for hierarchies in HOSTS]
        return why[0] if all(why) else ""
    except Unsupported as error:
        return str(error)


def _refused_on(hierarchies: Hierarchies, config: Any) -> str:
    try:
        plan(config["linux"].get("resources", {}), hierarchies)
        return ""
    except Unsupported as error:
        return str(error)


_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma", "devices")
HOSTS = (
    Hierarchies({name: f"/nowhere/{name}" for name in _CONTROLLERS}, "/nowhere/unified", ()),
    Hierarchies({}, "/nowhere", ("cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma")),
)


def test_refused_properties() -> None:
    """Each for itself, and nothing else is."""
    refused = [config for config in map(merge, EXAMPLES) if _refused(config)]
    for row, state in PROPERTIES.items():
        using = [config for config in map(merge, EXAMPLES) if any(_matches(row, p) for p in _pointers(config))]
        assert using, f"tests/oci_examples.py has no example of {row}"
        assert (state == "refused") == all(config in refused for config in using), f"{row} is not {state}"


@needs("root", "overlay", "program:busybox")
@pytest.mark.timeout(180)
def test_supported_properties_are_read(sandbox: Sandbox) -> None:
    """Of what is run, poc reads all that docs/oci.md calls supported, and nothing that it calls ignored."""
    read = set()
    for config in map(merge, EXAMPLES):
        if not _refused(config):
            read |= set(sandbox.run(json.dumps(config).encode()).read)
    for row, state in PROPERTIES.items():
        # Of annotations and the like all is read at once.
        if row.startswith(OF_EXEC):
            continue
        found = any(_matches(row, pointer) or _matches(row.removesuffix("/*"), pointer) for pointer in read)
        assert state == "refused" or found == (state == "supported"), f"{row} is {state}, and read: {found}"


def test_mount_options() -> None:
    named = [option for options, _ in _rows("Mount options") for option in _words(options)]
    assert sorted(named) == sorted(root_file_system.OPTIONS) == report.features()["mountOptions"]


def test_namespaces() -> None:
    rows = _rows("Namespaces")
    assert tuple(_words(row[0])[0] for row in rows) == validate.NAMESPACES
    mapping = [{"containerID": 0, "hostID": 1, "size": 1}]
    for cell, *states in rows:
        for state, path in zip(states, ("", "/proc/self/ns/x"), strict=True):
            config = merge({})
            others = [entry for entry in config["linux"]["namespaces"] if entry["type"] != _words(cell)[0]]
            config["linux"]["namespaces"] = [*others, {"type": _words(cell)[0], "path": path}]
            if cell == "`user`" and not path:
                config["linux"].update(uidMappings=mapping, gidMappings=mapping)
            assert bool(_refused(config)) == (state == "refused"), (cell, path)


def test_hooks() -> None:
    assert tuple(_words(row[0])[0] for row in _rows("Hooks")) == validate.HOOKS


# ── the command line ──


def _options() -> dict[tuple[str, str], str]:
    """(command, option): state, as the table has them; the command is "" for what comes before it."""
    table: dict[tuple[str, str], str] = {}
    for named, options, state, _ in _rows("Command line"):
        for command in _words(named) or [""]:
            table.update(((command, option), state) for option in _words(options) or [""])
    return table


def test_every_option_has_a_row() -> None:
    known = {("", name) for name in command_line._GLOBAL}
    for name, (_, command) in command_line._COMMANDS.items():
        known |= {(name, option) for option in command.options or [""]}
    assert known == _options().keys()


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is refused says so; of the others those that are supported are read by somebody."""
    monkeypatch.chdir(tmp_path)
    kinds = {"flag": "", "number": "=1"}
    supported = {option for (_, option), state in _options().items() if state == "supported"}
    for (command, option), state in _options().items():
        if not option.startswith("--"):
            continue
        table = command_line._COMMANDS[command][1].options if command else command_line._GLOBAL
        word = option + kinds.get(table[option], "=json")
        words = [command, word, "nobody"] if command else [word, "state", "nobody"]
        if command == "spec":
            words = [command, "--bundle", str(tmp_path), word]
        monkeypatch.setattr(sys, "argv", ["poc-runtime", "--root", str(tmp_path), *words])
        command_line.carry_out()
        error = capsys.readouterr().err
        refused = error.startswith(f"poc-runtime: {option}: ") and "systemd does not run here" not in error
        assert refused == (state == "refused"), (command, option, error)
        if state != "refused":
            assert _is_known(option.removeprefix("--")) == (option in supported), (command, option)


def _is_known(name: str) -> bool:
    """Does a command read this option's value?"""
    reads = (f'options.get("{name}"', f'options["{name}"]', f'"{name}" in options')
    return name in commands.UPDATE or any(read in text for text in _SOURCES for read in reads)


_SOURCES = [inspect.getsource(module) for module in (command_line, commands)]
