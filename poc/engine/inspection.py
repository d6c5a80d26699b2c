"""docker's ``inspect`` object of a container. Pure: everything it says is handed in."""

from __future__ import annotations

from poc.engine import mounts
from poc.engine.config import LOG_DRIVER
from poc.engine.logs import timestamp
from poc.engine.network import endpoint_id, network_id
from poc.engine.networks import Networks
from poc.net.addresses import mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.engine.container import Container

_FILES = {"ResolvConf": "resolv.conf", "Hostname": "hostname", "Hosts": "hosts"}
# What docker says of every container that asks for nothing of the kind.
_HOST_CONFIG: dict[str, Any] = {
    **{"ContainerIDFile": "", "PortBindings": {}, "VolumeDriver": ""},
    "ConsoleSize": [0, 0],
    **{"Cgroup": "", "Links": None, "PublishAllPorts": False, "Isolation": "", "KernelMemory": 0, "CpuCount": 0},
    **{"CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0, "DeviceRequests": None},
}
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
        **{f"{key}Path": container.paths.runtime(container.id, file) for key, file in _FILES.items()},
        "LogPath": container.log_path if container.config.log_driver == LOG_DRIVER else "",
        "Name": f"/{container.name}",
        "Platform": "linux",
        "RestartCount": (state or ended).get("restarts", 0),
        "HostConfig": _host_config(container, spec["linux"]),
        "Driver": "overlay2",
        **{"MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": None},
        "GraphDriver": {"Name": "overlay2", "Data": _graph(container)},
        "Mounts": [mounts.describe(point) for point in record.get("mounts", ())],
        "Config": _config(container, record, spec),
        "NetworkSettings": _network(container, state),
    }


def _state(state: dict[str, Any], status: str, ended: dict[str, Any]) -> dict[str, Any]:
    running = status in ("running", "paused")
    restarting = status == "restarting"
    started = state.get("started_at") if running else ended.get("started_at")
    finished = ended.get("finished_at")
    return {
        "Status": status,
        "Running": running or restarting,
        "Paused": status == "paused",
        "Restarting": restarting,
        "OOMKilled": (state if running else ended).get("oom_killed", False),
        "Dead": False,
        "Pid": state["init"][0] if running else 0,
        "ExitCode": 0 if running else ended.get("exit_code", 0),
        "Error": "" if running else ended.get("error", ""),
        "StartedAt": timestamp(started) if started else _NEVER,
        "FinishedAt": timestamp(finished) if finished else _NEVER,
        **({"Health": health} if (health := (state or ended).get("health")) else {}),
    }


