"""`poc-runtime run` on configurations that nobody would write: whatever they say, it ends, and nothing stays.

Valid ones (`oci_examples`) are mutated: a value is deleted, doubled, moved, replaced by another of its type or by
junk, a property renamed, the text itself damaged. They run in `oci_sandbox`, where they can't reach the host. The
examples are the same in every run; ``POC_MUTANTS=5000`` takes that many others, and pytest prints how to have a failure
again.
"""

from __future__ import annotations

import copy
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from conftest import needs
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from oci_examples import EXAMPLES, merge

from poc.errors import PocError
from poc.oci import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_sandbox import Outcome, Sandbox

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(600)]

_MORE = int(os.environ.get("POC_MUTANTS", "0"))


def _examples(number: int) -> settings:
    return settings(
        max_examples=_MORE or number,
        derandomize=not _MORE,
        print_blob=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def _is_valid(config: Any) -> bool:
    try:
        validate.check(config)
        return True
    except PocError:
        return False


VALID = [addition for addition in EXAMPLES if _is_valid(merge(addition))]
# What other configurations say may make sense in this one too, if an odd one.
WORDS = sorted(set(re.findall(r'"([^"]*)"', json.dumps(EXAMPLES))) - {"/bin/true"})
NUMBERS = (
    0,
    1,
    -1,
    7,
    255,
    4096,
    1 << 16,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    -(1 << 63),
    1 << 64,
)
STRINGS = (
    *("", " ", ".", "..", "/", "//", "relative/path", "/a/../..", "/no/such/file", "/etc/passwd", "/dev/null", "a=b"),
    *("a\0b", "\ud800", "two\nlines", "\x1b[2J", "é" * 300, "x" * 5000, "%s %n", "0-", "0-99999", "nosuid", "rbind"),
    *(
        "user",
        "mount",
        "time",
        "/proc",
        "/proc/self",
        "/proc/1/ns/net",
        "/proc/self/ns/user",
        "/proc/self/fd/3",
        "/sys",
    ),
    *("bind", "proc", "sysfs", "cgroup2", "devpts", "ext4", "tmpcopyup", "rshared", "SCMP_ACT_NOTIFY", "RLIMIT_NOFILE"),
    *("cgroup.freeze", "cgroup.procs", "memory.high", "kernel.panic", "net.ipv4.ip_forward", "net/../../x"),
)
JUNK = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(STRINGS),
    st.sampled_from((None, True, False, 1.5, 1e308, [], {}, [[]], {"": ""}, [None], {"*": [{}]}, [0] * 300)),
    st.text(max_size=20),
    st.integers(),
    st.integers(min_value=1, max_value=40).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)


LIKE = {
    bool: st.booleans(),
    int: st.one_of(st.sampled_from(NUMBERS), st.integers(min_value=0, max_value=5000)),
    str: st.one_of(st.sampled_from(STRINGS), st.sampled_from(WORDS), st.text(max_size=20)),
}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(object or array, key or position) of everything in a configuration."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    config = merge({})
    for addition in draw(st.lists(st.sampled_from(VALID), max_size=3)):
        config = merge(addition, config)
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        places = list(_places(config))
        if places:
            _mutate(draw, config, places)
    data = json.dumps(config).encode()
    return _damage(draw, data) if draw(st.integers(min_value=0, max_value=9)) == 9 else data


def _mutate(draw: st.DrawFn, config: Any, places: list[tuple[Any, Any]]) -> None:
    holder, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(("alter",) * 6 + ("replace", "delete", "move", "double", "double", "rename", "wrap")))
    if how == "alter" and type(holder[key]) in LIKE:
        holder[key] = draw(LIKE[type(holder[key])])
    elif how in ("alter", "replace"):
        holder[key] = copy.deepcopy(draw(JUNK))
    elif how == "delete":
        del holder[key]
    elif how == "move":
        other, name = draw(st.sampled_from(places))
        holder[key] = copy.deepcopy(other[name])
    elif how == "wrap":
        holder[key] = [holder[key]]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        name = draw(st.sampled_from(STRINGS))
        holder[name] = holder[key] if how == "double" else holder.pop(key)


def _damage(draw: st.DrawFn, data: bytes) -> bytes:
    start = draw(st.integers(min_value=0, max_value=len(data)))
    end = draw(st.integers(min_value=start, max_value=len(data)))
    return data[:start] + draw(st.binary(max_size=8)) + data[end:]


def _judge(outcome: Outcome) -> None:
    note(repr(outcome))
    event(f"exit status {outcome.status}")
    assert outcome.status is not None, "it hangs"
    assert outcome.left == []
    lines = outcome.stderr.split("\n")
    assert lines.pop() == ""
    errors = [line for line in lines if not line.startswith("poc-runtime: warning: ")]
    assert all(line.startswith("poc-runtime: ") and line.isprintable() and len(line) < 25000 for line in lines)
    # Of itself the program ends with 0; whatever else kills it, a limit or a filter, does so by a signal.
    assert len(errors) == (outcome.status == 1)
    assert outcome.status in (0, 1) or 128 < outcome.status < 192


@given(configurations())
@_examples(300)
def test_mutants(sandbox: Sandbox, config: bytes) -> None:
    _judge(sandbox.run(config))


@given(configurations())
@_examples(20)
def test_mutants_from_the_shell(sandbox: Sandbox, config: bytes) -> None:
    """The same through a new interpreter, as an engine does it."""
    _judge(sandbox.run(config, real=True))
