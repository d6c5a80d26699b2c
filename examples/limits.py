"""How much of a CPU does a container get that asked for a tenth, a quarter, a half?

sudo .venv/bin/python examples/limits.py [IMAGE]
"""

import sys
import time

import poc

BURN = "while :; do :; done"
SECONDS = 2


def cpu_seconds(container: poc.Container) -> float:
    """What its cgroup has used of the CPUs so far."""
    group = poc.cgroups.Cgroup(container.spec()["linux"]["cgroupsPath"])
    return float(group.stats()["cpu"]["usage"]) / 1e9


def main() -> None:
    engine = poc.Engine()
    image = sys.argv[1] if len(sys.argv) > 1 else "ubuntu"
    for cpus in (0.1, 0.25, 0.5):
        container = engine.containers.run(image, ["sh", "-c", BURN], detach=True, cpus=cpus, network="none")
        begun, before = time.monotonic(), cpu_seconds(container)
        time.sleep(SECONDS)
        used = (cpu_seconds(container) - before) / (time.monotonic() - begun)
        container.remove(force=True)
        print(f"asked for {cpus:.2f} CPUs, got {used:.2f}")


if __name__ == "__main__":
    main()
