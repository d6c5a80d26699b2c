"""Several commands at once on the same thing: one wins, the others say why they did not, and nothing is left."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import IMAGE_CONFIG, CommandLine, needs
from faults import MarkedCommandLine, await_nothing, leftovers

import poc
from poc.images.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(300)]

Ends = list[tuple[int, str, str]]  # exit code, stdout, stderr


@pytest.fixture
def cli(engine: poc.Engine, engine_root: str) -> CommandLine:
    return MarkedCommandLine(engine_root)


def at_once(cli: CommandLine, commands: Iterable[Sequence[str]]) -> Ends:
    """Start all of these commands, and wait for all."""
    started = [cli.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for words in commands]
    try:
        return [_end(command) for command in started]
    finally:
        for command in started:
            command.kill()
            command.wait()


def _end(command: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    stdout, stderr = command.communicate(timeout=100)
    return command.returncode, stdout.decode(), stderr.decode()


def test_one_name(engine: poc.Engine, cli: CommandLine) -> None:
    """Ten want it, one gets it, whatever was left of it before; then ten want to take it away."""
    for verb in (("create",), ("run", "-d", "--network", "none")):
        ends = at_once(cli, [(*verb, "--name", "wanted", "busybox", "sleep", "60")] * 10)
        assert sorted(code for code, _, _ in ends) == [0, *[125] * 9], ends
        assert all("'wanted' is in use" in said for code, _, said in ends if code), ends
        assert [container.name for container in engine.containers.list(all=True)] == ["wanted"]

        ends = at_once(cli, [("rm", "wanted")] * 5 if verb == ("create",) else [("rm", "-f", "wanted")] * 5)
        codes = sorted(code for code, _, _ in ends)
        assert codes == ([0, 1, 1, 1, 1] if verb == ("create",) else [0] * 5), ends
        assert all("no such container" in said for code, _, said in ends if code), ends
        await_nothing(lambda: leftovers(engine))


def test_one_start(engine: poc.Engine, cli: CommandLine) -> None:
    for network in ("none", "bridge"):
        container = engine.containers.create("busybox", ["sleep", "60"], name="one", network=network)
        assert at_once(cli, [("start", "one")] * 5) == [(0, "one\n", "")] * 5
        assert at_once(cli, [("stop", "-t", "0", "one")] * 3) == [(0, "one\n", "")] * 3
        assert (container.status, container.wait()) == ("exited", 137)
        container.remove()


def test_listing_beside_runs(engine: poc.Engine, cli: CommandLine) -> None:
    """`ps` shows each container as it is, and fails for none that comes or goes."""
    runs = [("run", "--rm", "--network", "none", "busybox", "true")] * 12
    ends = at_once(cli, [command for run in runs for command in (run, ("ps", "-a", "--format", "json"))])
    assert all((code, said) == (0, "") for code, _, said in ends), ends
    states = [json.loads(line)["State"] for _, shown, _ in ends for line in shown.splitlines()]
    assert set(states) <= {"created", "running", "exited"}
    await_nothing(lambda: leftovers(engine))


def test_prune_beside_runs(engine: poc.Engine, cli: CommandLine) -> None:
    """A container lives until a prune finds it, and ends then; it never lacks what the prune took away."""
    for network in ("none", "bridge"):
        run = ("run", "--rm", "--network", network, "busybox", "sh", "-c", "echo well")
        ends = at_once(cli, [run, run, ("prune", "-f"), run, run, ("prune", "-f"), run, run])
        for code, shown, said in ends:
            assert (code, said) == (0, "") or (code, said) == (137, ""), ends
            assert code or shown == "well\n" or "container" in shown or shown == "" or "network" in shown, ends
    assert cli("prune", "-f").exit_code == 0
    await_nothing(lambda: leftovers(engine))
    assert [image.references for image in engine.images.list()] == [["busybox:latest"]]


def test_rmi_beside_runs(engine: poc.Engine, cli: CommandLine) -> None:
    """The image stays while it is used; a run that comes too late says that it is gone."""
    commands = [("run", "--rm", "--network", "none", "passing", "true"), ("rmi", "passing")]
    for _ in range(3):
        engine.images.tag("busybox", "passing")
        for code, _, said in at_once(cli, commands * 3):
            assert code == 0 or "no such image" in said or "is used by container" in said, said
    await_nothing(lambda: leftovers(engine))


def test_two_inits(own_network: None, run_directory: str, image_tar: str) -> None:
    """Both make the same image, one bridge."""
    root = f"{run_directory}/two"
    cli = MarkedCommandLine(root)
    try:
        ends = at_once(cli, [("init", "--from", "tar", image_tar)] * 2)
        assert [code for code, _, _ in ends] == [0, 0], ends
        assert len(poc.Engine(root).images.list()) == 1
        assert cli("run", "--rm", "ubuntu", "echo", "well").stdout == "well\n"
    finally:
        assert cli("prune", "--force", "--images").exit_code == 0


def test_stores_side_by_side(own_network: None, tmp_path: Path, image_tar: str) -> None:
    """Each has its own containers, bridge and addresses, under the same names."""
    roots = [str(tmp_path / name) for name in "abc"]
    for root in roots:
        Store(root).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    clis = [MarkedCommandLine(root) for root in roots]
    try:
        run = ("run", "--name", "same", "busybox", "hostname", "-i")
        started = [cli.start(*run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for cli in clis * 2]
        ends = [_end(command) for command in started]
        assert sorted(code for code, _, _ in ends) == [0, 0, 0, 125, 125, 125], ends
        subnets = {address.rpartition(".")[0].rpartition(".")[0] for code, address, _ in ends if code == 0}
        assert len(subnets) == 3
    finally:
        for cli in clis:
            assert cli("prune", "--force", "--images").exit_code == 0
