"""`socket` without its enums and files: a socket that accepts and ends a ``with``, and descriptors through one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import *  # noqa: F403
else:
    import _socket as _python
    import struct
    from _socket import *  # noqa: F403

    _INT = struct.calcsize("i")

    class socket(_python.socket):
        __slots__ = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def accept(self):
            fd, address = self._accept()
            return socket(fileno=fd), address

    def socketpair(family=_python.AF_UNIX, type=_python.SOCK_STREAM, protocol=0):
        return tuple(socket(fileno=end.detach()) for end in _python.socketpair(family, type, protocol))

    def send_fds(end, buffers, fds):
        return end.sendmsg(buffers, [(_python.SOL_SOCKET, _python.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))])

    def recv_fds(end, size, most, flags=0):
        data, ancillary, flags, address = end.recvmsg(size, _python.CMSG_LEN(most * _INT), flags)
        fds = []
        for level, kind, content in ancillary:
            if (level, kind) == (_python.SOL_SOCKET, _python.SCM_RIGHTS):
                fds += struct.unpack(f"{len(content) // _INT}i", content[: len(content) // _INT * _INT])
        return data, fds, flags, address
