"""`Container.commit` and `poc commit`: an image of what a container has become."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CommandLine, needs, shell

from poc import _fs
from poc.engine.instructions import change
from poc.errors import ContainerError, InvalidArgument

if TYPE_CHECKING:
    import poc
    from poc.engine.container import Container

pytestmark = needs("root", "overlay", "program:busybox")

SCRIPT = (
    "mkdir -p /d/e; echo x >/d/file; ln /d/file /d/hard; chmod 4711 /d/file; chown 7:8 /d/e; mknod /d/node c 1 3; "
    "mkfifo /d/pipe; ln -s ../file /d/e/link; rm /etc/group; echo more >>/etc/passwd; rm -r /home; mkdir /home; "
    "echo new >/home/new; truncate -s 3145728 /d/sparse; chmod 700 /root; touch -d '2001-02-03 04:05:06' /d/e"
)
LOOK = (
    "cat /d/hard; stat -c '%h %a %i' /d/file | sed 's/ [0-9]*$//'; stat -c '%u:%g %Y' /d/e; stat -c '%t:%T' /d/node; "
    "stat -c %F /d/pipe; cat /d/e/link; ls /etc/group 2>&1 | grep -o 'No such.*'; tail -n 1 /etc/passwd; ls /home; "
    "stat -c '%s' /d/sparse; stat -c %a /root"
)
SEEN = "x\n2 4711\n7:8 981173106\n1:3\nfifo\nx\nNo such file or directory\nmore\nnew\n3145728\n700\n"


def ran(engine: poc.Engine, script: str = SCRIPT, **options: Any) -> Container:
    container: Container = engine.containers.create("busybox", ["sh", "-ec", script], network="none", **options)
    container.start()
    assert container.wait() == 0, list(container.logs())
    return container


@pytest.mark.parametrize("storage", [{}, {"size": "16m"}], ids=["upper", "disk"])
def test_what_is_in_it(engine: poc.Engine, storage: dict[str, str]) -> None:
    """Whiteouts, opaque directories, owners, set-user-ID, hard links, nodes, holes and times are in the image."""
    container = ran(engine, storage_opt=storage)
    assert shell(engine, LOOK, image=container.commit("made", "1").id) == SEEN
    image = engine.images.get("made:1")
    assert len(image.layers) == 2 and image.size > engine.images.get("busybox").size
    assert os.stat(f"{image.layers[1]}/d/sparse").st_blocks == 0
    assert not os.path.exists(f"{image.layers[1]}/etc/hosts")
    assert engine.containers.create("made:1", ["true"]).diff() == []


@pytest.mark.parametrize("storage", [{}, {"size": "16m"}], ids=["upper", "disk"])
def test_while_it_runs(engine: poc.Engine, storage: dict[str, str]) -> None:
    script = SCRIPT + "; put() { echo $i >/t; mv /t $1; }; i=0; put /a; put /b; echo ready; "
    script += "while :; do i=$((i+1)); put /a; put /b; done"
    container = engine.containers.run(
        "busybox", ["sh", "-ec", script], detach=True, network="none", storage_opt=storage
    )
    assert next(container.logs(follow=True)) == ("stdout", b"ready\n")
    image = container.commit()
    assert container.status == "running"
    assert shell(engine, LOOK, image=image.id) == SEEN
    first, second = shell(engine, "cat /a /b", image=image.id).split()
    assert int(first) - int(second) in (0, 1)
    moving = shell(engine, "cat /a", image=container.commit(pause=False).id)
    assert int(moving) > int(first)


def test_on_top_of_each_other(engine: poc.Engine) -> None:
    """Layers on layers: what one deletes another brings back, and files of users are found in any of them."""
    image = ran(engine, "rm /etc/group; echo one >/one; rmdir /mnt").commit("made", "1")
    second = engine.containers.create("made:1", ["sh", "-c", "mkdir /mnt; rm /one; echo me:x:77:77::/: >>/etc/passwd"])
    second.start()
    assert second.wait() == 0
    assert [(c["Path"], c["Kind"]) for c in second.diff()] == [
        ("/etc", 0),
        ("/etc/passwd", 0),
        ("/mnt", 1),
        ("/one", 2),
    ]
    third = second.commit("made", "2")
    assert len(third.layers) == 3 and third.layers[:2] == image.layers
    assert shell(engine, "id -u; ls -d /mnt /one 2>/dev/null; :", image="made:2", user="me") == "77\n/mnt\n"
    second.remove()
    engine.images.remove("made:1")
    assert shell(engine, "cat /one || :", image="made:2") == ""


def test_users_that_were_deleted(engine: poc.Engine) -> None:
    """Nobody is found in what a layer hides."""
    ran(engine, "rm /etc/passwd").commit("made")
    with pytest.raises(InvalidArgument, match="unable to find user user"):
        engine.containers.create("made", ["true"], user="user")


def test_nothing_written(engine: poc.Engine) -> None:
    """Another configuration on the same layers, as often as one likes."""
    container = engine.containers.create("busybox", ["true"])
    first = container.commit("made", "1", changes="LABEL a=b")
    second = engine.containers.create("made:1", ["true"]).commit("made", "2", changes=["ENV A=1"])
    assert second.layers == first.layers == engine.images.get("busybox").layers
    assert shell(engine, "echo $A", image="made:2") == "1\n"
    assert engine.containers.create("made:2", ["true"]).labels == {"a": "b"}


def test_configuration(engine: poc.Engine, cli: CommandLine) -> None:
    """What the container was told is the image's, and what the changes say on top of that."""
    made = cli(
        *("create", "--name", "source", "-e", "A=1", "-e", "B=2", "-l", "k=v", "-w", "/tmp", "-u", "user"),
        *(
            "-v",
            "/vol",
            "--health-cmd",
            "exit 0",
            "--stop-signal",
            "INT",
            "--entrypoint",
            "sh",
            "busybox",
            "-c",
            "echo $A $B $C; pwd; id -u",
        ),
    )
    assert made.exit_code == 0
    done = cli(
        "commit", "-a", "me <me@example.org>", "-m", "why", "-c", "ENV C=$A$B", "-c", "EXPOSE 80", "source", "made"
    )
    image = engine.images.get("made")
    assert done == (f"{image.id}\n", "", 0)
    assert cli("run", "--rm", "--network", "none", "made").stdout == "1 2 12\n/tmp\n1000\n"
    assert image.config["Labels"] == {"k": "v"} and image.config["StopSignal"] == "INT"
    assert image.config["ExposedPorts"] == {"80/tcp": {}} and image.config["Volumes"] == {"/vol": {}}
    assert image.config["Healthcheck"]["Test"] == ["CMD-SHELL", "exit 0"]
    blob = _fs.read_json(f"{engine.images.store.blobs}/{image.id[7:]}")
    assert blob["author"] == "me <me@example.org>" and len(blob["history"]) == 2
    assert (blob["history"][1]["comment"], blob["history"][1]["empty_layer"]) == ("why", True)
    assert "echo $A $B $C" in blob["history"][1]["created_by"]
    assert "made" in cli("images").stdout


