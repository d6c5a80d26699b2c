"""From the tokens of a template to its tree, by recursive descent; and what its constants stand for."""

from __future__ import annotations

import re

from poc.cli.template.lexer import KEYWORDS, TemplateError, Token, lex
from poc.cli.template.tree import Action, Branch, Break, Continue, Jump, Node, Operand, Pipe, Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_UNKNOWN = frozenset("block define template".split())


class Parser:
    """Recursive descent; raises TemplateError for the first thing that can't be."""

    def __init__(self, text: str, functions: Iterable[str]) -> None:
        self._tokens = lex(text)
        self._place = 0
        self._functions = functions
        self._names: list[str] = ["$"]
        self._ranges = 0

    def parse(self) -> list[Node]:
        try:
            nodes, end = self._list()
        except RecursionError:
            raise TemplateError("template: it is nested too deeply", parsing=True) from None
        if end.kind != "eof":
            raise self._error(end, f"unexpected {{{{{end.text}}}}}")
        return nodes

    def _error(self, token: Token, message: str) -> TemplateError:
        return TemplateError(f"template: :{token.line}: {message}", parsing=True)

    def _next(self) -> Token:
        token = self._tokens[self._place]
        self._place += 1
        return token

    def _peek(self) -> Token:
        return self._tokens[self._place]

    def _skip(self) -> Token:
        """The next token that is no blank; it is not taken."""
        while self._peek().kind == "space":
            self._place += 1
        return self._peek()

    def _list(self) -> tuple[list[Node], Token]:
        """Nodes up to ``{{end}}``, ``{{else …}}`` or the end of the text, and which of these it was."""
        nodes: list[Node] = []
        while True:
            token = self._next()
            if token.kind == "text":
                nodes.append(Text(token.text))
            elif token.kind == "eof":
                return nodes, token
            else:
                word = self._skip()
                if word.kind == "identifier" and word.text in ("end", "else"):
                    self._next()
                    return nodes, word
                nodes.append(self._statement(word))

    def _statement(self, word: Token) -> Node:
        if word.kind != "identifier" or word.text not in KEYWORDS | _UNKNOWN:
            return Action(self._pipeline("command"))
        self._next()
        if word.text in _UNKNOWN:
            raise self._error(word, f"there is no {{{{{word.text}}}}} in a format")
        if word.text in ("break", "continue"):
            if not self._ranges:
                raise self._error(word, f"{{{{{word.text}}}}} outside {{{{range}}}}")
            self._close(f"{{{{{word.text}}}}}")
            return Jump(Break if word.text == "break" else Continue)
        return self._branch(word.text)

    def _branch(self, kind: str) -> Branch:
        known = len(self._names)
        pipe = self._pipeline(kind)
        self._ranges += kind == "range"
        body, end = self._list()
        self._ranges -= kind == "range"
        otherwise: list[Node] = []
        if end.text == "else" and end.kind == "identifier":
            if self._skip().text == kind and kind in ("if", "with"):
                self._next()
                otherwise = [self._branch(kind)]
                del self._names[known:]
                return Branch(kind, pipe, body, otherwise)
            self._close("else")
            otherwise, end = self._list()
        if end.kind == "eof":
            raise self._error(end, "unexpected EOF")
        if end.text != "end":
            raise self._error(end, "expected end; found {{else}}")
        self._close("end")
        del self._names[known:]
        return Branch(kind, pipe, body, otherwise)

    def _close(self, context: str) -> None:
        token = self._skip()
        if token.kind != "end":
            raise self._error(token, f"unexpected {token} in {context}")
        self._next()

    def _pipeline(self, context: str, end: str = "end") -> Pipe:
        pipe = self._declaration(context)
        while True:
            if self._skip().kind in (end, "|"):
                raise self._error(self._peek(), f"missing value for {context}")
            command = self._command(end)
            if pipe.commands and (command.kind in ("constant", "dot") and not command.fields):
                stage = len(pipe.commands) + 1
                raise self._error(command.token, f"non executable command in pipeline stage {stage}")
            pipe.commands.append(command)
            if self._next().kind == end:
                break
        if context != "range" and not pipe.names:
            return pipe
        self._names += pipe.names if pipe.declares else []
        return pipe

    def _declaration(self, context: str) -> Pipe:
        """``$x :=``, ``$x =``, in a range ``$i, $e :=``; nothing of it when none of these is there."""
        start, token = self._place, self._skip()
        names: list[str] = []
        while self._skip().kind == "variable":
            names.append(self._next().text)
            sign = self._skip()
            if sign.kind in ("declare", "="):
                self._next()
                if sign.kind == "=":
                    for name in names:
                        self._known(token, name)
                return Pipe(token, names, sign.kind == "declare")
            if sign.kind != ",":
                break
            if context != "range" or len(names) == 2:
                raise self._error(token, f"too many declarations in {context}")
            self._next()
        if len(names) > 1 or (names and self._skip().kind == ","):
            raise self._error(token, "range can only initialize variables")
        self._place = start
        return Pipe(token, [], True)

    def _known(self, token: Token, name: str) -> None:
        if name not in self._names:
            raise self._error(token, f'undefined variable "{name}"')

    def _command(self, end: str) -> Operand:
        """An operand with its arguments, up to ``|`` or the end, which is not taken."""
        command: Operand | None = None
        while True:
            token = self._skip()
            if token.kind in (end, "|"):
                assert command is not None
                return command
            operand = self._operand()
            if self._peek().kind not in ("space", end, "|", ")"):
                raise self._error(self._peek(), f"unexpected {self._peek()} in operand")
            if command is None:
                command = operand
            else:
                command.arguments.append(operand)

    def _operand(self) -> Operand:
        operand = self._term()
        while self._peek().kind == "field":
            operand.fields.append(self._next())
            if operand.kind == "constant" or (operand.kind == "dot" and operand.token.kind == "dot"):
                raise self._error(operand.token, f'unexpected . after term "{operand.token.text}"')
        return operand

    def _term(self) -> Operand:
        token = self._next()
        if token.kind == "field":
            operand = Operand(token, "dot")
            operand.fields.append(token)
            return operand
        if token.kind == "dot":
            return Operand(token, "dot")
        if token.kind == "variable":
            self._known(token, token.text)
            return Operand(token, "variable", token.text)
        if token.kind == "(":
            return Operand(token, "pipe", self._pipeline("parenthesized pipeline", ")"))
        if token.kind == "identifier" and token.text not in (*KEYWORDS, "nil", "true", "false"):
            if token.text not in self._functions:
                raise self._error(token, f'function "{token.text}" not defined')
            return Operand(token, "function", token.text)
        if token.kind in _CONSTANTS and token.text not in KEYWORDS:
            try:
                return Operand(token, "constant", _CONSTANTS[token.kind](token.text))
            except ValueError as error:
                raise self._error(token, str(error)) from None
        raise self._error(token, f"unexpected {token} in command")


