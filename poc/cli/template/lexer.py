"""The tokens of Go's text/template: what is between the actions, and what is in them. Pure."""

from __future__ import annotations

import re

from poc.errors import PocError


class TemplateError(PocError):
    """A template can't be read, or fails on its data. ``parsing`` tells which."""

    def __init__(self, message: str, parsing: bool = False) -> None:
        super().__init__(message)
        self.parsing = parsing


class Token:
    """``kind`` is one of the names in `_LEXEMES`, "text", "end" (of an action) or "eof"."""

    __slots__ = ("column", "kind", "line", "text")

    def __init__(self, kind: str, text: str, line: int, column: int) -> None:
        self.kind = kind
        self.text = text
        self.line = line
        self.column = column  # in characters of its line, from 0

    def __str__(self) -> str:
        if self.kind in ("eof", "end"):
            return {"eof": "EOF", "end": '"}}"'}[self.kind]
        if self.kind == "dot" or (self.kind == "identifier" and self.text in KEYWORDS):
            return f"<{self.text}>"
        return f'"{self.text}"'


KEYWORDS = frozenset("break continue else end if range with".split())
_DECIMAL = r"(?:[0-9](?:_?[0-9])*\.?[0-9]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?"
_NUMBER = rf"[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|{_DECIMAL})"
_LEXEMES = re.compile(
    rf"""(?P<end>\s+-\}}\}}|\}}\}})
    |(?P<space>\s+)
    |(?P<number>{_NUMBER}(?![\w.]))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.(?!\d))
    |(?P<variable>\$\w*)
    |(?P<identifier>[^\W\d]\w*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<character>'(?:[^'\\\n]|\\.)*')
    |(?P<declare>:=)
    |(?P<symbol>[=|(),])""",
    re.VERBOSE,
)
_UNFINISHED = {
    '"': "unterminated quoted string",
    "`": "unterminated raw quoted string",
    "'": "unterminated character constant",
    ":": "expected :=",
}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_OPEN = re.compile(r"\{\{(-(?=\s))?")


def lex(text: str) -> list[Token]:
    """The tokens of a template: "text" between the actions, and what is in these. Raises TemplateError."""
    tokens: list[Token] = []
    place, trim = 0, False
    while True:
        action = _OPEN.search(text, place)
        literal = text[place : action.start() if action else len(text)]
        literal = literal.lstrip(_BLANKS) if trim else literal
        literal = literal.rstrip(_BLANKS) if action and action[1] else literal
        if literal:
            tokens.append(Token("text", literal, *_where(text, place)))
        if not action:
            tokens.append(Token("eof", "", *_where(text, len(text))))
            return tokens
        start = action.end()
        body = len(text) - len(text[start:].lstrip(_BLANKS)) if action[1] else start
        place, trim = (_comment if text.startswith("/*", body) else _action)(text, body, tokens)


_BLANKS = " \t\r\n"


def _where(text: str, place: int) -> tuple[int, int]:
    return text.count("\n", 0, place) + 1, place - (text.rfind("\n", 0, place) + 1)


def _fail(text: str, place: int, message: str) -> TemplateError:
    return TemplateError(f"template: :{_where(text, place)[0]}: {message}", parsing=True)


def _comment(text: str, place: int, tokens: list[Token]) -> tuple[int, bool]:
    """Pass over a comment; where it ends, and whether blanks after it go too."""
    comment = _COMMENT.match(text, place)
    if not comment:
        raise _fail(text, place, "unclosed comment")
    end = re.compile(r"(\s-)?\}\}").match(text, comment.end())
    if not end:
        raise _fail(text, place, "comment ends before closing delimiter")
    return end.end(), bool(end[1])


def _action(text: str, place: int, tokens: list[Token]) -> tuple[int, bool]:
    """Take an action apart; where it ends, and whether blanks after it go too."""
    tokens.append(Token("begin", "{{", *_where(text, place)))
    depth = 0
    while found := _LEXEMES.match(text, place):
        kind = str(found.lastgroup)
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth < 0:
            raise _fail(text, place, "unexpected right paren U+0029 ')'")
        if kind == "end" and depth:
            raise _fail(text, place, "unclosed left paren")
        tokens.append(Token(found[0] if kind == "symbol" else kind, found[0], *_where(text, place)))
        place = found.end()
        if kind == "end":
            return place, "-" in found[0]
    if place >= len(text):
        raise _fail(text, place, "unclosed action")
    raise _fail(text, place, _complaint(text, place))


def _complaint(text: str, place: int) -> str:
    character = text[place]
    if character.isdigit() or (character in "+-." and text[place + 1 : place + 2].isdigit()):
        found = re.compile(r"[+-]?[\w.]+").match(text, place)
        return f'bad number syntax: "{found[0] if found else character}"'
    return _UNFINISHED.get(character) or f"unrecognized character in action: U+{ord(character):04X} '{character}'"
