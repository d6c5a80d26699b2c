"""Listings: which containers ps shows and what it says of them, ports, images, networks; docker's words and rules."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CHECKOUT, CommandLine, Terminal, needs

from poc.cli import ports
from poc.cli.commands.ps import row, status
from poc.engine.filters import matches, parse_filters, resolve
from poc.errors import InvalidArgument

if TYPE_CHECKING:
    import poc

CONTAINER: dict[str, Any] = {
    "Id": "0123456789ab" + "c" * 52,
    "Name": "/web-1",
    "Created": "2024-05-01T12:00:00.000000000Z",
    "Path": "nginx",
    "Args": ["-g", "daemon off;"],
    "Image": "sha256:feed",
    "Config": {
        "Image": "ubuntu",
        "Labels": {"tier": "front", "com.example.my-app": "x", "empty": ""},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    },
    "State": {"Status": "exited", "ExitCode": 137, "Running": False, "Paused": False, "Restarting": False,
              "FinishedAt": "2024-05-01T12:00:00Z", "StartedAt": "2024-05-01T12:00:00Z"},
    "Mounts": [
        {"Type": "volume", "Name": "data", "Driver": "local", "Source": "/v/data", "Destination": "/var/lib/data"},
        {"Type": "bind", "Source": "/srv/a-long-directory", "Destination": "/srv"},
    ],
    "NetworkSettings": {
        "Networks": {"front": {"NetworkID": "abcd"}},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([], True),
        (["name=web"], True),
        (["name=^web-1$"], True),
        (["name=^/web-1$"], True),
        (["name=^eb"], False),
        (["name=nothing", "name=1$"], True),
        (["name=web", "id=^ffff"], False),
        (["id=^0123"], True),
        (["label=tier"], True),
        (["label=tier=front", "label=empty"], True),
        (["label=tier=front", "label=other"], False),
        (["label=tier=back"], False),
        (["status=exited"], True),
        (["status=running", "status=created"], False),
        (["exited=137"], True),
        (["exited=0"], False),
        (["ancestor=ubuntu"], True),
        (["ancestor=debian:12"], True),
        (["ancestor=alpine"], False),
        (["before=young"], True),
        (["before=old"], False),
        (["since=old"], True),
        (["since=young"], False),
        (["volume=data"], True),
        (["volume=/var/lib/data"], True),
        (["volume=/srv/a-long-directory"], True),
        (["volume=/srv"], True),
        (["volume=other"], False),
        (["network=front"], True),
        (["network=abcd"], True),
        (["network=back"], False),
        (["publish=80"], True),
        (["publish=70-90/tcp"], True),
        (["publish=80/udp"], False),
        (["publish=53/udp"], False),
        (["expose=53/udp"], True),
        (["expose=50-60/udp"], True),
        (["expose=443"], False),
        (["health=none"], True),
        (["health=healthy"], False),
        (["is-task=true"], False),
        (["is-task=false"], True),
    ],
)
def test_filters(texts: list[str], shown: bool) -> None:
    images = {"debian:12": "sha256:feed"}
    created = {"young": "2024-05-01T12:00:00.000000001Z", "old": "2024-05-01T11:59:59.999999999Z"}
    wanted = resolve(parse_filters(texts), images.get, created.__getitem__)
    assert matches(CONTAINER, wanted) is shown


@pytest.mark.parametrize(
    "text",
    [
        *("name", "color=red", "status=gone", "exited=x", "name=(", "health=ill", "is-task=perhaps", "publish=http"),
        *("expose=90-80", "publish=80/icmp", "expose=70000"),
    ],
)
def test_a_filter_nothing_can_match_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--filter"):
        parse_filters([text])


def test_filters_as_the_library_takes_them() -> None:
    assert parse_filters({"status": "exited", "label": ["a", "b=c"]}) == {"status": ["exited"], "label": ["a", "b=c"]}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({}, ""),
        (None, ""),
        ({"80/tcp": None, "53/udp": None}, "53/udp, 80/tcp"),
        ({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}, "0.0.0.0:8080->80/tcp"),
        ({"80/tcp": [{"HostIp": "", "HostPort": "80"}], "81/tcp": [{"HostIp": "", "HostPort": "81"}]},
         "0.0.0.0:80-81->80-81/tcp"),
        ({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}, {"HostIp": "::1", "HostPort": "80"}]},
         "127.0.0.1:80->80/tcp, [::1]:80->80/tcp"),
        ({f"{number}/tcp": None for number in (1, 2, 3, 5)}, "1-3/tcp, 5/tcp"),
    ],
)  # fmt: skip
def test_ports_are_worded_as_docker_words_them(found: Any, text: str) -> None:
    assert ports.displayed(found) == text


def test_published_ports() -> None:
    found: Any = {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "1/udp": None,
    }
    assert ports.published(found) == [("80/tcp", "0.0.0.0:8080"), ("80/tcp", "[::]:8080")]
    assert ports.published(found, "1/udp") == []


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"Status": "created"}, "Created"),
        ({"Status": "running", "Running": True}, "Up 5 minutes"),
        ({"Status": "paused", "Running": True, "Paused": True}, "Up 5 minutes (Paused)"),
        ({"Status": "running", "Running": True, "Health": {"Status": "healthy"}}, "Up 5 minutes (healthy)"),
        ({"Status": "running", "Running": True, "Health": {"Status": "starting"}}, "Up 5 minutes (health: starting)"),
        ({"Status": "running", "Running": True, "Health": {"Status": "none"}}, "Up 5 minutes"),
        ({"Status": "exited", "ExitCode": 137}, "Exited (137) 5 minutes ago"),
        ({"Status": "restarting", "Restarting": True, "Running": True, "ExitCode": 1}, "Restarting (1) 5 minutes ago"),
    ],
)
def test_states_are_worded_as_docker_words_them(state: dict[str, Any], text: str) -> None:
    then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 300.5))
    times = {"StartedAt": then, "FinishedAt": then}
    assert status({"Running": False, "Paused": False, "Restarting": False, **times, **state}) == text


def test_all_placeholders_of_ps() -> None:
    found = row(CONTAINER)
    assert found.pop("Label")("com.example.my-app") == "x"
    assert found.pop("RunningFor").endswith(" years ago")
    assert found.pop("CreatedAt").startswith("2024-05-01 ")
    assert found.pop("Status").startswith("Exited (137) ")
    assert found == {
        **{"ID": "0123456789ab", "Image": "ubuntu", "Command": '"nginx -g \'daemon of…"', "State": "exited"},
        **{"Ports": "0.0.0.0:8080->80/tcp, 53/udp", "Size": "0B", "Names": "web-1", "Networks": "front"},
        **{"Labels": "com.example.my-app=x,empty=,tier=front", "Mounts": "data,/srv/a-long-di…", "LocalVolumes": "1"},
    }
    full = row(CONTAINER, full=True)
    assert (full["ID"], full["Mounts"]) == (CONTAINER["Id"], "data,/srv/a-long-directory")
    assert full["Command"] == "\"nginx -g 'daemon off;'\""


pytestmark = needs("root", "overlay")
ALONE = ("--network", "none")


def test_ps_formats(cli: CommandLine) -> None:
    cli("create", "--name", "one", "-l", "com.example.my-app=x", *ALONE, "busybox", "true")
    assert cli("ps", "-a", "--format", "{{.Names}}") == ("one\n", "", 0)
    assert cli("ps", "-a", "--format", r'{{.Names}}\t{{.Label "com.example.my-app"}}').stdout == "one\tx\n"
    assert cli("ps", "-a", "--format", r'table {{.Names}}\t{{.Label "com.example.my-app"}}').stdout.splitlines() == [
        "NAMES     MY APP",
        "one       x",
    ]
    row = json.loads(cli("ps", "-a", "--format", "{{json .}}").stdout)
    assert row == json.loads(cli("ps", "-a", "--format", "json").stdout)
    assert row["Names"] == "one" and "Label" not in row
    for format, message in (("{{.Nope}}", 'no entry for key "Nope"'), ("{{.ID", "unclosed action")):
        result = cli("ps", "-a", "--format", format)
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1


def test_ps_filters_by_what_is_there(cli: CommandLine) -> None:
    for name in ("a", "b", "c"):
        cli("create", "--name", f"box-{name}", "-v", "/usr:/srv/usr:ro", "--expose", "80", *ALONE, "busybox")

    def names(*filters: str) -> list[str]:
        return cli(
            "ps", "-a", "--format", "{{.Names}}", *(word for text in filters for word in ("-f", text))
        ).stdout.split()

    assert names("before=box-b") == ["box-a"]
    assert names("since=box-b") == ["box-c"]
    assert names("since=box-a", "before=box-c") == ["box-b"]
    assert names("volume=/srv/usr", "name=a$") == ["box-a"]
    assert names("network=none") == ["box-c", "box-b", "box-a"] and names("network=bridge") == []
    assert names("expose=79-81/tcp", "is-task=false", "name=b$") == ["box-b"]
    assert names("publish=80") == []
    missing = cli("ps", "-a", "-f", "before=nosuch")
    assert missing == ("", "Error: no such container: nosuch\n", 1)
    assert cli("ps", "-n", "1", "--format", "{{.Names}}", "-f", "name=[ab]$").stdout == "box-b\n"


def test_ps_shows_what_was_written(cli: CommandLine, engine: poc.Engine) -> None:
    cli("run", "--name", "writer", *ALONE, "busybox", "sh", "-c", "head -c 5000000 /dev/zero >/five; ln /five /again")
    heading, line = cli("ps", "-as").stdout.splitlines()
    assert re.split("  +", heading)[-1] == "SIZE"
    image = engine.images.get("busybox").size
    assert re.search(r"  5MB \(virtual [\d.]+MB\)$", line)
    assert engine.containers.get("writer").sizes() == (5_000_000, 5_000_000 + image)
    assert cli("ps", "-a", "--format", "{{.Size}}").stdout.startswith("5MB (virtual ")


def test_the_library_lists_by_the_same_filters(engine: poc.Engine) -> None:
    for name, labels in (("x1", {"a": "1"}), ("x2", {"a": "2"})):
        engine.containers.create("busybox", ["true"], name=name, labels=labels, network="none")
    assert [c.name for c in engine.containers.list(all=True, filters={"label": "a=2"})] == ["x2"]
    assert engine.containers.list(filters=["label=a"]) == []
    [(container, attrs)] = engine.containers.look(limit=1)
    assert container.name == "x2" and attrs == container.attrs


def test_port_of_what_publishes_none(cli: CommandLine) -> None:
    cli("create", "--name", "web", "--expose", "80", *ALONE, "busybox")
    assert cli("port", "web") == ("", "", 0)
    assert cli("container", "port", "web", "80") == ("", "Error: no public port '80/tcp' published for web\n", 1)
    assert cli("port", "nosuch").exit_code == 1


def test_networks_are_listed_and_described(cli: CommandLine) -> None:
    rows = [json.loads(line) for line in cli("network", "ls", "--format", "json").stdout.splitlines()]
    assert {row["Name"]: row["Driver"] for row in rows} == {
        **{"bridge": "bridge", "internal": "bridge", "host": "host", "none": "null"},
    }
    assert cli("network", "ls", "-q").stdout.split() == [row["ID"] for row in rows]
    cli("run", "-d", "--name", "on", "busybox", "sleep", "100")
    [network] = json.loads(cli("network", "inspect", "bridge").stdout)
    [container] = json.loads(cli("inspect", "on").stdout)
    settings = container["NetworkSettings"]["Networks"]["bridge"]
    [endpoint] = network["Containers"].values()
    assert network["Id"] == settings["NetworkID"] and network["Id"].startswith(rows[0]["ID"])
    assert network["IPAM"]["Config"][0]["Gateway"] == settings["Gateway"]
    assert endpoint["IPv4Address"] == f"{settings['IPAddress']}/{settings['IPPrefixLen']}"
    address = cli("exec", "on", "ip", "address", "show", "dev", "eth0").stdout
    assert endpoint["MacAddress"] in address and f" {endpoint['IPv4Address']} " in address
    assert cli("network", "inspect", "nosuch") == ("[]\n", "Error: no such network: nosuch\n", 1)


def test_images_filters_and_placeholders(cli: CommandLine, engine: poc.Engine) -> None:
    engine.images.tag("busybox", "team/box:2")
    engine.images.tag("busybox", "team/box:3")

    def names(*words: str) -> set[str]:
        return set(cli("images", "--format", "{{.Repository}}:{{.Tag}}", *words).stdout.split())

    assert names() == {"busybox:latest", "team/box:2", "team/box:3"}
    assert names("busybox") == {"busybox:latest"}
    assert names("team/box") == {"team/box:2", "team/box:3"}
    assert names("team/*:3") == names("-f", "reference=*:3") == {"team/box:3"}
    assert names("-f", "dangling=true") == set() and len(names("-f", "dangling=false")) == 3
    assert names("-f", "label=x") == set() and names("-f", "before=busybox") == set()
    heading = cli("images", "--digests").stdout.splitlines()[0]
    assert re.split("  +", heading)[2] == "DIGEST"
    table = cli("images", "--format", r"table {{.ID}}\t{{.CreatedAt}}", "busybox").stdout.splitlines()
    assert re.split("  +", table[0]) == ["IMAGE ID", "CREATED AT"] and len(table) == 2
    wrong = cli("images", "-f", "colour=red")
    assert wrong.exit_code == 1 and "--filter" in wrong.stderr


def test_volumes_of_containers_are_shown(cli: CommandLine) -> None:
    cli("create", "--name", "holder", "-v", "data:/data", "-v", "/usr:/host:ro", *ALONE, "busybox")
    assert cli("ps", "-a", "--format", "{{.LocalVolumes}} {{.Mounts}}").stdout in ("1 data,/usr\n", "1 /usr,data\n")
    assert cli("ps", "-aq", "-f", "volume=data").stdout != "" and cli("ps", "-aq", "-f", "volume=dat").stdout == ""
    row = cli("volume", "ls", "--format", "{{.Name}} {{.Driver}}").stdout
    assert row == "data local\n"
    assert cli("volume", "inspect", "data", "--format={{.Mountpoint}}").stdout.endswith("/volumes/data/_data\n")


def test_events_take_templates(cli: CommandLine) -> None:
    cli("create", "--name", "told", "-l", "a=b", *ALONE, "busybox")
    words = ("events", "--since", "1h", "--until", "0s", "-f", "container=told", "--format")
    assert cli(*words, "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.a}}").stdout == (
        "container create told b\n"
    )
    assert json.loads(cli(*words, "{{json .}}").stdout)["Actor"]["Attributes"]["name"] == "told"


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("inspect web-", ["web-1"]),
        ("inspect busyb", ["busybox:latest"]),
        ("container inspect web-", ["web-1"]),
        ("image inspect busyb", ["busybox:latest"]),
        ("network inspect b", ["bridge"]),
        ("volume inspect da", ["data-1"]),
        ("volume rm da", ["data-1"]),
        ("port web-", ["web-1"]),
        ("stats web-", ["web-1"]),
        ("images busyb", ["busybox:latest"]),
        ("inspect --type vol", ["volume"]),
        ("system d", ["df", "doctor"]),
        ("container pru", ["prune"]),
    ],
)
def test_names_are_completed(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, line: str, offers: list[str]) -> None:
    cli("create", "--name", "web-1", "-v", "data-1:/data", *ALONE, "busybox")
    monkeypatch.setenv("_POC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"poc --root {cli.root} {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) + 2))
    assert [word.removeprefix("plain,") for word in cli().stdout.split()] == offers


def test_a_long_call_gives_a_sign_of_life(terminal: Terminal) -> None:
    program = (
        "import time; from poc.cli.progress import waiting\nwith waiting('measuring'): time.sleep({})\nprint('done')"
    )
    for seconds, told in ((1.6, True), (0.1, False)):
        command = [sys.executable, "-c", program.format(seconds)]
        with terminal.start(command, cwd=CHECKOUT, env={**os.environ, "TERM": "xterm"}) as process:
            assert (b"measuring" in terminal.read_until(b"done")) is told
            assert process.wait() == 0
