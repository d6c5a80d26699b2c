"""The keys that let go of a terminal: ctrl-p ctrl-q, or what was asked for. Pure."""

from __future__ import annotations

from poc.errors import InvalidArgument

DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # ctrl- and the n-th of these is the byte n


def parse_keys(text: str | None) -> bytes:
    """``ctrl-p,ctrl-q`` as what a terminal sends for it; None or "": the usual ones. Raises InvalidArgument.

    Keys are separated by commas: a character, ``ctrl-`` with a letter or one of ``@[\\]^_``, or ``DEL``.
    """
    wanted = text or DETACH_KEYS
    return bytes(_parse(key, wanted) for key in wanted.split(","))


def _parse(key: str, text: str) -> int:
    if len(key) == 1 and key.isascii():
        return ord(key)
    if key.startswith("ctrl-") and len(key) == 6 and key[5] in _CONTROLS:
        return _CONTROLS.index(key[5])
    if key == "DEL":
        return 127
    raise InvalidArgument(
        f"invalid detach keys {text!r}: write keys such as a or ctrl-a (or ctrl-@ [ \\ ] ^ _), with commas in between"
    )


class Watch:
    """Looks for a sequence of keys in what is typed. The beginning of one is held back until it is known for none."""

    __slots__ = ("_held", "keys")

    def __init__(self, keys: bytes) -> None:
        """Without ``keys`` nothing is ever found."""
        self.keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what is to be passed on, were the keys typed?); what comes after them is lost."""
        if not self.keys:
            return data, False
        passed = bytearray()
        for byte in data:
            self._held += bytes((byte,))
            if self._held == self.keys:
                self._held = b""
                return bytes(passed), True
            while not self.keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
        return bytes(passed), False
