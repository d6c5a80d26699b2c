"""A container's cgroup as a scope of systemd's, for hosts where systemd owns the tree (`poc-runtime --systemd-cgroup`).

systemd makes a scope around a process that is there already, so the container's first process is cloned outside and
waits where others join their group::

    parent                                  child                                   systemd
    ──────                                  ─────                                   ───────
    Scope.create: a pipe
    clone3 ───────────────────────────────▶ Scope.join: reads the pipe
    Scope.admit(pid) ─────────────────────────────────────────────────────────────▶ StartTransientUnit, PIDs=
                     ◀───────────────────────────────────────────────────────────── the child is inside, JobRemoved
    hierarchies unknown to systemd, limits
    writes the pipe ──────────────────────▶ joins the rest, and goes on

Limits are written to the files as everywhere. What systemd has a property for is then told to it, as the kernel now
shows it: otherwise `systemctl daemon-reload` puts its defaults back. The rest (burst, hugetlb, throttles, rdma …)
systemd does not touch, since the scope is delegated.

Source: org.freedesktop.systemd1(5), systemd.resource-control(5), systemd.io/CGROUP_DELEGATION, runc's docs/systemd.md
for the form of cgroupsPath and of annotations.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from poc import _fs
from poc.cgroups import devices
from poc.cgroups.group import Cgroup, _remove_empty
from poc.cgroups.settings import parse_list, plan
from poc.errors import Conflict, InvalidArgument, SetupError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Property = tuple[str, tuple[str, Any]]  # its name, and the value with its D-Bus signature

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_SOCKET = "/run/systemd/private"  # systemctl's own way for root: no message bus need run
_NAME = "org.freedesktop.systemd1"
_SECONDS = 30.0  # for one call or job, as in runc
_UNIT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")
_INFINITY = (1 << 64) - 1
_V1_UNLIMITED = 1 << 60
_ANNOTATION = "org.systemd.property."

# Those hierarchies of v1 that systemd keeps in order; in the others nobody else clears up.
_MANAGED = frozenset(("cpu", "cpuacct", "blkio", "memory", "devices", "pids", "name=systemd"))


def require() -> None:
    """Raises Unsupported unless systemd is this host's init."""
    if not os.path.isdir(_BOOTED):
        raise Unsupported("--systemd-cgroup: systemd does not run here")


def locate(cgroups_path: str, id: str) -> str:
    """The scope's path below the root of each hierarchy, for an OCI cgroupsPath "slice:prefix:name".

    An empty slice is system.slice, "-.slice" the root; an empty path means ":poc-runtime:<id>".
    """
    slice, *rest = (cgroups_path or f":poc-runtime:{id}").split(":")
    if len(rest) != 2:
        raise InvalidArgument(
            f"/linux/cgroupsPath: {cgroups_path!r:.100} is not of the form slice:prefix:name, as with --systemd-cgroup"
        )
    prefix, name = rest
    unit = f"{prefix}-{name}.scope"
    if not name or name.endswith(".slice") or not _UNIT_CHARACTERS.issuperset(unit) or len(unit) > 255:
        raise InvalidArgument(f"/linux/cgroupsPath: {unit!r:.100} is no name of a systemd scope")
    return "/".join([*_slices(slice or "system.slice"), unit])


