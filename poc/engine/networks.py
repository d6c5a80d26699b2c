"""The store's network: one bridge whose subnet is chosen once, and addresses leased per container.

Attaching is done by a short-lived fork of the monitor: it alone loads pyroute2 (20 MB, more than 100 ms),
begins to do so before the container's process exists, and takes the memory with it when it ends.
"""

from __future__ import annotations

import _thread
import fcntl
import gc
import os

import prctl

from poc import _fs, net
from poc._lean import json, signal
from poc.errors import SetupError
from poc.namespaces import fork, reap, run_and_exit
from poc.net import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poc.engine.network import Network
    from poc.engine.store import Paths

    Found = list["Network"]


_GUEST = "guest"


class Networks:
    """The networks of one store."""

    __slots__ = ("_paths",)

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def _file(self) -> str:
        return f"{self._paths.data}/networks/bridge.json"

    def bridge(self) -> net.Bridge:
        """The store's bridge; its subnet is chosen by the first call. Raises OSError and PocError."""
        try:
            return self._load()
        except FileNotFoundError:
            pass  # the first bridged container of this store
        os.makedirs(os.path.dirname(self._file()), 0o755, exist_ok=True)
        lock = os.open(os.path.dirname(self._file()), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(self._file()):
                Helper(self._choose).wait()
            return self._load()
        finally:
            os.close(lock)

    def _load(self) -> net.Bridge:
        return net.Bridge(**_fs.read_json(self._file()))

    def _choose(self, _: str) -> None:
        name, table = bridge_names(self._paths)
        bridge = net.Bridge.establish(name, table)
        _fs.write_json(self._file(), {"name": name, "table": table, "subnet": bridge.subnet.text}, sync=True)

    def get(self, name: str) -> Network:
        """The network of this name, or with this id. Raises NetworkNotFound."""
        from poc.engine.network import get

        return get(self._paths, name)

    def list(self) -> Found:
        """All networks, by name."""
        from poc.engine.network import every

        return every(self._paths)

    def made(self) -> float:
        """When the store's bridge was made, in Unix seconds; 0 when it was not."""
        try:
            return os.stat(self._file()).st_mtime
        except FileNotFoundError:
            return 0.0

    def known(self) -> net.Bridge | None:
        """The store's bridge, if it has one already."""
        try:
            return self._load()
        except FileNotFoundError:
            return None

    def leases(self) -> net.Leases:
        """The leases of the store's bridge. Raises FileNotFoundError when it has none yet."""
        return net.Leases(self._paths.leases, self._load().subnet.text)

    def note_guest(self, id: str) -> None:
        """Another container comes to use the network of this one, which runs. Raises FileNotFoundError."""
        os.close(os.open(self._paths.runtime(id, _GUEST), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def release(self, id: str) -> None:
        """Free the address of a container, if it has one. The link goes with the network namespace.

        Unless others are in there: then it is taken away from them, or two containers would have one address.
        """
        if os.path.exists(self._paths.runtime(id, _GUEST)):
            Helper(lambda _: net.remove_link(net.host_interface_name(id))).wait()
        addresses.release(self._paths.leases, id)

    def ensure(self) -> None:
        """Make or repair the bridge, its address, forwarding and the nftables table."""
        bridge = self.bridge()
        Helper(lambda _: bridge.ensure()).wait()

    def exist(self) -> bool:
        """Is there anything to remove? A call that was killed may have made the bridge and not written the file."""
        return os.path.exists(self._file()) or net.Bridge(bridge_names(self._paths)[0]).exists()

    def remove(self) -> str:
        """Take the bridge and the nftables table away, and forget the subnet. Returns the bridge's name."""
        name, table = bridge_names(self._paths)
        Helper(lambda _: net.Bridge(name, table).remove()).wait()
        _fs.remove_file(self._file())
        return name


def bridge_names(paths: Paths) -> tuple[str, str]:
    """(bridge, nftables table) of a store: pocbr0 and poc, or names of its own for one made with ``--root``."""
    if paths.is_system:
        return "pocbr0", "poc"
    import zlib

    mark = f"{zlib.crc32(paths.data.encode()):08x}"
    return f"pocbr{mark}", f"poc-{mark}"


class Helper:
    """A forked process that waits for one word, calls a function with it and hands back the warnings it returns.

    It ends with its parent, and holds nothing of it open: a lock that the parent's death is to free least of all.
    """

    __slots__ = ("_pid", "_reader", "_writer")

    def __init__(
        self, function: Callable[[str], list[str] | None], prepare: Callable[[], object] | None = None
    ) -> None:
        load_ahead()
        self._reader, answer = os.pipe()
        word, self._writer = os.pipe()
        parent = os.getpid()
        self._pid = fork()
        if self._pid == 0:
            run_and_exit(lambda: _help(function, prepare, word, answer, parent))
        os.close(answer)
        os.close(word)

    def tell(self, word: str) -> None:
        """Let it work; it does so beside the caller."""
        try:
            os.write(self._writer, word.encode())
        except BrokenPipeError:
            pass  # it was killed; `wait` says so
        os.close(self._writer)
        self._writer = -1

    def wait(self) -> list[str]:
        """Wait until it is done; its warnings. Raises SetupError with what went wrong in it."""
        if self._writer >= 0:
            self.tell("-")
        try:
            answer = _fs.read_all(self._reader)
        finally:
            self._reap()
        if not answer:
            raise SetupError("the network helper was killed", "network")
        failure, warnings = json.loads(answer)
        if failure:
            raise SetupError(failure, "network")
        return list(warnings)

    def cancel(self) -> None:
        """End it, whatever it is doing; content when it has been waited for."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        os.close(self._reader)
        if self._writer >= 0:
            os.close(self._writer)
        reap(self._pid)
        self._pid = 0


def _help(
    function: Callable[[str], list[str] | None],
    prepare: Callable[[], object] | None,
    word: int,
    answer: int,
    parent: int,
) -> None:
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        return  # killed before the call, so there was no signal
    _fs.close_all_but(word, answer)
    gc.disable()  # a tenth of the time that loading pyroute2 takes
    failure, warnings = "", None
    try:
        if prepare is not None:
            prepare()
        # One read, not all up to the end: another thread's child may have a copy of the other end.
        told = os.read(word, 64).decode()
        if not told:
            return  # the parent has ended before there was anything to do
        warnings = function(told)
    except OSError as error:
        failure = error.strerror or str(error)
    except Exception as error:
        failure = str(error) or repr(error)
    _fs.write_all(answer, json.dumps([failure, warnings or []]).encode())


def load_ahead() -> None:
    """In a program with threads, import now what a forked child would import.

    A module that another thread is just importing is locked, and in the child for ever (importlib._bootstrap).
    """
    if _thread._count():
        _load_netlink()


def _load_netlink() -> None:
    """pyroute2, which takes longer than everything else."""
    import pyroute2.netlink.exceptions  # noqa: F401

    import poc.net.bridge
    import poc.net.firewall  # noqa: F401


class Attachment:
    """One container on the bridge: its address, leased at once, and its link, made while it mounts."""

    __slots__ = ("_bridge", "_hardware", "_helper", "_id", "_internal", "_leases", "address")

    def __init__(self, networks: Networks, id: str, internal: bool, hardware: str = "") -> None:
        """``hardware`` is the MAC address that is wished for."""
        self._id = id
        self._internal = internal
        self._hardware = hardware
        self._bridge = networks.bridge()
        self._leases = networks.leases()
        self.address = self._leases.acquire(id, internal)
        self._helper = Helper(self._attach, _load_netlink)

    def _attach(self, pid: str) -> list[str]:
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise SetupError("the container's process was killed while it was connected", "network") from None
        name = net.host_interface_name(self._id)
        return self._bridge.attach(namespace, name, self.address, self._internal, self._hardware)

    def begin(self, pid: int) -> None:
        """The container's process, and with it its network namespace, is there."""
        self._helper.tell(str(pid))

    def finish(self) -> list[str]:
        """Wait until the link is up; warnings. Raises SetupError."""
        return self._helper.wait()

    def cancel(self) -> None:
        """End the helper, whatever it is doing."""
        self._helper.cancel()
