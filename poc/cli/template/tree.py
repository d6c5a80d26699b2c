"""What a template was read as, and how it is carried out: a node for each action, an operand for each value in it."""

from __future__ import annotations

from functools import partial

from poc.cli.template.lexer import TemplateError, Token
from poc.cli.template.values import Failure, ask, call, entries, printable, refuse_count, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


class Node:
    """What stands in a template, one after the other."""

    __slots__ = ()

    def run(self, state: State, dot: Any) -> None:
        raise NotImplementedError


class Text(Node):
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, state: State, dot: Any) -> None:
        state.output.append(self.text)


class Action(Node):
    """``{{pipeline}}``"""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def run(self, state: State, dot: Any) -> None:
        value = self.pipe.value(state, dot)
        if not self.pipe.names:
            state.output.append(self.pipe.guard(lambda: printable(value)))


class Branch(Node):
    """``if``, ``with`` and ``range``: a pipeline, what follows, and what is after its ``else``."""

    __slots__ = ("body", "kind", "otherwise", "pipe")

    def __init__(self, kind: str, pipe: Pipe, body: list[Node], otherwise: list[Node]) -> None:
        self.kind = kind
        self.pipe = pipe
        self.body = body
        self.otherwise = otherwise

    def run(self, state: State, dot: Any) -> None:
        mark = len(state.variables)
        value = self.pipe.value(state, dot, ranging=self.kind == "range")
        if self.kind == "range":
            self._range(state, dot, value)
        elif truth(value):
            state.walk(self.body, value if self.kind == "with" else dot)
        else:
            state.walk(self.otherwise, dot)
        del state.variables[mark:]

    def _range(self, state: State, dot: Any, value: Any) -> None:
        found = self.pipe.guard(lambda: entries(value))
        mark = len(state.variables)
        for entry in found:
            self.pipe.bind(state, entry)
            try:
                state.walk(self.body, entry[1])
            except Break:
                break
            except Continue:
                pass
            finally:
                del state.variables[mark:]
        if not found:
            state.walk(self.otherwise, dot)


class Jump(Node):
    """``break`` and ``continue``"""

    __slots__ = ("signal",)

    def __init__(self, signal: type[Exception]) -> None:
        self.signal = signal

    def run(self, state: State, dot: Any) -> None:
        raise self.signal


class Break(Exception):
    pass


class Continue(Exception):
    pass


class Pipe:
    """Commands, each one's result the last argument of the next; and the variables that the last result goes to."""

    __slots__ = ("commands", "declares", "names", "token")

    def __init__(self, token: Token, names: list[str], declares: bool) -> None:
        self.token = token
        self.names = names
        self.declares = declares
        self.commands: list[Operand] = []

    def __str__(self) -> str:
        return " | ".join(map(str, self.commands))

    def guard(self, call: Callable[[], Any]) -> Any:
        return guarded(self, self.token, call)

    def value(self, state: State, dot: Any, ranging: bool = False) -> Any:
        final: tuple[Any, ...] = ()
        for command in self.commands:
            final = (command.value(state, dot, final),)
        if not ranging:
            for name in self.names:
                state.set(name, final[0], self.declares)
        return final[0]

    def bind(self, state: State, entry: tuple[Any, Any]) -> None:
        """``$i, $e :=`` of a range; a single name is the element's."""
        for name, value in zip(self.names, entry[-len(self.names) :] if self.names else (), strict=True):
            state.set(name, value, self.declares)

    def given(self, state: State, dot: Any, final: tuple[Any, ...]) -> Any:
        """A pipeline in parentheses."""
        return self.value(state, dot)


