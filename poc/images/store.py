"""The image store: what lies under a data directory and how it changes.

    blobs/sha256/<hex>              image configurations (OCI image-spec config.md); the image id is their digest
    layers/<hex>/                   unpacked layers, named by diff_id: ready to be an overlay's lower directory
    images/by-id/<hex>.json         one record per image: all that starting a container needs, in one read
    images/by-reference/<name>      symbolic link to a record; two links to one record are an alias
    layers/.work-…/                 work under way, or left over

An image comes into being in a work directory and enters the store in one step under the store's lock: layer, blob,
record, reference, in this order; it leaves in the opposite one. Killed anywhere, what a reference names is whole,
and what nothing names is deleted by `clean`. A work directory is locked (flock) for as long as the process that
works in it lives, children included, so nobody takes it for a leftover before.

A layer's tarball is not kept: `archive.pack` makes a stream of the directory again where one is asked for.
`layers/` is closed to all but root, for it holds other systems' setuid files and devices.
"""

from __future__ import annotations

import fcntl
import os

from poc import _fs, errors
from poc.images import references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    Progress = Callable[[str, int, int], object] | None
    Images = list["Image"]
    Names = list[str]  # `list` is a method below

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Image:
    """One image as the store knows it.

    ``id`` "sha256:<64 hex>"; ``layers`` absolute directories, bottom first; ``config`` the "config" object of the OCI
    image configuration (Env, Cmd, Entrypoint, WorkingDir, User, Labels, StopSignal); ``created`` RFC 3339;
    ``size`` bytes on disk of all layers; ``distribution`` what /etc/os-release says it is ("debian:12", or "");
    ``source`` what `poc init` made it from ("" for other images), and ``origin`` the circumstances.
    """

    __slots__ = (
        "_references",
        "_store",
        "architecture",
        "config",
        "created",
        "distribution",
        "id",
        "layers",
        "origin",
        "os",
        "size",
        "source",
    )

    def __init__(self, store: Store, record: dict[str, Any], names: Names | None = None) -> None:
        self._store, self._references = store, names
        self.id: str = record["id"]
        self.layers: Names = [os.path.join(store.layers, layer) for layer in record["layers"]]
        self.config: dict[str, Any] = record["config"]
        self.created: str = record["created"]
        self.size: int = record["size"]
        self.architecture: str = record["architecture"]
        self.os: str = record["os"]
        self.distribution: str = record.get("distribution", "")
        self.source: str = record.get("source", "")
        self.origin: str = record.get("origin", "")

    @property
    def references(self) -> Names:
        """The references that name this image now, sorted."""
        if self._references is None:
            self._references = self._store.references().get(self.id, [])
        return self._references

    @property
    def note(self) -> str:
        """What a user of `ubuntu` must be told in one line: that it is something else. "" when it isn't."""
        if not self.source or self.distribution.startswith("ubuntu:"):
            return ""
        what = f"is an alias of {self.distribution}" if self.distribution else "does not say what system it is"
        return f"ubuntu {what} ({self.origin})"

    def named(self, references: Names) -> Image:
        """The same, of which only these references are of interest."""
        image = Image.__new__(Image)
        for slot in self.__slots__:
            setattr(image, slot, getattr(self, slot))
        image._references = references
        return image

    @property
    def attrs(self) -> dict[str, Any]:
        """docker's ``inspect`` object."""
        from poc.images.description import describe

        return describe(self, self._store.blobs)

    @property
    def tagged(self) -> str:
        """When it was given a reference last, RFC 3339; "" when it has none."""
        times = [self._store.tagged(name) for name in self.references]
        return max(times, default="")

    @property
    def complete(self) -> bool:
        """Whether every layer is there."""
        return all(os.path.isdir(layer) for layer in self.layers)

    def __repr__(self) -> str:
        return f"<Image {', '.join(self.references) or self.id[:19]}>"


