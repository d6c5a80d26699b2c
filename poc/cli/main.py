"""From the words on the command line to the module of one verb, and from its outcome to an exit code.

`VERBS` is the table of verbs; `poc --help` and completion are made from it alone. A verb is a row here and a module
``poc.cli.commands.<verb>`` (blanks become underscores), which is imported only when it is the one that is called.
Errors become one line on stderr here, and nowhere else.
"""

from __future__ import annotations

import os
import sys

from poc.cli.parse import FLAG, VALUE, Args, Command, Declined, Option, parse
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


# verb: what it does, then the other names it has
VERBS = {
    "attach": ("Show what a running container writes, and type into it", "container attach"),
    "bench": ("Measure what a container costs, against the host and against other runtimes",),
    "bench compare": ("Say whether benchmark results are better or worse than older ones",),
    "bench prepare": ("Make an image with all programs that benchmarks run",),
    "bench report": ("Make one HTML file, or Markdown, of benchmark results",),
    "bench runtimes": ("List the runtimes that can be compared, or why one can't",),
    "bench suites": ("List what can be measured",),
    "commit": ("Make an image of a container", "container commit"),
    "container inspect": ("Show all that is known of containers, as JSON",),
    "container prune": ("Remove the containers that don't run",),
    "cp": ("Copy files into or out of a container", "container cp"),
    "create": ("Create a container, without starting it", "container create"),
    "diff": ("Show what a container has changed of its files", "container diff"),
    "events": ("Show what happens to containers, images and volumes", "system events"),
    "exec": ("Run another command in a running container", "container exec"),
    "export": ("Write the files of a container as a tar archive", "container export"),
    "image inspect": ("Show all that is known of images, as JSON",),
    "image prune": ("Remove the images that have no name, or no container",),
    "images": ("List images", "image ls", "image list"),
    "import": ("Make an image of a root file system that is a tar archive", "image import"),
    "info": ("Show what there is, and what this host offers", "system info"),
    "init": ("Make the base image ubuntu, the bridge and the state directories",),
    "inspect": ("Show all that is known of containers, images, networks or volumes, as JSON",),
    "kill": ("Send a signal to running containers", "container kill"),
    "logs": ("Show what a container has printed", "container logs"),
    "network inspect": ("Show all that is known of networks, as JSON",),
    "network ls": ("List networks", "network list"),
    "pause": ("Stop all processes of containers where they are", "container pause"),
    "port": ("Show which ports of a container are published, and where", "container port"),
    "prune": ("Remove everything poc has made on this machine",),
    "ps": ("List containers", "container ls", "container list", "container ps"),
    "rename": ("Give a container another name", "container rename"),
    "restart": ("Stop containers and start them again", "container restart"),
    "rm": ("Remove containers", "container rm", "container remove"),
    "rmi": ("Remove images", "image rm", "image remove"),
    "run": ("Create a container from an image and run a command in it", "container run"),
    "start": ("Start containers that are created or stopped", "container start"),
    "stats": ("Show what containers use of CPU, memory, network and disks", "container stats"),
    "stop": ("Stop running containers", "container stop"),
    "system autostart": ("Have containers started again after a reboot, by systemd",),
    "system df": ("Show how much room images, containers and volumes take",),
    "system doctor": ("Check what this host offers, and say how to mend what lacks",),
    "system prune": ("Remove stopped containers and what else nobody needs",),
    "top": ("Show the processes of a container", "container top"),
    "unpause": ("Let paused containers go on", "container unpause"),
    "update": ("Change the limits of containers", "container update"),
    "version": ("Show the version of poc and of what it runs on",),
    "volume create": ("Make a volume",),
    "volume inspect": ("Show all that is known of volumes, as JSON",),
    "volume ls": ("List volumes", "volume list"),
    "volume prune": ("Remove the volumes that no container has",),
    "volume rm": ("Remove volumes", "volume remove"),
    "wait": ("Wait until containers stop, then print their exit codes", "container wait"),
}

POC = Command(
    arguments="[COMMAND] [ARG...]",
    example="sudo poc run --rm -it ubuntu bash",
    interspersed=False,
    options=(
        Option("--root", VALUE, "Keep images and containers in this directory (default: /var/lib/poc)", metavar="DIR"),
        Option("-D --debug", FLAG, "Show a traceback when something fails"),
        Option("-v --version", FLAG, "Print the version"),
    ),
)


def main(words: list[str] | None = None) -> int:
    """Run a command line (``sys.argv``'s by default) and return its exit code."""
    words = sys.argv[1:] if words is None else words
    _open_streams()
    if "_POC_COMPLETE" in os.environ:
        return _explain([], [])
    try:
        top = parse(POC, words)
    except Declined as declined:
        return _explain([], declined.rest)
    if top.version:
        top.arguments = ["version", "--short"]
    verb, used = find(top.arguments)
    if verb is None:
        return _explain([], top.arguments)
    module = load(verb)
    try:
        args = parse(module.COMMAND, top.arguments[used:])
    except Declined as declined:
        return _explain(top.arguments[:used], declined.rest)
    args.root = top.root
    return _run(verb, module, args, top.debug)


def find(words: list[str]) -> tuple[str | None, int]:
    """The verb that the first word or two name, and how many words that took."""
    name = " ".join(words[:2])
    if name in VERBS:
        return name, len(words[:2])
    if words and words[0] in VERBS:
        return words[0], 1
    for verb, (_, *others) in VERBS.items():
        if name == verb or name in others:
            return verb, 2
    return None, 0


def load(verb: str) -> ModuleType:
    """The module of a verb."""
    return __import__(f"poc.cli.commands.{verb.replace(' ', '_')}", fromlist=["COMMAND"])


def _explain(verb: list[str], words: list[str]) -> int:
    """Let click print the help, the completions, or what is wrong with the words that follow a verb."""
    from poc.cli import usage

    return _guard(lambda: usage.explain(verb, words))


def _run(verb: str, module: ModuleType, args: Args, debug: bool) -> int:
    command: Command = module.COMMAND
    if command.root and os.geteuid():
        return _fail(PocError(f"poc {verb} needs root's rights; try: sudo poc {verb} …"), 125)
    return _guard(lambda: module.run(args), command.starts, debug)


def _guard(call: Callable[[], int], starts: bool = False, debug: bool = False) -> int:
    """The exit code of a call; whatever it raises becomes one line and docker's exit code.

    docker's is 125, 126 or 127 where a container was to start and where poc itself fails, and 1 elsewhere.
    """
    try:
        code = call()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        flush_output()
        return 141
    except Exception as error:
        flush_output()
        if debug:
            raise
        known = isinstance(error, PocError)
        return _fail(error, 1 if known and not starts else max(125, getattr(error, "exit_code", 125)))


def _open_streams() -> None:
    """Streams that the caller closed lead nowhere; left closed, the next file to be opened would be stdout."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    # Any byte can be in a label or a command; what came in as a surrogate goes out as the byte it was.
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]


def flush_output() -> None:
    """Write what is buffered; what can't be written is dropped, or it would fail again when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(error: Exception, code: int) -> int:
    from poc.cli.output import complain

    complain(error)
    return code
