"""`poc info`: what there is, and what this host offers."""

from __future__ import annotations

from poc.cli.output import binary_size, show_object
from poc.cli.parse import VALUE, Args, Command, Option
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMAND = Command(
    example="poc info --format '{{.NCPU}} {{.MemTotal}}'",
    options=(
        Option("-f --format", VALUE, "json, or a template such as '{{.NCPU}}'", metavar="FORMAT", complete=("json",)),
    ),
)


def run(args: Args) -> int:
    found = Engine(args.root).info()
    if args.format:
        show_object(found, args.format)
    else:
        for line in _lines(found):
            print(line)
    return 0


def _lines(found: dict[str, Any]) -> list[str]:
    """docker's words for what a person asks first."""
    lines = [
        f"Containers: {found['Containers']}",
        f" Running: {found['ContainersRunning']}",
        f" Paused: {found['ContainersPaused']}",
        f" Stopped: {found['ContainersStopped']}",
        f"Images: {found['Images']}",
        f"Server Version: {found['ServerVersion']}",
        f"Storage Driver: {found['Driver']}",
        *(f" {name}: {value}" for name, value in found["DriverStatus"]),
        f"Logging Driver: {found['LoggingDriver']}",
        f"Cgroup Driver: {found['CgroupDriver']}",
        f"Cgroup Version: {found['CgroupVersion']}",
        *("Plugins:", f" Volume: {' '.join(found['Plugins']['Volume'])}"),
        *(f" Network: {' '.join(found['Plugins']['Network'])}", f" Log: {' '.join(found['Plugins']['Log'])}"),
        f"Runtimes: {' '.join(sorted(found['Runtimes']))}",
        f"Default Runtime: {found['DefaultRuntime']}",
        *("Security Options:", *(f" {option}" for option in found["SecurityOptions"])),
        f"Kernel Version: {found['KernelVersion']}",
        f"Operating System: {found['OperatingSystem']}",
        f"OSType: {found['OSType']}",
        f"Architecture: {found['Architecture']}",
        f"CPUs: {found['NCPU']}",
        f"Total Memory: {binary_size(found['MemTotal'])}",
        f"Name: {found['Name']}",
        f"Docker Root Dir: {found['DockerRootDir']}",
    ]
    lacking = [f"WARNING: No {text} support" for key, text in _SUPPORT if not found[key]]
    return [*lines, *lacking]


_SUPPORT = (
    ("MemoryLimit", "memory limit"),
    ("SwapLimit", "swap limit"),
    ("CpuCfsQuota", "cpu cfs quota"),
    ("CPUShares", "cpu shares"),
    ("CPUSet", "cpuset"),
    ("PidsLimit", "pids limit"),
)