def test_refused(engine: poc.Engine, cli: CommandLine) -> None:
    engine.containers.create("busybox", ["true"], name="source")
    before = [image.id for image in engine.images.list()]
    for words, text in (
        (("nobody",), "no such container: nobody"),
        (("source", "Not:A:Name"), "is not an image reference"),
        (("-c", "RUN x", "source"), "run is not a valid change command"),
        (("-c", "ENV A", "source"), "ENV must have two arguments"),
        (("-c", "WORKDIR", "source"), "WORKDIR requires"),
    ):
        done = cli("commit", *words)
        assert (done.stdout, done.exit_code, done.stderr.count("\n")) == ("", 1, 1) and text in done.stderr
    assert [image.id for image in engine.images.list()] == before


CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
    ("CMD echo $HOME [x]", {"Cmd": ["/bin/sh", "-c", "echo $HOME [x]"]}),
    ("cmd [not json", {"Cmd": ["/bin/sh", "-c", "[not json"]}),
    ("ENTRYPOINT foo", {"Entrypoint": ["/bin/sh", "-c", "foo"], "Cmd": None}),
    ('CMD ["x"]\nENTRYPOINT ["e"]', {"Entrypoint": ["e"], "Cmd": ["x"]}),
    ("ENV B=2 C='3 $A' D=\"$A ${A}x\" E=a\\ b", {"Env": ["A=1", "B=2", "C=3 $A", "D=1 1x", "E=a b"]}),
    ("ENV A two words", {"Env": ["A=two words"]}),
    ("ENV A=${Q:-q}${A:+p}${Q:+n}\\$A$", {"Env": ["A=qp$A$"]}),
    (
        "EXPOSE 80 90/udp 8000-8002",
        {"ExposedPorts": {f"{p}": {} for p in ("80/tcp", "90/udp", "8000/tcp", "8001/tcp", "8002/tcp")}},
    ),
    ('LABEL x=y "q r"="s t"', {"Labels": {"x": "y", "q r": "s t"}}),
    ("USER me:you", {"User": "me:you"}),
    ('VOLUME ["/v", "/w"]', {"Volumes": {"/v": {}, "/w": {}}}),
    ("VOLUME /v /w", {"Volumes": {"/v": {}, "/w": {}}}),
    ("WORKDIR /a\nWORKDIR b", {"WorkingDir": "/a/b"}),
    ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
    ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
    ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    (
        "HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD echo hi",
        {"Healthcheck": {"Test": ["CMD-SHELL", "echo hi"], "Interval": 90 * 10**9, "Timeout": 5 * 10**8, "Retries": 3}},
    ),
    ('HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
)


