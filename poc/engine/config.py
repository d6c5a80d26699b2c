"""What the user asked of a container: one `ContainerConfig`, checked when it is made, kept as container.json.

Its fields are docker-py's keyword arguments of ``containers.run``; the command line passes them on as
typed. They are read (`poc.engine.values`) and checked here, so that the library and the command line refuse the same
things with the same words. Pure, but for asking how many CPUs there are.
"""

from __future__ import annotations

from poc.engine.resources import oci_resources
from poc.engine.values import (
    parse_capabilities,
    parse_cgroup_parent,
    parse_command,
    parse_cpus,
    parse_environment,
    parse_healthcheck,
    parse_hostname,
    parse_int,
    parse_labels,
    parse_limit,
    parse_log_options,
    parse_name,
    parse_network,
    parse_restart_policy,
    parse_shm_size,
    parse_size,
    parse_stop_signal,
    parse_storage,
    parse_throttle,
    parse_words,
    parse_working_dir,
)
from poc.errors import InvalidArgument, Unsupported
from poc.oci.defaults import ALL_CAPABILITIES, CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LOG_DRIVER = "json-file"
MINIMUM_MEMORY = 6 << 20
OWN_RUNTIME, SETTINGS = "poc", "/etc/poc/config.toml"  # what the settings hold: `poc.engine.foreign`
APART = (
    "apart"  # beside a runtime's bundle: its container's processes are not this host's, but in a machine of their own
)

# field: its value when nothing is said
DEFAULTS: dict[str, Any] = {
    "image": "",
    "command": [],
    "entrypoint": None,
    "environment": [],
    "working_dir": "",
    "user": "",
    "name": "",
    "hostname": "",
    "labels": {},
    "network": "bridge",
    "tty": False,
    "stdin_open": False,
    "stdin_once": False,  # it ends with who is attached to it
    "remove": False,
    "init": False,
    "runtime": OWN_RUNTIME,
    "restart_policy": {"Name": "no", "MaximumRetryCount": 0},
    "healthcheck": {},
    "read_only": False,
    "privileged": False,
    "volumes": [],
    "volumes_from": [],
    "mounts": [],
    "tmpfs": {},
    "shm_size": None,
    "storage_opt": {},
    "cap_add": [],
    "cap_drop": [],
    "cpus": None,
    "cpu_quota": None,
    "cpu_period": None,
    "cpu_shares": None,
    "cpuset_cpus": "",
    "cpuset_mems": "",
    "cgroup_parent": "",
    "pids_limit": None,
    "blkio_weight": None,
    "mem_limit": None,
    "memswap_limit": None,
    "mem_reservation": None,
    "oom_kill_disable": False,
    "device_read_bps": [],
    "device_write_bps": [],
    "device_read_iops": [],
    "device_write_iops": [],
    "ulimits": [],
    "sysctls": {},
    "oom_score_adj": None,
    "group_add": [],
    "annotations": {},
    "devices": [],
    "device_cgroup_rules": [],
    "security_opt": [],
    "extra_hosts": [],
    "dns": [],
    "dns_search": [],
    "dns_opt": [],
    "domainname": "",
    "mac_address": "",
    "pid_mode": "",
    "ipc_mode": "",
    "uts_mode": "",
    "userns_mode": "",
    "cgroupns": "",
    "expose": [],
    "platform": "",
    "mem_swappiness": None,
    "kernel_memory": None,
    "cpu_rt_period": None,
    "cpu_rt_runtime": None,
    "blkio_weight_device": [],
    "stop_signal": "",
    "stop_timeout": None,
    "log_driver": LOG_DRIVER,
    "log_opts": {},
}

# Those of which `poc.engine.options` has the readers, as few containers ask for one.
RARE = frozenset(
    (
        *("ulimits", "sysctls", "oom_score_adj", "group_add", "annotations", "devices", "device_cgroup_rules"),
        *("security_opt", "extra_hosts", "dns", "dns_search", "dns_opt", "domainname", "expose", "platform"),
        *("mac_address",),
        *("pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns"),
        *("mem_swappiness", "kernel_memory", "cpu_rt_period", "cpu_rt_runtime", "blkio_weight_device"),
    )
)

# Those that `Container.update` changes.
LIMITS = frozenset(
    (
        *("cpus", "cpu_quota", "cpu_period", "cpu_shares", "cpuset_cpus", "cpuset_mems", "pids_limit", "blkio_weight"),
        *("restart_policy", "mem_limit", "memswap_limit", "mem_reservation", "cpu_rt_period", "cpu_rt_runtime"),
    )
)


