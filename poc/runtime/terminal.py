"""The container's console: a pty from its own devpts, its slave on /dev/console and as controlling terminal."""

from __future__ import annotations

import fcntl
import os
import struct

from poc import _libc
from poc.rootfs import make_in_root, open_in_root, spare_proc

# asm-generic/ioctls.h; termios has not all of them in Python 3.11, and would have to be loaded at every start
_TIOCSCTTY, _TIOCSWINSZ, _TIOCSPTLCK, _TIOCGPTPEER = 0x540E, 0x5414, 0x40045431, 0x5441


def open_in_container(root_fd: int, rows: int = 0, columns: int = 0) -> tuple[int, int]:
    """(master, slave) of a new pty in the devpts below ``root_fd`` (pts(4)). Raises OSError."""
    ptmx = open_in_root(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(ptmx, _TIOCSPTLCK, struct.pack("i", 0))
    if rows and columns:
        resize(ptmx, rows, columns)
    # TIOCGPTPEER opens the slave without a path that the image could have prepared.
    slave = fcntl.ioctl(ptmx, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return ptmx, slave


def bind_console(root_fd: int, slave: int) -> None:
    """Show the terminal as /dev/console, whatever the image had there."""
    target = make_in_root(root_fd, "/dev/console", directory=False)
    spare_proc(target, "/dev/console")  # CVE-2025-52565: a link may lead from there
    tree = _libc.open_tree("", directory=slave)
    try:
        _libc.move_mount(tree, target)
    except OSError as error:
        raise OSError(error.errno, f"mount the terminal on /dev/console: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(tree)
        os.close(target)


def control(fd: int) -> None:
    """Make a terminal the session's controlling one (ioctl_tty(2), TIOCSCTTY)."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)


def resize(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