def _number(text: str) -> int | float:
    digits = text.lstrip("+-").replace("_", "")
    sign = -1 if text.startswith("-") else 1
    try:
        if digits[:1] == "0" and digits[1:].isdigit() and digits.strip("0"):
            return sign * int(digits, 8)
        return sign * int(digits, 0)
    except ValueError:
        pass
    try:
        return sign * float(digits)
    except ValueError:
        raise ValueError(f'bad number syntax: "{text}"') from None


_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.|$)", re.DOTALL)
_SINGLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'"}


def unquote(text: str) -> str:
    """What a Go string literal stands for, without its quotes. Raises ValueError."""

    def replace(match: re.Match[str]) -> str:
        code = match[1]
        if code in _SINGLE:
            return _SINGLE[code]
        number = int(code, 8) if code.isdigit() and len(code) == 3 else int(code[1:], 16) if len(code) > 2 else -1
        if not 0 <= number < 0x110000 or 0xD800 <= number < 0xE000 or (code.isdigit() and number > 255):
            raise ValueError("invalid syntax")
        if code[0] in "uU" or number < 128:
            return chr(number)
        return chr(0xDC00 + number)  # a byte, as the system's own text has it

    joined = _ESCAPE.sub(replace, text)
    return joined.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _character(text: str) -> int:
    value = unquote(text[1:-1])
    if len(value) != 1:
        raise ValueError(f"malformed character constant: {text}")
    return ord(value)


_CONSTANTS: dict[str, Callable[[str], Any]] = {
    "number": _number,
    "string": lambda text: unquote(text[1:-1]),
    "raw": lambda text: text[1:-1].replace("\r", ""),
    "character": _character,
    "identifier": lambda text: {"nil": None, "true": True, "false": False}[text],
}
