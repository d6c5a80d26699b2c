"""`poc._lean` beside the standard modules it stands in for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poc._lean import contextlib as lean_contextlib
from poc._lean import json as lean_json
from poc._lean import signal as lean_signal
from poc._lean import socket as lean_socket

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_json_writes_and_reads_the_same(value: object) -> None:
    text = json.dumps(value)
    assert lean_json.dumps(value) == text
    assert lean_json.loads(text) == lean_json.loads(f" \n{text}\t\r".encode()) == json.loads(text)


@given(st.text(st.sampled_from('{}[]",: \n019.-eEtrufalsn\\"\ud800é')))
def test_json_refuses_the_same(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            lean_json.loads(text)
        assert str(found.value) == str(error)
    else:
        assert lean_json.loads(text) == expected


def test_json_that_is_none() -> None:
    for text in ("NaN", "-Infinity", "[Infinity]"):
        with pytest.raises(ValueError, match="is no number"):
            lean_json.loads(text)
    with pytest.raises(ValueError, match="utf-8"):
        lean_json.loads(b'"\xff"')
    for value in (b"bytes", {1, 2}):
        with pytest.raises(TypeError, match="is not JSON serializable"):
            lean_json.dumps(value)


def test_signals_are_the_same_numbers() -> None:
    assert lean_signal.valid_signals() == signal.valid_signals()
    assert [getattr(lean_signal, name) for name in dir(signal) if name.startswith("SIG")] == [
        getattr(signal, name) for name in dir(signal) if name.startswith("SIG")
    ]


def test_descriptors_through_a_socket() -> None:
    ours, theirs = lean_socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    reader, writer = os.pipe()
    with ours, theirs:
        assert lean_socket.send_fds(ours, [b"two"], [reader, writer]) == 3
        data, fds, _, _ = lean_socket.recv_fds(theirs, 10, 4, socket.MSG_CMSG_CLOEXEC)
        assert (data, len(fds)) == (b"two", 2)
        os.write(fds[1], b"x")
        assert os.read(reader, 10) == b"x"
        assert not any(os.get_inheritable(fd) for fd in (*fds, ours.fileno(), theirs.fileno()))
        ours.send(b"none")
        assert lean_socket.recv_fds(theirs, 10, 4)[:2] == (b"none", [])
    for fd in (reader, writer, *fds):
        os.close(fd)
    with pytest.raises(OSError):
        os.fstat(ours.fileno())


def test_a_socket_accepts(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "s")
    with lean_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        with lean_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)
            with listening.accept()[0] as accepted:
                accepted.sendall(b"hello")
                assert client.recv(10) == b"hello"
                assert not os.get_inheritable(accepted.fileno())


@pytest.mark.parametrize("kind", [contextlib.ExitStack, lean_contextlib.ExitStack])
def test_exit_stack(kind: type[lean_contextlib.ExitStack]) -> None:
    called: list[int] = []

    def fail(number: int) -> None:
        called.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError, match="1"), kind() as undo:
        undo.callback(called.append, 0)
        undo.callback(fail, 1)
        undo.callback(fail, 2)
    assert called == [2, 1, 0]
    with kind() as undo:
        undo.callback(called.append, 3)
        undo.pop_all()
    assert called == [2, 1, 0]