class ContainerConfig:
    """The checked wishes; ``values`` has every field of `DEFAULTS`, JSON types only."""

    __slots__ = ("values",)

    def __init__(self, **options: Any) -> None:
        """Take docker-py's keyword arguments. Raises InvalidArgument, Unsupported, and TypeError for an unknown one."""
        unknown = sorted(options.keys() - DEFAULTS.keys())
        if unknown:
            raise TypeError(f"unknown option: {', '.join(unknown)}")
        given = {key: value for key, value in options.items() if value is not None}
        self.values: dict[str, Any] = {**DEFAULTS, **given}
        self.values.update((key, parse(given[key])) for key, parse in _parsers(given))
        _check(self.values)

    @classmethod
    def loaded(cls, values: Mapping[str, Any]) -> ContainerConfig:
        """One that was checked before, from container.json."""
        config = cls.__new__(cls)
        config.values = {**DEFAULTS, **values}
        return config

    def changed(self, **limits: Any) -> ContainerConfig:
        """With other limits (`LIMITS`), those that are None as they were. Raises InvalidArgument and TypeError."""
        if unknown := sorted(limits.keys() - LIMITS):
            raise TypeError(f"not a limit: {', '.join(unknown)}")
        given = {key: value for key, value in limits.items() if value}
        given.update([(key, parse(given[key])) for key, parse in _parsers(given)])
        if "cpus" in given:  # two ways to say the same
            given.update(cpu_quota=None, cpu_period=None)
        elif {"cpu_quota", "cpu_period"} & given.keys():
            given["cpus"] = None
        config = ContainerConfig.loaded({**self.values, **given})
        _check(config.values)
        return config

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def is_special(self) -> bool:
        """Does it ask for anything that few do (`poc.engine.special`)?"""
        return any(self.values[key] != DEFAULTS[key] for key in RARE)

    @property
    def needs_gateway(self) -> bool:
        """Is it told the address of the bridge, whatever its own network?"""
        return any(entry.endswith(":host-gateway") for entry in self.values["extra_hosts"])

    @property
    def host_namespaces(self) -> set[str]:
        """OCI names of those it has none of its own of, but the host's."""
        modes = {"network": "network", "pid": "pid_mode", "ipc": "ipc_mode", "uts": "uts_mode", "cgroup": "cgroupns"}
        return {kind for kind, field in modes.items() if self.values[field] == "host"}

    @property
    def joins(self) -> bool:
        """Does it share a namespace with another container?"""
        return any(self.values[field].startswith("container:") for field in ("network", "pid_mode", "ipc_mode"))

    def capabilities(self) -> list[str]:
        """The capability names after ``cap_add``, ``cap_drop`` and ``privileged``, in the kernel's order.

        What is dropped is dropped from a privileged container too; docker would keep it, without a word.
        """
        add, drop = set(self.cap_add), set(self.cap_drop)
        if "ALL" in drop:
            kept = set() if "ALL" in add else add
        else:
            kept = set(ALL_CAPABILITIES) if self.privileged or "ALL" in add else set(CAPABILITIES) | add
        return [name for name in ALL_CAPABILITIES if name in kept - drop]

    def resources(self, swap_counted: bool = True) -> dict[str, Any]:
        """OCI ``linux.resources`` (config-linux.md) without the devices' access rules.

        On a host that does not account for swap (not ``swap_counted``) a limit on memory alone is one without swap's.
        """
        return oci_resources(self.values, swap_counted)


def _lazily(name: str) -> Any:
    """A parser of `poc.engine.mounts`, which most containers have no use for."""

    def parse(value: Any) -> Any:
        from poc.engine import mounts

        return getattr(mounts, name)(value)

    return parse