class Work:
    """A locked directory to prepare an image in, deleted at the end of the `with`.

    ``fd`` holds the lock: a child that inherits it keeps the directory from being taken for a leftover.
    """

    __slots__ = ("_layers", "fd", "path")

    def __init__(self, layers: str) -> None:
        self._layers, self.fd = layers, -1
        self.path = os.path.join(layers, f".work-{os.getpid()}-{os.urandom(4).hex()}")

    def __enter__(self) -> Work:
        with _Lock(self._layers):  # or `Store.clean` could come between mkdir and flock
            os.mkdir(self.path, 0o700)
            self.fd = _lock_directory(self.path, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _fs.remove_tree(self.path)
        finally:
            os.close(self.fd)

    def rootfs(self) -> str:
        """A new directory for a rootfs, with the mode that / has."""
        path = os.path.join(self.path, "rootfs")
        os.mkdir(path)
        os.chmod(path, 0o755)  # the umask had its say in mkdir
        return path


class _Lock:
    """The store's lock: held for renames, never for work."""

    __slots__ = ("_fd", "_layers")

    def __init__(self, layers: str) -> None:
        self._layers = layers

    def __enter__(self) -> None:
        self._fd = _lock_directory(self._layers, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Store:
    """The images under a data directory. Nothing is made there before the first image is added."""

    __slots__ = ("blobs", "data", "images", "layers", "named")

    def __init__(self, data_directory: str) -> None:
        self.data = data_directory
        self.blobs = os.path.join(data_directory, "blobs", "sha256")
        self.layers = os.path.join(data_directory, "layers")
        self.images = os.path.join(data_directory, "images", "by-id")
        self.named = os.path.join(data_directory, "images", "by-reference")

    # Reading

    def get(self, reference: str) -> Image:
        """The image of this name[:tag], id or unique beginning of an id. One small file is read for a name.

        Raises ImageNotFound, and InvalidArgument for what can't be a reference or fits several ids.
        """
        digits = references.id_prefix(reference)
        if digits is None or not (len(digits) == 64 or ":" in reference):
            path = os.path.join(self.named, references.file_name(references.normalize(reference)))
            image = self._load(path)
            if image:
                return image
        image = self._load(self._record_path(self._complete_id(reference, digits))) if digits else None
        if not image:
            raise errors.ImageNotFound(reference)
        return image

    def list(self) -> Images:
        """All images, newest first, those without a reference too."""
        names = self.references()
        images = []
        for entry in _entries(self.images):
            image = self._load(os.path.join(self.images, entry)) if entry.endswith(".json") else None
            if image:
                image._references = names.get(image.id, [])
                images.append(image)
        return sorted(images, key=lambda image: (image.created, image.id), reverse=True)

    def references(self) -> dict[str, Names]:
        """Image id → its references, sorted."""
        result: dict[str, Names] = {}
        for entry in sorted(_entries(self.named)):
            identifier = self._target(entry)
            if identifier:
                result.setdefault(identifier, []).append(references.from_file_name(entry))
        return result

    def tagged(self, reference: str) -> str:
        """When this reference was given, RFC 3339; "" when it is gone."""
        path = os.path.join(self.named, references.file_name(reference))
        try:
            seconds = os.lstat(path).st_mtime
        except FileNotFoundError:
            return ""
        import time

        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

    def _load(self, path: str) -> Image | None:
        try:
            return Image(self, _fs.read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise errors.PocError(
                f"the image record {path} is damaged ({error}); delete it and make the image anew"
            ) from None

    def _complete_id(self, reference: str, digits: str) -> str:
        found = [entry[:64] for entry in _entries(self.images) if entry.startswith(digits) and entry.endswith(".json")]
        if len(found) > 1:
            raise errors.InvalidArgument(f"{reference} is the beginning of {len(found)} image ids; give more of it")
        return found[0] if found else digits

    def _record_path(self, hexadecimal: str) -> str:
        return os.path.join(self.images, f"{hexadecimal}.json")

    def _target(self, entry: str) -> str | None:
        try:
            target = os.readlink(os.path.join(self.named, entry))
        except OSError:
            return None  # removed meanwhile, or no link of ours
        return f"sha256:{os.path.basename(target).removesuffix('.json')}"

    # Adding

    def add_tar(
        self,
        file: IO[bytes] | str,
        reference: str,
        config: dict[str, Any] | None = None,
        progress: Progress = None,
        *,
        source: str = "",
        origin: str = "",
        step: dict[str, Any] | None = None,
    ) -> Image:
        """Make an image of a rootfs tarball: a path or a binary file, plain or gzip, bzip2, xz, zstd.

        ``config`` overrides keys of the default configuration (PATH, and bash or sh as the command); ``source`` and
        ``origin`` as in `Image`, ``step`` what its history says (`content.write_config`). Without a ``reference``, ""
        it has none. Adding the same again is the same image. Raises InvalidArgument and OSError as
        `archive.unpack` does; nothing is left then.
        """
        from poc.images import archive

        reference = references.normalize(reference) if reference else ""
        with self.work() as work:
            rootfs = work.rootfs()
            layer = archive.unpack(file, rootfs, progress, keep=(work.fd,))
            return self.adopt(rootfs, layer, reference, config, source=source, origin=origin, step=step)

    def add_directory(
        self,
        path: str,
        reference: str,
        config: dict[str, Any] | None = None,
        progress: Progress = None,
        *,
        source: str = "",
        origin: str = "",
    ) -> Image:
        """Make an image of a copy of a rootfs directory, without what is mounted in it; see `add_tar`."""
        from poc.images import archive

        path = os.path.realpath(path)
        if not os.path.isdir(path):
            raise errors.InvalidArgument(f"{path} is not a directory")
        if os.path.commonpath((path, os.path.realpath(self.data))) == path:
            raise errors.InvalidArgument(f"{path} holds poc's own store, {self.data}; an image can't contain itself")
        with archive.pack(path) as stream:
            return self.add_tar(stream, reference, config, progress, source=source, origin=origin)

    def adopt(
        self,
        rootfs: str,
        layer: str,
        reference: str,
        config: dict[str, Any] | None = None,
        *,
        source: str = "",
        origin: str = "",
        step: dict[str, Any] | None = None,
    ) -> Image:
        """Move a finished rootfs from a work directory into the store as a one-layer image.

        ``layer`` is the digest of its tar stream. The rootfs reaches the disk before anything names it.
        """
        from poc.images import content

        details = content.describe(rootfs, layer, config) | {"source": source, "origin": origin}
        content.sync(rootfs)
        with self._lock():
            present = self._same(reference, details) if reference and not step else None
            self._enter_layer(rootfs, layer)
            record = present or content.write_config(self.blobs, details, step)
            if not present:
                _fs.write_json(self._record_path(record["id"][7:]), record, sync=True)
            if reference:
                self._link(reference, record["id"])
        return Image(self, record)

    def stack(
        self, base: Image, rootfs: str, layer: str, reference: str, config: dict[str, Any], step: dict[str, Any]
    ) -> Image:
        """Move a finished layer from a work directory into the store, as the topmost of an image on those of another.

        It is an overlay's lower directory: deleted files are devices 0:0, directories may be opaque. ``layer`` is the
        digest of its tar stream, "" when nothing is in it; ``step`` as in `content.write_config`.
        """
        from poc.images import content

        below = [os.path.basename(path) for path in base.layers]
        if layer[7:] in below:
            raise errors.Conflict(f"{base!r} has this very layer already; overlayfs can't have it twice")
        details = {
            "layers": [*below, *([layer[7:]] if layer else [])],
            "size": base.size + (content.disk_usage(rootfs) if layer else 0),
            "created": content.now(),
            "architecture": base.architecture,
            "os": base.os,
            "config": config,
            **{"distribution": base.distribution, "source": "", "origin": ""},
        }
        content.sync(rootfs)
        with self._lock():
            if layer:
                self._enter_layer(rootfs, layer)
            step = {**step, "empty_layer": not layer}
            record = content.write_config(self.blobs, details, step, content.read_config(self.blobs, base.id))
            _fs.write_json(self._record_path(record["id"][7:]), record, sync=True)
            if reference:
                self._link(reference, record["id"])
        return Image(self, record)

    def _same(self, reference: str, details: dict[str, Any]) -> dict[str, Any] | None:
        """The record under ``reference`` when it says the same as ``details``, whenever that was."""
        try:
            record: dict[str, Any] = _fs.read_json(os.path.join(self.named, references.file_name(reference)))
        except (FileNotFoundError, ValueError):
            return None
        compared = details.keys() - {"created", "size"}  # the same files can take a block more or less
        return record if all(record.get(key) == details[key] for key in compared) else None

    def _enter_layer(self, rootfs: str, layer: str) -> None:
        target = os.path.join(self.layers, layer[7:])
        if not os.path.isdir(target):
            os.rename(rootfs, target)
            _fs.sync_directory(self.layers)

    def tag(self, reference: str, new: str) -> Image:
        """Give an image another reference; taken from the image that has it, if one has."""
        new = references.normalize(new)
        with self._lock():
            image = self.get(reference)
            self._link(new, image.id)
        return self.get(new)

    def _link(self, reference: str, identifier: str) -> None:
        path, temporary = os.path.join(self.named, references.file_name(reference)), os.path.join(self.named, ".new")
        _fs.remove_file(temporary)
        os.symlink(f"../by-id/{identifier[7:]}.json", temporary)
        os.rename(temporary, path)
        _fs.sync_directory(self.named)

    # Removing

    def remove(
        self, reference: str, force: bool = False, before_delete: Callable[[Image], object] | None = None
    ) -> tuple[Names, Names]:
        """Take a reference away, and the image with its last one. Returns (references, ids) that are gone.

        Given an id: all its references, which needs ``force`` when there are several (Conflict). Layers that another
        image has stay. ``before_delete`` is called when the image itself is about to go, and forbids it by raising:
        whether a container uses it is not the store's to know.
        """
        with self.work() as work:
            with self._lock():
                image = self.get(reference)
                names = image.references
                gone = self._names_meant(reference, names)
                if len(gone) > 1 and not force:
                    raise errors.Conflict(
                        f"image {reference} has several names ({', '.join(names)}); name one, or force"
                    )
                if before_delete and len(gone) == len(names):
                    before_delete(image)
                for name in gone:
                    _fs.remove_file(os.path.join(self.named, references.file_name(name)))
                _fs.sync_directory(self.named)
                if len(gone) < len(names):
                    return gone, []
                _fs.remove_file(self._record_path(image.id[7:]))
                _fs.sync_directory(self.images)
                self._discard_unused(work)
            return gone, [image.id]

    def _names_meant(self, reference: str, names: Names) -> Names:
        try:
            name = references.normalize(reference)
        except errors.InvalidArgument:
            return names  # an id
        return [name] if name in names else names

    def clean(self) -> None:
        """Delete what killed calls left: work directories, layers and blobs that no record names."""
        if not os.path.isdir(self.layers):
            return
        with self.work() as work, self._lock():
            self._discard_unused(work)
            for directory in (self.images, self.named):
                for entry in _entries(directory):
                    if entry.endswith((".tmp", ".new")):
                        _fs.remove_file(os.path.join(directory, entry))
        self.sweep()

    def sweep(self) -> None:
        """Delete work directories that killed calls left; the cheap part of `clean`."""
        with self._lock():  # or one that is just being made could be taken between its mkdir and its flock
            found = [os.path.join(self.layers, name) for name in _entries(self.layers) if name.startswith(".work-")]
            abandoned = [(path, fd) for path in found if (fd := _try_lock(path)) is not None]
        for path, fd in abandoned:
            try:
                _fs.remove_tree(path)
            finally:
                os.close(fd)

    def _discard_unused(self, work: Work) -> None:
        """Move layers that no record names to ``work``, which is deleted when the lock is given up again."""
        images = self.list()
        configs = {image.id[7:] for image in images}
        used = {os.path.basename(layer) for image in images for layer in image.layers}
        for layer in _entries(self.layers):
            if layer[0] != "." and layer not in used:
                os.rename(os.path.join(self.layers, layer), os.path.join(work.path, layer))
        for blob in _entries(self.blobs):
            if blob not in configs:
                _fs.remove_file(os.path.join(self.blobs, blob))

    # Exclusion

    def work(self) -> Work:
        """A place on the store's file system to prepare an image in, for a `with`."""
        self.prepare()
        return Work(self.layers)

    def _lock(self) -> _Lock:
        self.prepare()
        return _Lock(self.layers)

    def prepare(self) -> None:
        """Make the store's directories, where they are missing."""
        for directory in (self.blobs, self.layers, self.images, self.named):
            os.makedirs(directory, 0o700, exist_ok=True)


def _entries(directory: str) -> Names:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _lock_directory(path: str, operation: int) -> int:
    """flock(2) on a directory: a descriptor that holds the lock until it, and every copy of it, is closed."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, operation)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(path: str) -> int | None:
    """The same, None when somebody works there, or was done just now."""
    try:
        return _lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return None


def architecture() -> str:
    """This machine's architecture in the words of the OCI image specification (Go's GOARCH)."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)