def _host_config(container: Container, linux: Any) -> dict[str, Any]:
    config = container.config
    resources = config.resources()
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    return {
        **_HOST_CONFIG,
        **mounts.host_config(config.values),
        "LogConfig": {"Type": config.log_driver, "Config": config.log_opts},
        "NetworkMode": config.network,
        "PidMode": config.pid_mode,
        "IpcMode": config.ipc_mode or "private",
        "UTSMode": config.uts_mode,
        "UsernsMode": config.userns_mode,
        "CgroupnsMode": config.cgroupns or "private",
        "Runtime": config.runtime,
        "CgroupParent": config.cgroup_parent and f"/{config.cgroup_parent}",
        "AutoRemove": config.remove,
        "RestartPolicy": config.restart_policy,
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "GroupAdd": config.group_add,
        "Dns": config.dns,
        "DnsOptions": config.dns_opt,
        "DnsSearch": config.dns_search,
        "ExtraHosts": config.extra_hosts,
        "Privileged": config.privileged,
        "SecurityOpt": [option for option in config.security_opt if option != "systempaths=unconfined"],
        "MaskedPaths": linux.get("maskedPaths", []),
        "ReadonlyPaths": linux.get("readonlyPaths", []),
        "Sysctls": config.sysctls,
        "Annotations": config.annotations,
        "OomScoreAdj": config.oom_score_adj or 0,
        "Ulimits": config.ulimits,
        "Devices": config.devices,
        "DeviceCgroupRules": config.device_cgroup_rules,
        "ReadonlyRootfs": config.read_only,
        "Init": config.init,
        "ShmSize": config.shm_size or 64 << 20,
        "StorageOpt": config.storage_opt,
        "NanoCpus": round((config.cpus or 0) * 1_000_000_000),
        "CpuShares": config.cpu_shares or 0,
        "CpuPeriod": cpu.get("period", 0) if config.cpus is None else 0,
        "CpuQuota": cpu.get("quota", 0) if config.cpus is None else 0,
        "CpuRealtimePeriod": config.cpu_rt_period or 0,
        "CpuRealtimeRuntime": config.cpu_rt_runtime or 0,
        "CpusetCpus": config.cpuset_cpus,
        "CpusetMems": config.cpuset_mems,
        "Memory": memory.get("limit", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0),
        "MemorySwappiness": config.mem_swappiness,
        "OomKillDisable": config.oom_kill_disable,
        "PidsLimit": config.pids_limit,
        "BlkioWeight": config.blkio_weight or 0,
        "BlkioWeightDevice": [{"Path": d["path"], "Weight": d["weight"]} for d in config.blkio_weight_device],
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


def _config(container: Container, record: dict[str, Any], spec: Any) -> dict[str, Any]:
    config, image = container.config, record["image_config"]
    return {
        "Hostname": container.bundle.hostname,
        "Domainname": config.domainname,
        "MacAddress": config.mac_address,
        "ExposedPorts": {port: {} for port in exposed_ports(container)},
        "User": config.user or image.get("User", ""),
        **{"AttachStdin": config.stdin_once, "AttachStdout": config.stdin_once, "AttachStderr": config.stdin_once},
        "OnBuild": image.get("OnBuild"),
        "Tty": config.tty,
        "OpenStdin": config.stdin_open,
        "StdinOnce": config.stdin_once,
        "Env": _variables(config.environment, image.get("Env") or ()),
        "Cmd": config.command or image.get("Cmd"),
        "Image": container.image,
        "Volumes": mounts.config_volumes(config.values, image.get("Volumes") or {}),
        "WorkingDir": config.working_dir or image.get("WorkingDir", ""),
        "Entrypoint": config.entrypoint if config.entrypoint is not None else image.get("Entrypoint"),
        "Labels": container.labels,
        **({"Healthcheck": container.healthcheck} if container.healthcheck else {}),
        "StopSignal": config.stop_signal or image.get("StopSignal", "SIGTERM"),
    }


def _variables(asked: Sequence[str], image: Sequence[str]) -> list[str]:
    """As docker lists them: what was asked for, then the image's; not what every process gets."""
    names = {entry.partition("=")[0] for entry in asked}
    return [*asked, *(entry for entry in image if entry.partition("=")[0] not in names)]


def exposed_ports(container: Container) -> list[str]:
    """``80/tcp``, what ``--expose`` says and the image."""
    image = container.image_config.get("ExposedPorts") or {}
    ports = {port if "/" in port else f"{port}/tcp" for port in (*image, *container.config.expose)}
    return sorted(ports, key=lambda port: (len(port.partition("/")[0]), port))  # as numbers, whatever an image holds


def _network(container: Container, state: dict[str, Any]) -> dict[str, Any]:
    mode, running = container.config.network, bool(state)
    own = _endpoint(container, mode, state.get("address") or "") if running else dict(_NOWHERE)
    ports = dict.fromkeys(exposed_ports(container)) if running else {}
    top = {key: value for key, value in own.items() if key != "NetworkID"}
    fixed = {"Aliases": None, "DriverOpts": None, "IPAMConfig": None, "Links": None}
    name = f"/proc/{state['init'][0]}/ns/net" if running and state.get("init") else ""
    network = network_id(container.paths, mode)
    return {
        **{"Bridge": "", "SandboxID": own["EndpointID"], "SandboxKey": name, "HairpinMode": False, "Ports": ports},
        **{"LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0},
        **{"SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None},
        **top,
        # One that shares another's network is on none itself.
        "Networks": {} if mode.startswith("container:") else {mode: {**fixed, **own, "NetworkID": network}},
    }


_NOWHERE: dict[str, Any] = {
    **{"EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPAddress": ""},
    **{"IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "", "NetworkID": ""},
}


def _endpoint(container: Container, mode: str, address: str) -> dict[str, Any]:
    """Where a running container is on its network."""
    found = {**_NOWHERE, "EndpointID": endpoint_id(container.id, mode)}
    bridge = Networks(container.paths).known() if address else None
    if bridge:
        found.update(Gateway=bridge.gateway, IPAddress=address, IPPrefixLen=bridge.subnet.prefix)
        found["MacAddress"] = container.config.mac_address or mac_address(address)
    return found
