"""docker's ``inspect`` object of a container. Pure: everything it says is handed in."""

from __future__ import annotations

from poc.engine.logs import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.containers import Container

_NEVER = "0001-01-01T00:00:00Z"


def describe(
    container: Container, record: dict[str, Any], state: dict[str, Any], status: str, ended: dict[str, Any]
) -> dict[str, Any]:
    """``state`` is the living monitor's state.json, with ``oom_killed``, ``ended`` the last run's status.json.

    Either may be {}.
    """
    spec = container.spec()
    args = spec["process"]["args"]
    return {
        "Id": container.id,
        "Created": timestamp(container.created),
        "Path": args[0],
        "Args": args[1:],
        "State": _state(state, status, ended),
        "Image": record["image"],
        "ResolvConfPath": "",
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": 0,
        "HostConfig": _host_config(container),
        "GraphDriver": {"Name": "overlay2", "Data": _graph(container)},
        "Mounts": [_mount(volume) for volume in container.config.volumes],
        "Config": _config(container, record, spec),
        "NetworkSettings": _network(container, state),
    }


def _state(state: dict[str, Any], status: str, ended: dict[str, Any]) -> dict[str, Any]:
    running = status in ("running", "paused")
    started = state.get("started_at") if running else ended.get("started_at")
    finished = ended.get("finished_at")
    return {
        "Status": status,
        "Running": running,
        "Paused": status == "paused",
        "Restarting": False,
        "OOMKilled": (state if running else ended).get("oom_killed", False),
        "Dead": False,
        "Pid": state["init"][0] if running else 0,
        "ExitCode": 0 if running else ended.get("exit_code", 0),
        "Error": "" if running else ended.get("error", ""),
        "StartedAt": timestamp(started) if started else _NEVER,
        "FinishedAt": timestamp(finished) if finished else _NEVER,
    }


def _host_config(container: Container) -> dict[str, Any]:
    config = container.config
    resources = config.resources()
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    return {
        "Binds": [f"{v['source']}:{v['destination']}:{'ro' if v['readonly'] else 'rw'}" for v in config.volumes],
        "NetworkMode": config.network,
        "AutoRemove": config.remove,
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "Init": config.init,
        "Tmpfs": config.tmpfs,
        "ShmSize": config.shm_size or 64 << 20,
        "StorageOpt": config.storage_opt,
        "NanoCpus": round((config.cpus or 0) * 1_000_000_000),
        "CpuShares": config.cpu_shares or 0,
        "CpuPeriod": cpu.get("period", 0) if config.cpus is None else 0,
        "CpuQuota": cpu.get("quota", 0) if config.cpus is None else 0,
        "CpusetCpus": config.cpuset_cpus,
        "CpusetMems": config.cpuset_mems,
        "Memory": memory.get("limit", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0),
        "OomKillDisable": config.oom_kill_disable,
        "PidsLimit": config.pids_limit,
        "BlkioWeight": config.blkio_weight or 0,
        "BlkioDeviceReadBps": _rates(config.device_read_bps),
        "BlkioDeviceWriteBps": _rates(config.device_write_bps),
        "BlkioDeviceReadIOps": _rates(config.device_read_iops),
        "BlkioDeviceWriteIOps": _rates(config.device_write_iops),
    }


def _rates(throttles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"Path": throttle["path"], "Rate": throttle["rate"]} for throttle in throttles]


def _graph(container: Container) -> dict[str, str]:
    overlay = container.bundle.overlay()
    return {"LowerDir": ":".join(overlay["lower"]), "UpperDir": overlay["upper"], "WorkDir": overlay["work"]}


def _mount(volume: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": volume["source"],
        "Destination": volume["destination"],
        "Mode": "ro" if volume["readonly"] else "",
        "RW": not volume["readonly"],
        "Propagation": "rprivate",
    }


def _config(container: Container, record: dict[str, Any], spec: Any) -> dict[str, Any]:
    config, image = container.config, record["image_config"]
    return {
        "Hostname": spec["hostname"],
        "User": config.user or image.get("User", ""),
        "Tty": config.tty,
        "OpenStdin": config.stdin_open,
        "Env": spec["process"]["env"],
        "Cmd": config.command or image.get("Cmd"),
        "Image": container.image,
        "WorkingDir": spec["process"]["cwd"],
        "Entrypoint": config.entrypoint if config.entrypoint is not None else image.get("Entrypoint"),
        "Labels": container.labels,
        "StopSignal": config.stop_signal or image.get("StopSignal", "SIGTERM"),
    }


def _network(container: Container, state: dict[str, Any]) -> dict[str, Any]:
    address = state.get("address", "")
    mode = container.config.network
    return {"IPAddress": address, "Ports": {}, "Networks": {mode: {"IPAddress": address}}}
