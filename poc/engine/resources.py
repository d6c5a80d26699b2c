"""A container's limits as OCI ``linux.resources`` (config-linux.md), from the values of its `ContainerConfig`."""

from __future__ import annotations

import os

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def oci_resources(values: Mapping[str, Any], swap_counted: bool = True) -> dict[str, Any]:
    """``linux.resources`` without the devices' access rules; ``swap_counted`` as for `ContainerConfig.resources`."""
    result = {
        "cpu": _cpu_resources(values),
        "memory": _memory_resources(values, swap_counted),
        "pids": {} if not values["pids_limit"] else {"limit": values["pids_limit"]},
        "blockIO": _io_resources(values),
    }
    return {controller: limits for controller, limits in result.items() if limits}


def _cpu_resources(values: Mapping[str, Any]) -> dict[str, Any]:
    period, quota = values["cpu_period"], values["cpu_quota"]
    if values["cpus"] is not None:
        period = 100_000
        quota = round(values["cpus"] * period)
    limits = {
        "period": period,
        "quota": quota,
        "shares": values["cpu_shares"],
        "cpus": values["cpuset_cpus"] or None,
        "mems": values["cpuset_mems"] or None,
        "realtimePeriod": values["cpu_rt_period"],
        "realtimeRuntime": values["cpu_rt_runtime"],
    }
    return {key: value for key, value in limits.items() if value is not None}


def _memory_resources(values: Mapping[str, Any], swap_counted: bool) -> dict[str, Any]:
    limit, swap = values["mem_limit"], values["memswap_limit"]
    if limit is not None and swap is None and swap_counted:
        swap = 2 * limit  # docker's: as much swap again
    limits = {"limit": limit, "swap": swap, "reservation": values["mem_reservation"]}
    limits["swappiness"] = values["mem_swappiness"]
    if values["oom_kill_disable"]:
        limits["disableOOMKiller"] = True
    return {key: value for key, value in limits.items() if value is not None}


def _io_resources(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "device_read_bps": "throttleReadBpsDevice",
        "device_write_bps": "throttleWriteBpsDevice",
        "device_read_iops": "throttleReadIOPSDevice",
        "device_write_iops": "throttleWriteIOPSDevice",
    }
    result: dict[str, Any] = {} if values["blkio_weight"] is None else {"weight": values["blkio_weight"]}
    if weights := values["blkio_weight_device"]:
        result["weightDevice"] = [{**_device_number(entry["path"]), "weight": entry["weight"]} for entry in weights]
    for key, name in names.items():
        if values[key]:
            result[name] = [{**_device_number(entry["path"]), "rate": entry["rate"]} for entry in values[key]]
    return result


def _device_number(path: str) -> dict[str, int]:
    import stat

    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"device {path}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"device {path}: not a block device")
    return {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
