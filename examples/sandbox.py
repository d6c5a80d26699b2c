"""Run code one does not trust: no network, a read-only root, little memory, few processes, not for long.

echo 'id; cat /etc/shadow; sleep 60' | sudo .venv/bin/python examples/sandbox.py [IMAGE]
"""

import sys
import threading

import poc

SECONDS = 5


def main() -> None:
    container = poc.Engine().containers.create(
        sys.argv[1] if len(sys.argv) > 1 else "ubuntu",
        ["sh", "-c", sys.stdin.read()],
        network="none",
        read_only=True,
        tmpfs=["/tmp:size=8m"],
        user="65534:65534",
        cap_drop=["ALL"],
        mem_limit="32m",
        memswap_limit="32m",
        pids_limit=16,
        cpus=0.5,
    )
    container.start()
    timer = threading.Timer(SECONDS, container.kill)
    timer.start()
    try:
        code = container.wait()
        for _, line in container.logs():
            print(line.decode("utf-8", "replace"), end="")
        print("— out of memory" if container.attrs["State"]["OOMKilled"] else f"— exit status {code}")
    finally:
        timer.cancel()
        container.remove(force=True)


if __name__ == "__main__":
    main()