class Operand:
    """One operand, the fields that are asked of it, and its arguments: ``.Label "k"``, ``index .A 1``, ``(f 1).B``.

    ``kind`` and ``content``: "constant" and its value, "dot", "variable" or "function" and its name, "pipe".
    """

    __slots__ = ("arguments", "content", "fields", "kind", "token")

    def __init__(self, token: Token, kind: str, content: Any = None) -> None:
        self.token = token
        self.kind = kind
        self.content = content
        self.fields: list[Token] = []
        self.arguments: list[Operand] = []

    def __str__(self) -> str:
        head = {"dot": "" if self.fields else ".", "pipe": f"({self.content})"}.get(self.kind, self.token.text)
        return " ".join([head + "".join(field.text for field in self.fields), *map(str, self.arguments)])

    def value(self, state: State, dot: Any, final: tuple[Any, ...] = ()) -> Any:
        """``final``: the result of the command before it in a pipeline, if there is one."""
        if self.kind == "function" and not self.fields:
            return self._call(state, dot, final)
        value = self._head(state, dot)
        if not self.fields:
            return guarded(self, self.token, lambda: self._plain(value, final))
        given = [argument.argument(state, dot) for argument in self.arguments]
        for field in self.fields:
            extra = [*given, *final] if field is self.fields[-1] else []
            value = guarded(self, field, partial(ask, value, field.text[1:], extra))
        return value

    def argument(self, state: State, dot: Any) -> Any:
        """As an argument it can be nil too."""
        return self.content if self.kind == "constant" else self.value(state, dot)

    def _plain(self, value: Any, final: tuple[Any, ...]) -> Any:
        if self.kind == "constant" and value is None:
            raise Failure("nil is not a command")
        if self.arguments or final:
            raise Failure(f"can't give argument to non-function {str(self).split(' ')[0]}")
        return value

    def _head(self, state: State, dot: Any) -> Any:
        if self.kind == "dot":
            return dot
        if self.kind == "variable":
            return state.get(self.content)
        if self.kind == "function":
            return guarded(self, self.token, lambda: call(self.content, state.functions[self.content], []))
        return self.content.value(state, dot) if self.kind == "pipe" else self.content

    def _call(self, state: State, dot: Any, final: tuple[Any, ...]) -> Any:
        if self.content in ("and", "or"):
            return self._decide(state, dot, final)
        given = [argument.argument(state, dot) for argument in self.arguments]
        return guarded(self, self.token, lambda: call(self.content, state.functions[self.content], [*given, *final]))

    def _decide(self, state: State, dot: Any, final: tuple[Any, ...]) -> Any:
        """The first argument that settles it, else the last; those after it are not evaluated."""
        evaluations: list[Callable[[], Any]] = [partial(a.argument, state, dot) for a in self.arguments]
        evaluations += [lambda: final[0]] if final else []
        if not evaluations:
            return guarded(self, self.token, partial(refuse_count, self.content, 0, "at least 1"))
        value: Any = None
        for evaluate in evaluations:
            value = evaluate()
            if truth(value) == (self.content == "or"):
                break
        return value


class State:
    """What has been printed, and the variables in force, the innermost last."""

    __slots__ = ("functions", "output", "variables")

    def __init__(self, functions: Mapping[str, Callable[..., Any]], data: Any) -> None:
        self.functions = functions
        self.output: list[str] = []
        self.variables: list[list[Any]] = [["$", data]]

    def walk(self, nodes: Iterable[Node], dot: Any) -> None:
        mark = len(self.variables)
        for node in nodes:
            node.run(self, dot)
        if len(self.variables) > mark and mark > 1:
            del self.variables[mark:]

    def get(self, name: str) -> Any:
        return next(value for known, value in reversed(self.variables) if known == name)

    def set(self, name: str, value: Any, declare: bool) -> None:
        if declare:
            self.variables.append([name, value])
        else:
            next(entry for entry in reversed(self.variables) if entry[0] == name)[1] = value


def guarded(node: object, token: Token, call: Callable[[], Any]) -> Any:
    """The result of a call; a `Failure` in it becomes an error that names the place."""
    try:
        return call()
    except Failure as failure:
        source = failure.name or str(node)
        source = source if len(source) <= 20 else f"{source[:20]}..."
        place = f"template: :{token.line}:{token.column}"
        raise TemplateError(f'{place}: executing "" at <{source}>: {failure}') from None
