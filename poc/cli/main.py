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
    "create": ("Create a container, without starting it", "container create"),
    "images": ("List images", "image ls", "image list"),
    "init": ("Make the base image ubuntu, the bridge and the state directories",),
    "inspect": ("Show all that is known of containers, as JSON", "container inspect"),
    "kill": ("Send a signal to running containers", "container kill"),
    "logs": ("Show what a container has printed", "container logs"),
    "prune": ("Remove everything poc has made on this machine",),
    "ps": ("List containers", "container ls", "container list", "container ps"),
    "rm": ("Remove containers", "container rm", "container remove"),
    "rmi": ("Remove images", "image rm", "image remove"),
    "run": ("Create a container from an image and run a command in it", "container run"),
    "start": ("Start containers that are created or stopped", "container start"),
    "stop": ("Stop running containers", "container stop"),
    "version": ("Show the version of poc and of what it runs on",),
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
    if words and words[0] in VERBS:
        return words[0], 1
    name = " ".join(words[:2])
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
        return _fail(error, 1 if known and not starts else getattr(error, "exit_code", 125))


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
