"""A tar stream becomes a rootfs directory, and a rootfs directory a tar stream.

    file or path ─ decompress ─┬─ sha256 (the layer's diff_id)
                               └─ GNU tar --extract ─ directory

GNU tar does the unpacking: owners, modes with setuid, devices, FIFOs, hard links, holes, times, and extended
attributes with file capabilities, none of which Python's `tarfile` restores in full. It keeps hostile names inside:
a leading `/` is cut off, `..` is refused, and a symbolic link that points up or out is made after all files, so that
nothing is written through it. That holds for an empty directory only (CVE-2025-45582), which is what `unpack` demands.

Does not know images: `poc.images.store` does.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import select
import subprocess
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from poc.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Progress = Callable[[str, int, int], object] | None

CHUNK = 1 << 20
BLOCK = 512

# A lower layer's trusted.overlay.* are orders to the kernel (redirect, metacopy, opaque), not the image's to give.
_XATTRS = ("--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.overlay.*")
_EXTRACT = (
    *("tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--preserve-permissions"),
    *(*_XATTRS, "--acls", "--delay-directory-restore"),
    *("--warning=no-timestamp", "--warning=no-unknown-keyword", "--warning=no-alone-zero-block"),
)
# The same tree gives the same bytes: sorted, without the times that reading it changes, and with sparse files in
# the one version whose member names don't hold tar's pid.
_CREATE = (
    *("tar", "--create", "--file=-", "--numeric-owner", "--sort=name", "--sparse", "--sparse-version=0.0"),
    *(*_XATTRS, "--acls", "--one-file-system", "--warning=no-file-ignored"),
    *("--format=pax", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"),
)
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_HARMLESS = ("Removing leading",)
_KERNEL_SAID = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "Input/output error": errno.EIO,
    "Operation not permitted": errno.EPERM,
}

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma", b"\x28\xb5\x2f\xfd": "zstandard"}


def unpack(source: IO[bytes] | str, directory: str, progress: Progress = None, keep: Sequence[int] = ()) -> str:
    """Unpack a tar archive, plain or compressed with gzip, bzip2, xz or zstd, into an empty directory.

    ``source`` is a path or a binary file, which may be a pipe. ``keep`` are descriptors that the unpacking process
    inherits: a lock among them is held until that process is gone too. Returns the digest of the uncompressed
    stream, `sha256:…`. Raises InvalidArgument for what is no whole archive, OSError for what the kernel refuses
    (a full disk); ``directory`` is then half filled and the caller's to delete.
    """
    if os.listdir(directory):
        raise InvalidArgument(f"{directory} is not empty; an archive is only unpacked into an empty directory")
    with _opened(source) as (file, name, total), _Extractor(directory, name, keep) as extractor:
        digest, tail = hashlib.sha256(), b""
        for chunk in _decompressed(file, name):
            digest.update(chunk)
            extractor.write(chunk)
            tail = (tail + chunk[-BLOCK:])[-BLOCK:]
            if progress:
                progress(f"unpacking {name}", file.tell() if total else 0, total)
        if tail.strip(b"\0") or not tail:
            extractor.finish()  # which knows better what is wrong, unless the cut is between two files
            raise InvalidArgument(f"{name} is not a whole tar archive: its end is missing")
        extractor.finish()
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def pack(directory: str) -> Iterator[IO[bytes]]:
    """A readable tar stream of a directory, the same bytes each time; what is mounted in it is left out.

    Raises InvalidArgument at the end of the `with` when something in the directory could not be read.
    """
    options: dict[str, Any] = {"cwd": directory, "env": _ENVIRONMENT}
    with tempfile.TemporaryFile() as complaint:
        with subprocess.Popen((*_CREATE, "."), stdout=subprocess.PIPE, stderr=complaint, **options) as tar:
            assert tar.stdout
            try:
                yield tar.stdout
            except BaseException:
                tar.kill()
                raise
        complaint.seek(0)
        if tar.returncode:
            raise _refusal(complaint.read(), f"can't read all of {directory}")


def digest_of(directory: str) -> str:
    """The digest, `sha256:…`, of the stream that `pack` makes of a directory."""
    digest = hashlib.sha256()
    with pack(directory) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


class _Extractor:
    """A GNU tar that is fed, and stopped at its first word: on success it says nothing."""

    def __init__(self, directory: str, name: str, keep: Sequence[int]) -> None:
        self._failure = f"can't unpack {name}"
        self._complaint = b""
        self._tar = subprocess.Popen(
            _EXTRACT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,  # tar's own --directory takes a backslash for an escape
            bufsize=0,
            pass_fds=keep,
            umask=0o022,  # for directories that have no entry of their own
            env=_ENVIRONMENT,
        )
        assert self._tar.stdin and self._tar.stderr
        self._stdin, self._stderr = self._tar.stdin, self._tar.stderr
        os.set_blocking(self._stdin.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._stdin, select.POLLOUT)
        self._poll.register(self._stderr, select.POLLIN)

    def __enter__(self) -> _Extractor:
        return self

    def write(self, data: bytes) -> None:
        """Feed ``data``. What tar doesn't want any more, after the archive's end mark, is dropped."""
        view = memoryview(data)
        while view and not self._stdin.closed:
            events = dict(self._poll.poll())
            if events.get(self._stderr.fileno(), 0):
                self._hear()
            if events.get(self._stdin.fileno(), 0):
                view = view[self._offer(view) :]

    def _offer(self, view: memoryview) -> int:
        try:
            return os.write(self._stdin.fileno(), view)
        except BrokenPipeError:
            self._close_stdin()
            return 0

    def _close_stdin(self) -> None:
        self._poll.unregister(self._stdin)
        self._stdin.close()

    def _hear(self) -> None:
        words = os.read(self._stderr.fileno(), 1 << 16)
        if not words:
            self._poll.unregister(self._stderr)  # tar has ended; without this its POLLHUP comes for ever
        self._complaint += words
        lines = self._complaint.split(b"\n")
        if any(not _harmless(line) for line in lines[:-1]):
            raise _refusal(self._complaint, self._failure)

    def finish(self) -> None:
        """Wait for the last file. Raises what `unpack` raises."""
        self._stdin.close()
        self._complaint += self._stderr.read()
        if self._tar.wait() or any(not _harmless(line) for line in self._complaint.splitlines()):
            raise _refusal(self._complaint, self._failure)

    def __exit__(self, *_: object) -> None:
        self._tar.kill()
        self._stdin.close()
        self._stderr.close()
        self._tar.wait()


def _harmless(line: bytes) -> bool:
    return not line or any(words.encode() in line for words in _HARMLESS)


def _refusal(complaint: bytes, failure: str) -> Exception:
    lines = [line for line in complaint.splitlines() if not _harmless(line)]
    text = lines[0].decode("utf-8", "replace").removeprefix("tar: ") if lines else "tar was killed"
    if "Wrote only" in text:
        text += ": No space left on device"  # a write cut short is the first sign of it
    code = _KERNEL_SAID.get(text.rpartition(": ")[2])
    return OSError(code, f"{failure}: {text}") if code else InvalidArgument(f"{failure}: {text}")


@contextmanager
def _opened(source: IO[bytes] | str) -> Iterator[tuple[io.BufferedReader[Any], str, int]]:
    """The compressed file, what to call it, and its size, 0 when it has none (a pipe)."""
    if not isinstance(source, str):
        file = io.BufferedReader(cast("Any", source), CHUNK)
        try:
            yield file, "the archive", 0
        finally:
            file.detach()  # or it would close the caller's file
        return
    if os.path.isdir(source):
        raise InvalidArgument(f"{source} is a directory, not an archive")
    with io.BufferedReader(io.FileIO(source), CHUNK) as file:
        yield file, source, os.fstat(file.fileno()).st_size


def _decompressed(file: io.BufferedReader[Any], name: str) -> Iterator[bytes]:
    head = file.peek(8)
    kind = next((kind for magic, kind in _COMPRESSIONS.items() if head.startswith(magic)), "")
    stream = _decompressor(kind, file)
    while chunk := _read(stream, name, kind):
        yield chunk


def _decompressor(kind: str, file: io.BufferedReader[Any]) -> IO[bytes]:
    if kind == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if kind == "bz2":
        import bz2

        return bz2.BZ2File(file)
    if kind == "lzma":
        import lzma

        return lzma.LZMAFile(file)
    if kind == "zstandard":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file


def _read(stream: IO[bytes], name: str, kind: str) -> bytes:
    try:
        return stream.read(CHUNK)
    except Exception as error:
        # Each decompressor has exceptions of its own; only the kernel's carry an errno.
        if isinstance(error, OSError) and error.errno:
            raise
        raise InvalidArgument(f"{name} is damaged ({kind}: {error})") from None
