"""`poc commit`: an image of what a container has become."""

from __future__ import annotations

from poc.cli.parse import FLAG, LIST, VALUE, Args, Command, Option
from poc.engine import Engine

CHANGE = Option(
    "-c --change",
    LIST,
    "Apply a Dockerfile's instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,"
    " STOPSIGNAL, USER, VOLUME or WORKDIR; may be repeated",
    metavar="INSTRUCTION",
)

COMMAND = Command(
    arguments="CONTAINER [REPOSITORY[:TAG]]",
    complete="container",
    example='poc commit -c \'CMD ["nginx", "-g", "daemon off;"]\' web mine:2',
    options=(
        Option("-a --author", VALUE, "Who has made it", metavar="NAME"),
        CHANGE,
        Option("-m --message", VALUE, "What was done", metavar="TEXT"),
        Option("-p --pause", FLAG, "Let nothing run in the container meanwhile (default; --pause=false)", on=True),
    ),
)


def run(args: Args) -> int:
    name, reference = (*args.arguments, "")[:2]
    container = Engine(args.root).containers.get(name)
    image = container.commit(
        reference, message=args.message or "", author=args.author or "", changes=args.change, pause=args.pause
    )
    print(image.id)
    return 0
