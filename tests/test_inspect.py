"""`poc inspect` of containers, images and networks: docker's keys, its templates, its order, its errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CommandLine, needs

from poc.errors import NotFound

if TYPE_CHECKING:
    import poc

pytestmark = needs("root", "overlay")
ALONE = ("--network", "none")

# What tools ask of docker's container object.
CONTAINER_KEYS = {
    "": "Id Created Path Args State Image LogPath Name RestartCount Driver Platform HostConfig GraphDriver Mounts"
    " Config NetworkSettings HostnamePath HostsPath ResolvConfPath ExecIDs AppArmorProfile",
    "State": "Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt FinishedAt",
    "Config": "Hostname Domainname User AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce Env Cmd Image"
    " Volumes WorkingDir Entrypoint OnBuild Labels",
    "HostConfig": "Binds LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumesFrom CapAdd CapDrop"
    " CgroupnsMode Dns IpcMode OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt UTSMode"
    " ShmSize Runtime Memory NanoCpus CpuShares CpusetCpus MemorySwap MemoryReservation PidsLimit Ulimits Devices",
    "NetworkSettings": "Bridge SandboxID SandboxKey Ports EndpointID Gateway IPAddress IPPrefixLen MacAddress Networks",
    "GraphDriver": "Name Data",
}
ENDPOINT_KEYS = (
    "IPAMConfig Links Aliases NetworkID EndpointID Gateway IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address"
    " GlobalIPv6PrefixLen MacAddress DriverOpts"
)
IMAGE_KEYS = (
    "Id RepoTags RepoDigests Parent Comment Created DockerVersion Author Config Architecture Os Size GraphDriver RootFS"
    " Metadata"
)


def inspected(cli: CommandLine, *words: str) -> Any:
    result = cli(*words)
    assert result[1:] == ("", 0)
    [found] = json.loads(result.stdout)
    return found


def test_a_container_has_dockers_keys(cli: CommandLine) -> None:
    cli("create", "--name", "box", "-l", "a=b", *ALONE, "busybox", "echo", "hi")
    found = inspected(cli, "inspect", "box")
    for part, keys in CONTAINER_KEYS.items():
        assert set(keys.split()) <= set(found[part] if part else found), part
    assert set(ENDPOINT_KEYS.split()) == set(found["NetworkSettings"]["Networks"]["none"])
    assert (found["Name"], found["Path"], found["Args"]) == ("/box", "echo", ["hi"])
    assert found == inspected(cli, "container", "inspect", "box")
    assert found == inspected(cli, "inspect", "--type=container", "box")


def test_an_image_has_dockers_keys(cli: CommandLine, engine: poc.Engine) -> None:
    found = inspected(cli, "image", "inspect", "busybox")
    image = engine.images.get("busybox")
    assert set(IMAGE_KEYS.split()) <= set(found)
    assert (found["Id"], found["RepoTags"], found["Size"]) == (image.id, ["busybox:latest"], image.size)
    assert found["Config"]["Cmd"] == ["sh"] and found["Config"]["Labels"] is None
    [layer] = found["RootFS"]["Layers"]
    assert layer.removeprefix("sha256:") in found["GraphDriver"]["Data"]["UpperDir"]
    assert found == inspected(cli, "inspect", "--type=image", "busybox") == inspected(cli, "inspect", image.id[7:19])
    assert cli("image", "inspect", "busybox", "--format", "{{.Size}} {{.Architecture}} {{.Os}}").stdout == (
        f"{image.size} {image.architecture} linux\n"
    )
    assert (
        cli("image", "inspect", "-f", "{{.Config.Entrypoint}}{{.Config.Labels.x}}", "busybox").stdout
        == "[]<no value>\n"
    )


def test_what_tools_ask_of_containers(cli: CommandLine) -> None:
    cli("run", "--name", "box", "-e", "A=b c", "-l", "k=v", "-l", "com.x.y=z", *ALONE, "busybox", "sh", "-c", "exit 3")
    for template, text in (
        ("{{.State.ExitCode}}", "3"),
        ("{{.State.Status}} {{.State.Running}}", "exited false"),
        ("{{json .State.Health}}", "null"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ('{{.Config.Labels.k}} {{index .Config.Labels "com.x.y"}} {{index .Config.Labels "no"}}|', "v z |"),
        ("{{.Config.Labels.no}}", "<no value>"),
        ('{{range .Config.Env}}{{if eq . "A=b c"}}{{println .}}{{end}}{{end}}', "A=b c\n"),
        ("{{range $name, $n := .NetworkSettings.Networks}}{{$name}}:{{$n.IPAddress}}{{end}}", "none:"),
        ("{{slice .Name 1}}", "box"),
        ('{{printf "%.4s" .Id | len}}', "4"),
        ("{{.Config.Entrypoint}} {{json .Config.Entrypoint}} {{.HostConfig.Binds}}", "[] null []"),
        ("{{.SizeRw}}", "<nil>"),
        (r"{{.Name}}\n", r"/box\n"),
    ):
        assert cli("inspect", f"--format={template}", "box") == (f"{text}\n", "", 0), template


def test_templates_that_fail(cli: CommandLine) -> None:
    cli("create", "--name", "box", *ALONE, "busybox")
    missing = cli("inspect", "-f", "{{.Nope.More}}", "box")
    at = 'template: :1:2: executing "" at <.Nope.More>: map has no entry for key "Nope"'
    assert missing == ("\n", f"Error: template parsing error: {at}\n", 1)
    nil = cli("inspect", "-f", "{{.State.Health.Status}}", "box")
    assert nil.exit_code == 1 and "nil pointer evaluating" in nil.stderr
    assert cli("inspect", "-f", "{{.Id", "box") == (
        "",
        "Error: template parsing error: template: :1: unclosed action\n",
        64,
    )
    assert cli("inspect", "-f", "{{nosuch .Id}}", "box").exit_code == 64


def test_several_of_any_kind(cli: CommandLine) -> None:
    cli("create", "--name", "box", *ALONE, "busybox")
    result = cli("inspect", "-f", "{{if .RepoTags}}image{{else}}{{.Name}}{{end}}", "busybox", "nosuch")
    assert result == ("image\n", "Error: No such object: nosuch\n", 1)
    both = cli("inspect", "box", "busybox", "bridge", "nosuch")
    assert [entry.get("Name", "image") for entry in json.loads(both.stdout)] == ["/box", "image", "bridge"]
    assert (both.stderr, both.exit_code) == ("Error: No such object: nosuch\n", 1)
    assert cli("inspect", "nosuch")[:3] == ("[]\n", "Error: No such object: nosuch\n", 1)
    assert cli("inspect", "--type", "image", "box").exit_code == 1
    wrong = cli("inspect", "--type", "node", "box")
    assert wrong.exit_code == 1 and "--type" in wrong.stderr
    lines = cli("inspect", "--format", "json", "box", "busybox").stdout.splitlines()
    assert [type(json.loads(line)) for line in lines] == [dict, dict]


def test_a_name_is_a_containers_first(cli: CommandLine) -> None:
    cli("create", "--name", "busybox", *ALONE, "busybox")
    assert inspected(cli, "inspect", "busybox")["Name"] == "/busybox"
    assert inspected(cli, "inspect", "--type", "image", "busybox")["RepoTags"] == ["busybox:latest"]


def test_sizes_on_request(cli: CommandLine, engine: poc.Engine) -> None:
    cli("run", "--name", "box", *ALONE, "busybox", "sh", "-c", "head -c 70000 /dev/zero >/x")
    found = inspected(cli, "inspect", "-s", "box")
    assert (found["SizeRw"], found["SizeRootFs"]) == (70_000, 70_000 + engine.images.get("busybox").size)
    assert "SizeRw" not in inspected(cli, "inspect", "box")
    assert cli("container", "inspect", "--size", "-f", "{{.SizeRw}}", "box").stdout == "70000\n"


def test_the_library_inspects(engine: poc.Engine) -> None:
    container = engine.containers.create("busybox", name="box", network="none")
    assert engine.inspect("box") == container.attrs
    assert engine.inspect("busybox") == engine.images.get("busybox").attrs
    assert engine.inspect("bridge", type="network") == engine.networks.get("bridge").attrs
    with pytest.raises(NotFound, match="No such object: nosuch"):
        engine.inspect("nosuch")
    with pytest.raises(NotFound):
        engine.inspect("busybox", type="container")
