"""What an image is made of: the description of a rootfs, and the image configuration as a blob.

The configuration follows github.com/opencontainers/image-spec, config.md.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import subprocess
import time

from poc import _fs, _libc, errors
from poc.images import references
from poc.images.store import DEFAULT_PATH, architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_libc_without_gil = ctypes.CDLL(None, use_errno=True)


def describe(rootfs: str, layer: str, config: dict[str, Any] | None) -> dict[str, Any]:
    """What can be seen of a one-layer image: its record, but for the id and where it came from."""
    directory = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        shell = "/bin/bash" if _exists(directory, "bin/bash") else "/bin/sh"
        defaults = {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": [shell]}
        return {
            "layers": [layer.removeprefix("sha256:")],
            "size": disk_usage(rootfs),
            "created": now(),
            "architecture": architecture(),
            "os": "linux",
            "config": {**defaults, **(config or {})},
            "distribution": distribution(directory),
        }
    finally:
        os.close(directory)


def write_config(
    blobs: str, details: dict[str, Any], step: dict[str, Any] | None = None, base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write the image configuration for ``details`` as a blob; the record with the id that follows from it.

    ``step`` is what the history says of the last layer (image-spec: created_by, author, comment, empty_layer), and
    ``base`` the configuration of the image below it.
    """
    configuration = {key: details[key] for key in ("created", "architecture", "os", "config")}
    configuration["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in details["layers"]]}
    said = {"created_by": f"poc {details['source'] or 'import'}", **(step or {})}
    configuration["history"] = [
        *((base or {}).get("history") or []),
        {"created": details["created"], **{key: value for key, value in said.items() if value}},
    ]
    if said.get("author"):
        configuration["author"] = said["author"]
    blob = json.dumps(configuration, separators=(",", ":"), sort_keys=True).encode()
    digest = hashlib.sha256(blob).hexdigest()
    _fs.write_atomic(os.path.join(blobs, digest), blob, sync=True)
    return {"id": f"sha256:{digest}", **details}


def read_config(blobs: str, identifier: str) -> dict[str, Any]:
    """The image configuration of this id; {} when it is not there."""
    try:
        configuration: dict[str, Any] = _fs.read_json(os.path.join(blobs, identifier.removeprefix("sha256:")))
    except FileNotFoundError:
        return {}
    return configuration


def now() -> str:
    """RFC 3339, for ``created``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def distribution(directory: int) -> str:
    """`debian:12` for a rootfs whose /etc/os-release says so (os-release(5)); "" when that makes no reference."""
    try:
        fd = _libc.openat2(directory, "etc/os-release", os.O_RDONLY | os.O_NONBLOCK, _libc.RESOLVE_IN_ROOT)
    except OSError:
        return ""
    try:
        text = os.read(fd, 1 << 14).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)
    fields = os_release(text)
    version = fields.get("VERSION_ID") or fields.get("VERSION_CODENAME") or "latest"
    try:
        return references.normalize(f"{fields.get('ID', '')}:{version}")
    except errors.InvalidArgument:
        return ""  # it may hold anything, escape sequences too


def os_release(text: str) -> dict[str, str]:
    """The variables of an os-release(5) file."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): _unquoted(value) for name, value in pairs}


def disk_usage(directory: str) -> int:
    """Bytes on disk of a tree, a file with several links counted once, mounts left out."""
    command = ("du", "--summarize", "--block-size=1", "--one-file-system", directory)
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode:
        raise errors.PocError(f"can't measure {directory}: {result.stderr.decode(errors='replace').splitlines()[0]}")
    return int(result.stdout.split()[0])


def sync(directory: str) -> None:
    """syncfs(2): what has been written to the file system of ``directory`` survives a power cut from here on."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc.check(_libc_without_gil.syncfs(fd), "syncfs", directory)
    finally:
        os.close(fd)


def _exists(directory: int, path: str) -> bool:
    try:
        os.close(_libc.openat2(directory, path, os.O_PATH, _libc.RESOLVE_IN_ROOT))
    except OSError:
        return False
    return True


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return ""