@pytest.mark.parametrize(("instruction", "expected"), CHANGES, ids=[text for text, _ in CHANGES])
def test_instructions(instruction: str, expected: dict[str, Any]) -> None:
    config = {"Env": ["A=1"], "Cmd": ["old"]}
    assert change(config, [instruction]) == {**config, **expected}
    assert config == {"Env": ["A=1"], "Cmd": ["old"]}


@pytest.mark.parametrize(
    "instruction",
    [
        *("FROM x", "ENV", "ENV =x", "ENV A=1 B", 'ENV A="x', "ENV A=${A", "EXPOSE x", "EXPOSE 0", "EXPOSE 80/xyz"),
        *("USER a b", "STOPSIGNAL NOPE", "ONBUILD ONBUILD RUN x", "ONBUILD FROM x", "HEALTHCHECK x"),
        *("HEALTHCHECK CMD", "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK --what=5s CMD x", 'VOLUME ["  "]'),
    ],
)
def test_bad_instructions(instruction: str) -> None:
    with pytest.raises(InvalidArgument):
        change({"Env": ["A=1"]}, [instruction])


# ── pausing ──────────────────────────────────────────────────────────────────────────────────────────────

TICK = [
    "sh",
    "-c",
    "dd if=/dev/urandom of=/big bs=1M count=24 2>/dev/null; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done",
]


def ticking(engine: poc.Engine) -> Container:
    container: Container = engine.containers.run("busybox", TICK, detach=True, network="none", name="tick")
    next(container.logs(follow=True))
    return container


def test_one_that_is_paused_stays_so(engine: poc.Engine) -> None:
    container = ticking(engine)
    container.pause()
    container.commit()
    assert container.status == "paused"
    container.unpause()
    assert container.status == "running"


def test_two_at_once(engine: poc.Engine, cli: CommandLine) -> None:
    container = ticking(engine)
    commands = [cli.start("commit", "tick", f"made:{n}", stdout=subprocess.PIPE) for n in range(3)]
    ids = [command.communicate(timeout=60)[0].decode().strip() for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0] and container.status == "running"
    assert sorted(engine.images.get(f"made:{n}").id for n in range(3)) == sorted(ids)
    assert not os.path.exists(engine.paths.runtime(container.id, "standstill"))


@pytest.mark.parametrize("who", ["caller", "both", "child"])
def test_killed(engine: poc.Engine, cli: CommandLine, who: str) -> None:
    """In the middle: there is no image, nothing is left of it, and the container goes on."""
    container = ticking(engine)
    command = cli.start("commit", "tick", "made", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    mark = engine.paths.runtime(container.id, "standstill")
    while not container.cgroup.frozen() or not os.path.exists(mark):
        assert command.poll() is None
    children = _fs.read_text(f"/proc/{command.pid}/task/{command.pid}/children").split()
    if who != "child":
        command.send_signal(signal.SIGSTOP)  # so that the child does not see it go
    for pid in {"caller": [str(command.pid)], "child": children, "both": [*children, str(command.pid)]}[who]:
        os.kill(int(pid), signal.SIGKILL)
    _, stderr = command.communicate(timeout=30)
    if who == "child":
        assert command.returncode in (1, 125) and stderr.count(b"\n") == 1
    if who == "caller":  # without a look from anybody
        deadline = time.monotonic() + 10
        while container.cgroup.frozen() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not container.cgroup.frozen()
    assert container.status == "running"
    lines = len(list(container.logs()))
    time.sleep(0.2)
    assert len(list(container.logs())) > lines
    assert [image.references for image in engine.images.list()] == [["busybox:latest"]]
    container.commit("made")
    assert len(os.listdir(engine.images.store.layers)) == 2
    assert json.dumps(engine.images.get("made").references) == '["made:latest"]'


def test_event(engine: poc.Engine) -> None:
    image = engine.containers.create("busybox", ["true"]).commit("made", message="why")
    events: list[Any] = list(engine.events(until=time.time()))
    attributes = [event for event in events if event["Action"] == "commit"][-1]["Actor"]["Attributes"]
    assert (attributes["imageID"], attributes["imageRef"], attributes["comment"]) == (image.id, "made:latest", "why")


def test_image_in_use(engine: poc.Engine) -> None:
    """An image keeps the layers that another is built on."""
    image = ran(engine, "echo x >/x").commit("made", "1")
    container = engine.containers.create("made:1", ["sh", "-c", "echo y >/y; cat /x"])
    container.start()
    container.wait()
    container.commit("made", "2")
    container.remove()
    engine.images.remove("made:1")
    with pytest.raises(ContainerError):
        engine.containers.run("made:2", ["cat", "/z"], network="none", check=True, remove=True)
    assert shell(engine, "cat /x /y", image="made:2") == "x\ny\n"
    assert os.path.isdir(image.layers[1])
