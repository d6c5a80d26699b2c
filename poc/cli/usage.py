"""click's view of the verbs: help, complaints and shell completion, from the same tables that `poc.cli.parse` reads.

Only imported when one of these is wanted. The commands built here parse as `parse` does (a test holds them
together), but carry nothing out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, shell_complete

from poc.cli import parse
from poc.cli.main import POC, VERBS, load
from poc.cli.output import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poc import Engine


class WrongCount(click.UsageError):
    """Too many arguments or too few: docker ends with 1, with 125 for a wrong flag."""

    exit_code = 1


class Verbs(click.Group):
    """docker's help: what manages one kind of object, then the commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = {name: found for name, found in self.commands.items() if isinstance(found, click.Group)}
        others = {name: found for name, found in self.commands.items() if name not in groups and " " not in name}
        for title, found in (("Management Commands", groups), ("Commands", others)):
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name, found[name].get_short_help_str(80)) for name in sorted(found)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`bench runtimes` is a verb, and `bench` too: of these the longer one is meant."""
        if found := self.commands.get(name := " ".join(args[:2])):
            return name, found, args[2:]
        return super().resolve_command(ctx, args)


class LazyCommand(click.Command):
    """A verb whose module is imported once it is the verb that is meant: the list of verbs imports none."""

    def __init__(self, name: str, summary: str, shape: Callable[[], parse.Command]) -> None:
        super().__init__(name, help=summary, short_help=summary, callback=_never)
        self._shape = shape

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        shape = self._shape()
        self.params = _parameters(shape)
        self.epilog = f"\b\nExample:\n  {shape.example}"
        if below := {verb: VERBS[verb][0] for verb in VERBS if verb.startswith(f"{self.name} ")}:
            width = max(map(len, below))
            lines = [f"  poc {verb:{width}}  {summary}" for verb, summary in below.items()]
            self.epilog += "\n\n" + "\n".join(["\b", "Commands:", *lines])
        self.allow_interspersed_args = shape.interspersed
        return super().make_context(info_name, args, *more, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            _check_count(ctx, self._shape())
        return rest


def explain(verb: Sequence[str], words: Sequence[str]) -> int:
    """Print the help that the words after a verb ask for, or one line on what is wrong; returns the exit code.

    With `_POC_COMPLETE` in the environment it answers the shell's question instead (click's protocol).
    """
    root = _root()
    if instruction := os.environ.get("_POC_COMPLETE"):
        return shell_complete(root, {}, "poc", "_POC_COMPLETE", instruction)
    try:
        # Not root.main(), which has its own opinion of a pipe that nobody reads.
        with root.make_context("poc", [*verb, *words]) as context:
            root.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        path = where.command_path if where else " ".join(["poc", *verb])
        complain(f"{_sentence(error)} (see '{path} --help')", prefix="poc")
        return 1 if isinstance(error, WrongCount) or "No such command" in error.message else 125
    return 0


def _sentence(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        near = f", did you mean {' or '.join(sorted(error.possibilities))}?" if error.possibilities else ""
        return f"unknown flag: {error.option_name}{near}"
    return error.format_message().rstrip(".")


def _root() -> click.Group:
    """All verbs; those of two words are in a group of their own."""
    root = _group(
        "poc",
        help="A container runtime: docker's words, no daemon.",
        epilog=f"\b\nExample:\n  {POC.example}",
        params=_parameters(POC)[:-1],
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for verb, (summary, *others) in VERBS.items():
        for name in (verb, *others):
            *groups, last = [name] if name.partition(" ")[0] in VERBS else name.split()
            parent = root
            for group in groups:
                parent = parent.commands.setdefault(group, _group(group, help=_GROUPS.get(group, f"Manage {group}s")))  # type: ignore[assignment]
            parent.add_command(LazyCommand(last, summary, lambda verb=verb: load(verb).COMMAND))  # type: ignore[misc]
    return root


_GROUPS = {"system": "Manage poc itself"}


def _group(name: str, **options: Any) -> click.Group:
    """A group that answers with its help when it is called alone."""

    def answer(**values: Any) -> None:
        context = click.get_current_context()
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    metavar = "COMMAND [ARG...]"
    return Verbs(name, callback=answer, invoke_without_command=True, subcommand_metavar=metavar, **options)


def _never(**values: Any) -> None:
    """`parse` declines only what click refuses too, so no callback is ever reached."""
    raise click.UsageError("this command line can't be read")


def _check_count(ctx: click.Context, shape: parse.Command) -> None:
    count = len(ctx.params["arguments"])
    if count < shape.least:
        least = shape.least
        bound = f"at least {least}" if shape.most != least else f"{least}"
        raise WrongCount(f"'{ctx.command_path}' requires {bound} argument{'s' if least > 1 else ''}", ctx)
    if shape.most is not None and count > shape.most:
        most = f"at most {shape.most} argument{'s' if shape.most > 1 else ''}" if shape.most else "no arguments"
        raise WrongCount(f"'{ctx.command_path}' accepts {most}", ctx)


def _parameters(shape: parse.Command) -> list[click.Parameter]:
    arguments = click.Argument(
        ["arguments"], nargs=-1, metavar=shape.arguments, shell_complete=_complete(shape.complete, shape.interspersed)
    )
    return [*(_option(option) for option in shape.options), arguments]


def _option(option: parse.Option) -> click.Option:
    return click.Option(
        [*option.names, option.key],
        is_flag=option.kind == parse.FLAG,
        multiple=option.kind == parse.LIST,
        default=option.default,
        type=click.INT if option.kind == parse.INT else click.BOOL if option.kind == parse.FLAG else click.STRING,
        metavar=option.metavar or None,
        help=option.help,
        shell_complete=_complete(option.complete),
    )


def _complete(what: str | Sequence[str], many: bool = True) -> Callable[..., list[CompletionItem]]:
    """A completer for containers, images, volumes, files, or given words; ``many``: also after the first argument."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if what in ("file", "dir"):
            return [CompletionItem(incomplete, type=str(what))]
        if not many and ctx.params.get(param.name or ""):
            return []
        return [CompletionItem(word) for word in _words(ctx, what) if word.startswith(incomplete)]

    return complete


def _words(ctx: click.Context, what: str | Sequence[str]) -> Sequence[str]:
    """What can stand for a container or an image. A shell wants an answer, not an error: none when not root."""
    if not isinstance(what, str):
        return what
    from poc import Engine

    kinds = ("container", "image", "network", "volume") if what == "object" else (what,)
    try:
        engine = Engine(ctx.find_root().params.get("root"))
        return [name for kind in kinds for name in _NAMES[kind](engine)]
    except Exception:
        pass  # not root, or a store that can't be read
    return []


_NAMES: dict[str, Callable[[Engine], Sequence[str]]] = {
    "container": lambda engine: [container.name for container in engine.containers.list(all=True)],
    "image": lambda engine: [reference for image in engine.images.list() for reference in image.references],
    "network": lambda engine: [network.name for network in engine.networks.list()],
    "volume": lambda engine: [volume.name for volume in engine.volumes.list()],
}