def _slices(slice: str) -> list[str]:
    """A slice and those around it, the outermost first: "a-b.slice" lies in "a.slice" (systemd.slice(5))."""
    stem = slice.removesuffix(".slice")
    if slice in ("-.slice", "-"):
        return []
    parts = stem.split("-")
    if stem == slice or not all(parts) or not _UNIT_CHARACTERS.issuperset(stem):
        raise InvalidArgument(f"/linux/cgroupsPath: {slice!r:.100} is no name of a systemd slice, such as system.slice")
    return ["-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts))]


class Scope(Cgroup):
    """The scope at ``path`` (see `locate`), which need not exist yet.

    ``annotations`` named ``org.systemd.property.NAME`` set further properties when it is made (see `annotated`).
    A protection (memory.low) holds as far as the slice around it grants it: that is the host's to set.
    """

    __slots__ = ("_door", "_extra", "_rules", "slice", "unit")

    def __init__(self, path: str, annotations: Mapping[str, str] | None = None) -> None:
        super().__init__(path)
        parent, _, self.unit = self.path.rpartition("/")
        self.slice = os.path.basename(parent) or "-.slice"
        self._extra = annotated(annotations or {})
        self._door: tuple[int, int] | None = None
        self._rules: list[Mapping[str, Any]] = []

    def create(self) -> None:
        """Get ready for `admit`, which makes it; until then `apply` and `allow_devices` only take notice."""
        self._door = os.pipe()

    def apply(self, resources: Mapping[str, Any]) -> None:
        """As `Cgroup.apply`, and let systemd know. A quota becomes whole percents of a CPU, the next higher ones:
        systemd keeps no others over a daemon-reload.
        """
        if self._door is not None:
            self._resources = resources
            return
        super().apply(resources)
        files = {setting.file for setting in plan(resources, self._hierarchies)}
        if properties := self._properties(files):
            with _Manager() as manager:
                manager.set(self.unit, properties)

    def allow_devices(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """As `Cgroup.allow_devices`, and let systemd know."""
        rules = list(rules)
        if self._door is not None:
            self._rules = rules
            return
        if rules:
            with _Manager() as manager:
                manager.set(self.unit, _device_properties(rules, strict="devices" in self._hierarchies.controllers))
        super().allow_devices(rules)

    def fd(self) -> int | None:
        """As `Cgroup.fd`; None before it is made, so that nobody is born in it."""
        return None if self._door is not None else super().fd()

    def admit(self, pid: int) -> None:
        """Make the scope around a process, put what was asked for into force, and let the process out of `join`.

        Raises Conflict when there is such a scope, SetupError with systemd's words when it refuses.
        """
        assert self._door is not None
        device_properties = _device_properties(self._rules, strict="devices" in self._hierarchies.controllers)
        with _Manager() as manager:
            manager.start(self.unit, [*self._birth(pid), *device_properties, *self._extra])
        if pid not in self.pids():
            raise SetupError(f"systemd started {self.unit}, but not as the cgroup /{self.path}")
        reader, writer = self._door
        self._door = None
        try:
            super().create()
            self.apply(self._resources or {})
            super().allow_devices(self._rules)
            os.write(writer, b".")
        finally:
            os.close(reader)
            os.close(writer)

    def _birth(self, pid: int) -> list[Property]:
        accounting = ["CPU", "Memory", "Tasks", "IO" if self._hierarchies.v2("io") else "BlockIO"]
        return [
            ("Description", ("s", f"poc-runtime container in {self.unit}")),
            ("Slice", ("s", self.slice)),
            ("Delegate", ("b", True)),
            ("PIDs", ("au", [pid])),
            ("DefaultDependencies", ("b", False)),
            *((f"{name}Accounting", ("b", True)) for name in accounting),
        ]

    def join(self, unified: bool = True) -> None:
        """As `Cgroup.join`; before it is made, wait for that first. Imports nothing."""
        if self._door is not None:
            reader, writer = self._door
            os.close(writer)
            if not os.read(reader, 1):
                raise SetupError(f"{self.unit} was not made")
            os.close(reader)
        super().join(unified)

    def exists(self) -> bool:
        """Does systemd know the unit, or is its group there?"""
        if super().exists():
            return True
        with _Manager() as manager:
            return manager.knows(self.unit)

    def end(self) -> None:
        """As `Cgroup.end`."""
        self.kill()
        self.remove()

    def remove(self, parents: bool = False) -> None:
        """As `Cgroup.remove`, and have systemd forget the unit, also one that failed (an OOM kill counts as that)."""
        if self._door is not None:
            for fd in self._door:
                os.close(fd)
            self._door = None
        with _Manager() as manager:
            manager.stop(self.unit)
        super().remove(parents)
        for root in self._hierarchies.v1():
            if not {name for name, mount in self._hierarchies.controllers.items() if mount == root} & _MANAGED:
                _remove_empty(root, os.path.dirname(self.path))

    def _protect(self) -> None:
        pass  # systemd keeps the slices' memory.low, and would put back what it was

    def _properties(self, files: set[str]) -> list[Property]:
        """What systemd has to know of these files, by what is in them."""
        found = dict(self._whole_percents()) if files & _QUOTA else {}
        if "cpu.idle" in files and self._hierarchies.v2("cpu"):
            files.add("cpu.weight")  # an idle group's reads 0, and so systemd's says idle
        for file in sorted(files & _PROPERTIES.keys()):
            controller, name, read = _PROPERTIES[file]
            found[name] = read(_fs.read_text(self._file(controller, file)))
        return list(found.items())

    def _whole_percents(self) -> Iterable[Property]:
        v2 = self._hierarchies.v2("cpu")
        files = ("cpu.max",) if v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = " ".join(_fs.read_text(self._file("cpu", file)) for file in files).split()
        yield "CPUQuotaPeriodUSec", ("t", int(period))
        if quota in ("max", "-1"):
            yield "CPUQuotaPerSecUSec", ("t", _INFINITY)
            return
        percents = -(-int(quota) * 100 // int(period))
        yield "CPUQuotaPerSecUSec", ("t", percents * 10_000)
        _fs.write_text(self._file("cpu", files[0]), str(percents * int(period) // 100))


def _number(text: str) -> tuple[str, int]:
    """A limit: "max", and on v1 anything that is more than there can be, are systemd's infinity."""
    word = text.split()[0]
    return "t", _INFINITY if word == "max" or int(word) >= _V1_UNLIMITED else int(word)


def _tasks(text: str) -> tuple[str, int]:
    return "t", _number(text)[1] or 1  # systemd takes no 0


def _weight(text: str) -> tuple[str, int]:
    """The group's own of a list "default 100\\n8:0 200"."""
    return "t", int(text.splitlines()[0].removeprefix("default "))


def _bfq_weight(text: str) -> tuple[str, int]:
    """systemd derives BFQ's weight (1 to 1000) from IOWeight (1 to 10000), with 100 for 100: the way back."""
    weight = _weight(text)[1]
    return "t", weight if weight <= 100 else 100 + (weight - 100) * 11


def _bits(text: str) -> tuple[str, bytes]:
    """A list of CPUs or memory nodes as a set of bits, the first byte's lowest is number 0."""
    bits = 0
    for first, last in parse_list(text) if text else ():
        bits |= (1 << last + 1) - (1 << first)
    return "ay", bits.to_bytes((bits.bit_length() + 7) // 8, "little")


_QUOTA = {"cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"}
# File: its controller, systemd's property, how the one becomes the other.
_PROPERTIES: dict[str, tuple[str, str, Any]] = {
    "cpu.weight": ("cpu", "CPUWeight", _number),
    "cpu.shares": ("cpu", "CPUShares", _number),
    "cpuset.cpus": ("cpuset", "AllowedCPUs", _bits),
    "cpuset.mems": ("cpuset", "AllowedMemoryNodes", _bits),
    "memory.min": ("memory", "MemoryMin", _number),
    "memory.low": ("memory", "MemoryLow", _number),
    "memory.high": ("memory", "MemoryHigh", _number),
    "memory.max": ("memory", "MemoryMax", _number),
    "memory.swap.max": ("memory", "MemorySwapMax", _number),
    "memory.limit_in_bytes": ("memory", "MemoryLimit", _number),
    "pids.max": ("pids", "TasksMax", _tasks),
    "io.bfq.weight": ("io", "IOWeight", _bfq_weight),
    "io.weight": ("io", "IOWeight", _weight),
    "blkio.bfq.weight": ("blkio", "BlockIOWeight", _weight),
}


def _device_properties(rules: Iterable[Mapping[str, Any]], strict: bool) -> list[Property]:
    """DevicePolicy and DeviceAllow for OCI rules. What systemd can't say is Unsupported when ``strict`` (v1: there it
    writes over the rules), and else left to our program, beside which systemd then puts none.
    """
    default, exceptions = devices.fold(rules)
    everything = [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    if default and not exceptions:
        return everything
    unspeakable = [device for device in exceptions if device[1] < 0 <= device[2]]
    if default or unspeakable:
        if strict:
            raise Unsupported(
                "devices: systemd can't deny single devices, nor allow a minor number of every major, on cgroup v1"
            )
        return everything
    allowed = [(_node(*device), access) for device, access in exceptions.items()]
    # A list is added to what was there, an empty one clears it.
    return [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", [])), ("DeviceAllow", ("a(ss)", allowed))]


def _node(kind: str, major: int, minor: int) -> str:
    """A device as DeviceAllow= names it. systemd reads the numbers from the path; the node need not be there."""
    word = {"b": "block", "c": "char"}[kind]
    if minor >= 0:
        return f"/dev/{word}/{major}:{minor}"
    return f"{word}-{'*' if major < 0 else major}"


def annotated(annotations: Mapping[str, str]) -> list[Property]:
    """The properties that annotations ask for: ``org.systemd.property.TimeoutStopSec: "uint64 5"``.

    Values are GVariant's text: true, 'text', 5, uint64 5, ['a', 'b']. Seconds in a name become microseconds.
    """
    found = []
    for key, text in annotations.items():
        if key.startswith(_ANNOTATION):
            name = key[len(_ANNOTATION) :]
            try:
                signature, value = _variant(text.strip())
            except (ValueError, SyntaxError, KeyError, IndexError):
                raise InvalidArgument(f"/annotations/{key}: {text!r:.60} is no value in GVariant's text form") from None
            if name.endswith("Sec") and not name.endswith("USec") and signature not in ("s", "b", "as"):
                name, signature, value = f"{name[:-3]}USec", "t", int(value * 1_000_000)
            found.append((name, (signature, value)))
    return found


_NUMBERS = {
    **{"byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t"},
    **{"double": "d"},
}


def _variant(text: str) -> tuple[str, Any]:
    from ast import literal_eval

    if text in ("true", "false"):
        return "b", text == "true"
    kind, space, rest = text.partition(" ")
    if space and kind.isalnum():
        return _NUMBERS[kind], float(rest) if kind == "double" else int(rest, 0)
    value = literal_eval(text)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "as", value
    return {str: "s", int: "i", float: "d"}[type(value)], value


class _Manager:
    """A connection to systemd's manager. Raises SetupError, with systemd's words, for what it refuses."""

    __slots__ = ("_parser", "_removed", "_serial", "_socket")

    def __init__(self) -> None:
        from jeepney import Parser

        require()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._authenticate()
        except OSError as error:
            self._socket.close()
            raise SetupError(f"systemd does not answer on {_SOCKET}: {error.strerror or error}") from None
        self._parser = Parser()
        self._serial = 0
        self._removed: dict[str, str] = {}

    def _authenticate(self) -> None:
        self._socket.settimeout(_SECONDS)
        self._socket.connect(_SOCKET)
        # BEGIN at once, not after the answer as the library has it: systemd would leave a call that comes together
        # with BEGIN lie until there is more to read.
        user = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self._socket.recv(1) or b"REJECTED\r\n"
        if not answer.startswith(b"OK "):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def __enter__(self) -> _Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start(self, unit: str, properties: list[Property]) -> None:
        """StartTransientUnit, done when the unit runs."""
        body: tuple[Any, ...] = (unit, "fail", properties, [])
        try:
            result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except _UnitExists:
            self._forgiving("ResetFailedUnit", unit)  # one that failed stays until somebody has seen it
            try:
                result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
            except _UnitExists:
                raise Conflict(f"/linux/cgroupsPath: there is a unit {unit} in systemd already") from None
        if result != "done":
            self._forgiving("ResetFailedUnit", unit)
            raise SetupError(f"systemd can't start {unit}: {result}")

    def set(self, unit: str, properties: list[Property]) -> None:
        """SetUnitProperties until the next boot, done when systemd has put them into force."""
        self._call("SetUnitProperties", "sba(sv)", (unit, True, properties))
        # It answers first and writes then, but before it hears the next call.
        self.knows(unit)

    def stop(self, unit: str) -> None:
        """StopUnit, and forget that it failed. Content when there is none."""
        try:
            self._job("StopUnit", "ss", (unit, "replace"))
        except _NoSuchUnit:
            pass
        self._forgiving("ResetFailedUnit", unit)

    def knows(self, unit: str) -> bool:
        """Is it loaded, in whatever state?"""
        return self._forgiving("GetUnit", unit)

    def _forgiving(self, method: str, unit: str) -> bool:
        try:
            self._call(method, "s", (unit,))
        except _NoSuchUnit:
            return False
        return True

    def _job(self, method: str, signature: str, body: tuple[Any, ...]) -> str:
        """Its result: "done", "failed", "canceled" …"""
        (job,) = self._call(method, signature, body)
        deadline = time.monotonic() + _SECONDS
        while job not in self._removed:
            self._receive(deadline, f"{method} {body[0]}")
        return self._removed.pop(job)

    def _call(self, method: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        manager = DBusAddress("/org/freedesktop/systemd1", _NAME, f"{_NAME}.Manager")
        self._serial += 1
        deadline, what = time.monotonic() + _SECONDS, f"{method} {body[0]}"
        self._socket.sendall(new_method_call(manager, method, signature, body).serialise(self._serial))
        while True:
            answer = self._receive(deadline, what)
            if answer.header.fields.get(HeaderFields.reply_serial) == self._serial:
                break
        if answer.header.message_type is MessageType.error:
            name = answer.header.fields[HeaderFields.error_name]
            failure = _ERRORS.get(name.removeprefix(f"{_NAME}."), SetupError)
            raise failure(f"systemd: {what}: {answer.body[0] if answer.body else name}")
        body_: tuple[Any, ...] = answer.body
        return body_

    def _receive(self, deadline: float, what: str) -> Any:
        """The next message, one that a job has come to its end noted. Nobody subscribes to those on this socket."""
        from jeepney import HeaderFields, MessageType

        while (message := self._parser.get_next_message()) is None:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise SetupError(f"systemd: {what}: no answer within {_SECONDS:.0f} s") from None
            if not data:
                raise SetupError(f"systemd: {what}: it closed the connection")
            self._parser.add_data(data)
        header = message.header
        if header.message_type is MessageType.signal and header.fields.get(HeaderFields.member) == "JobRemoved":
            _, job, _, result = message.body
            self._removed[job] = result
        return message


class _NoSuchUnit(SetupError):
    pass


class _UnitExists(SetupError):
    pass


_ERRORS = {"NoSuchUnit": _NoSuchUnit, "UnitExists": _UnitExists}