_PARSERS: dict[str, Any] = {
    "command": parse_command,
    "entrypoint": lambda value: parse_words([value] if isinstance(value, str) else value),
    "environment": parse_environment,
    "working_dir": parse_working_dir,
    "name": parse_name,
    "hostname": parse_hostname,
    "labels": parse_labels,
    "network": parse_network,
    "volumes": _lazily("parse_volumes"),
    "volumes_from": _lazily("parse_volumes_from"),
    "mounts": _lazily("parse_mounts"),
    "tmpfs": _lazily("parse_tmpfs"),
    "shm_size": parse_shm_size,
    "storage_opt": parse_storage,
    "cgroup_parent": parse_cgroup_parent,
    "cap_add": parse_capabilities,
    "cap_drop": parse_capabilities,
    "cpus": parse_cpus,
    "cpu_quota": parse_int("--cpu-quota", 1000),
    "cpu_period": parse_int("--cpu-period", 1000, 1_000_000),
    "cpu_shares": parse_int("--cpu-shares", 2, 262144),
    "pids_limit": parse_int("--pids-limit", -1),
    "blkio_weight": parse_int("--blkio-weight", 10, 1000),
    "mem_limit": lambda value: parse_size(value, "--memory"),
    "memswap_limit": parse_limit("--memory-swap"),
    "mem_reservation": lambda value: parse_size(value, "--memory-reservation"),
    "device_read_bps": parse_throttle("--device-read-bps", size=True),
    "device_write_bps": parse_throttle("--device-write-bps", size=True),
    "device_read_iops": parse_throttle("--device-read-iops", size=False),
    "device_write_iops": parse_throttle("--device-write-iops", size=False),
    "restart_policy": parse_restart_policy,
    "healthcheck": parse_healthcheck,
    "stop_signal": parse_stop_signal,
    "stop_timeout": parse_int("--stop-timeout", -1),
    "log_opts": parse_log_options,
}


def _parsers(given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(field, reader) of those that are given and have one."""
    found = [(key, parse) for key, parse in _PARSERS.items() if key in given]
    if rare := sorted(RARE & given.keys()):
        from poc.engine import options

        found += [(key, options.PARSERS[key]) for key in rare]
    return found


_NOT_IN_ANOTHERS_NETWORK = {
    "hostname": "hostname",
    "dns": "dns",
    "extra_hosts": "custom host-to-IP mapping",
    "expose": "port exposing",
}


def _check(values: Mapping[str, Any]) -> None:
    """What one field alone can't tell."""
    if values["mac_address"] and values["network"] not in ("bridge", "internal"):
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    if values["network"].startswith("container:"):
        for field, what in _NOT_IN_ANOTHERS_NETWORK.items():
            if values[field]:
                raise InvalidArgument(f"conflicting options: {what} and the network mode")
    if values["uts_mode"] == "host" and (values["hostname"] or values["domainname"]):
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if values["ipc_mode"] == "host" and any(not key.startswith("net.") for key in values["sysctls"]):
        raise InvalidArgument("--sysctl: would be the host's with --ipc host")
    if values["network"] == "host" and any(key.startswith("net.") for key in values["sysctls"]):
        raise InvalidArgument("--sysctl: net.* would be the host's with --network host")
    if values["cpus"] is not None and (values["cpu_quota"] is not None or values["cpu_period"] is not None):
        raise InvalidArgument("--cpus and --cpu-quota or --cpu-period exclude each other")
    memory, swap, reservation = values["mem_limit"], values["memswap_limit"], values["mem_reservation"]
    if memory is not None and memory < MINIMUM_MEMORY:
        raise InvalidArgument("--memory: the minimum is 6m")
    if reservation is not None and reservation < MINIMUM_MEMORY:
        raise InvalidArgument("--memory-reservation: the minimum is 6m")
    if memory is not None and reservation is not None and reservation > memory:
        raise InvalidArgument("--memory-reservation must not be larger than --memory")
    if swap is not None and memory is None:
        raise InvalidArgument("--memory-swap needs --memory beside it")
    if swap is not None and -1 != swap < memory:
        raise InvalidArgument("--memory-swap is memory and swap together: it must not be smaller than --memory")
    if values["remove"] and values["restart_policy"]["Name"] != "no":
        raise InvalidArgument("--restart and --rm exclude each other")
    if values["init"] and values["pids_limit"] == 1:
        raise InvalidArgument("--pids-limit must be 2 or more with --init, which is a process itself")
    if values["init"] and values["runtime"] != OWN_RUNTIME:
        raise Unsupported(f"--init: it is a part of poc's own runtime, and can't be had with {values['runtime']}")
    if values["oom_kill_disable"] and memory is None:
        raise InvalidArgument("--oom-kill-disable needs --memory: without a limit the host itself would run out")
    if values["log_driver"] != LOG_DRIVER or values["log_opts"]:
        from poc.engine.logs.options import check

        check(values["log_driver"], values["log_opts"])
    if values["volumes"] or values["mounts"] or values["tmpfs"]:
        from poc.engine.mounts import check_destinations

        check_destinations(values)
