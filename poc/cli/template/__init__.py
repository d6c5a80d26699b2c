"""Go's text/template: what `--format` takes. Pure.

    text ──lexer──> tokens ──parser──> tree ──render(data)──> text

Data are dicts, lists, strings, numbers, bools and None (Go's nil pointer). What is missing in a dict prints as
``<no value>``; missing in a `Struct` it is an error, as a field of Go's that no type has. A value that can be called
is a method (``{{.Label "k"}}``). There are no ``define``, ``template`` and ``block``: a format is one template.

    lexer      tokens, and `TemplateError`, the one error there is
    parser     the grammar
    tree       what was read, and how it is carried out
    values     what is nil, what is missing, what can be asked of a value
    functions  Go's, and those that docker adds
    gofmt      how Go prints values; Printf

Source: https://pkg.go.dev/text/template
"""

from __future__ import annotations

from poc.cli.template.lexer import TemplateError
from poc.cli.template.parser import Parser
from poc.cli.template.tree import State
from poc.cli.template.values import NO_VALUE, Failure, NullList, NullMap, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ("NO_VALUE", "Failure", "NullList", "NullMap", "Struct", "Template", "TemplateError")


class Template:
    """A template that was understood. Raises TemplateError for one that can't be."""

    __slots__ = ("_functions", "_nodes")

    def __init__(self, text: str) -> None:
        from poc.cli.template.functions import FUNCTIONS

        self._functions = FUNCTIONS
        self._nodes = Parser(text, FUNCTIONS).parse()

    def render(self, data: Any, functions: Mapping[str, Callable[..., Any]] | None = None) -> str:
        """The text for these data; ``functions`` stand in for those of the same name. Raises TemplateError."""
        state = State({**self._functions, **(functions or {})}, data)
        try:
            state.walk(self._nodes, data)
        except RecursionError:
            raise TemplateError("template: it is nested too deeply") from None
        return "".join(state.output)
