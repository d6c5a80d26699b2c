"""Image references: `[domain/]path[:tag][@digest]` in the short form docker shows.

The grammar is that of github.com/distribution/reference, with one liberty: separators inside a path component
may be mixed. Written without `re`: compiling the grammar costs more than the rest of an image's look-up.
"""

from __future__ import annotations

from poc.errors import InvalidArgument

MAX_LENGTH = 255  # NAME_MAX: a reference is a file name in the store

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset("0123456789abcdef")
_PATH = _LOWER | frozenset("._-")
_TAG = _ALNUM | frozenset("._-")
_DOMAIN = _ALNUM | frozenset(".-")
_DOCKER_HUB = ("docker.io/", "index.docker.io/")


def normalize(reference: str) -> str:
    """The one spelling of a reference: `docker.io/library/ubuntu` and `ubuntu` are both `ubuntu:latest`.

    Raises InvalidArgument for anything docker would not take as a reference.
    """
    if not reference or len(reference) > MAX_LENGTH:
        raise _invalid(reference, f"it must have 1 to {MAX_LENGTH} characters")
    name, at, digest = reference.partition("@")
    if at and not is_digest(digest):
        raise _invalid(reference, "after @ comes sha256: and 64 hexadecimal digits")
    parent, slash, last = name.rpartition("/")
    base, colon, tag = last.partition(":")
    if colon and not _is_tag(tag):
        raise _invalid(reference, "a tag is 1 to 128 letters, digits, _ . or -, and does not begin with . or -")
    repository = _short(reference, parent + slash + base)
    if at:
        return f"{repository}{colon}{tag}@{digest}"
    return f"{repository}:{tag or 'latest'}"


def split(reference: str) -> tuple[str, str]:
    """Repository and tag (or digest) of a normalized reference, as the columns of a listing show them."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    repository, _, tag = name.rpartition(":")
    return repository, tag


def is_digest(text: str) -> bool:
    """Whether this is `sha256:` and 64 hexadecimal digits."""
    return text.startswith("sha256:") and len(text) == 71 and _HEX.issuperset(text[7:])


def id_prefix(text: str) -> str | None:
    """The hexadecimal digits of an image id, or of its beginning; None when it can't be one."""
    digits = text.removeprefix("sha256:")
    return digits if 0 < len(digits) <= 64 and _HEX.issuperset(digits) else None


def file_name(reference: str) -> str:
    """A file name for a normalized reference; `+` stands for `/`, and no reference holds a `+` of its own."""
    return reference.replace("/", "+")


def from_file_name(name: str) -> str:
    """The reference whose `file_name` this is."""
    return name.replace("+", "/")


def _short(reference: str, repository: str) -> str:
    for hub in _DOCKER_HUB:
        repository = repository.removeprefix(hub)
    if repository.count("/") == 1:
        repository = repository.removeprefix("library/")
    domain, slash, path = repository.partition("/")
    if slash and _looks_like_domain(domain):
        if not _is_domain(domain):
            raise _invalid(reference, f"{domain!r} is not a registry's host name")
    else:
        path = repository
    if not all(_is_component(part) for part in path.split("/")):
        raise _invalid(reference, "a name is lower-case letters, digits and . _ - between them, parts set apart by /")
    if len(path) == 64 and _HEX.issuperset(path):
        raise _invalid(reference, "64 hexadecimal digits are an id, not a name")
    return repository


def _looks_like_domain(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost" or part != part.lower()


def _is_domain(part: str) -> bool:
    host, colon, port = part.partition(":")
    labels = host.split(".")
    return (
        _DOMAIN.issuperset(host)
        and all(label and label[0] != "-" and label[-1] != "-" for label in labels)
        and (not colon or (port.isascii() and port.isdigit()))
    )


def _is_component(part: str) -> bool:
    return bool(part) and _PATH.issuperset(part) and part[0] in _LOWER and part[-1] in _LOWER and ".." not in part


def _is_tag(tag: str) -> bool:
    return 0 < len(tag) <= 128 and _TAG.issuperset(tag) and tag[0] not in ".-"


def _invalid(reference: str, reason: str) -> InvalidArgument:
    shown = reference if len(reference) <= 80 else reference[:77] + "..."
    return InvalidArgument(f"{shown!r} is not an image reference: {reason}")
