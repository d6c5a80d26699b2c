"""What runs again after a reboot: a systemd unit that has the containers started whose restart policy wants it.

poc has no daemon that could do it. The unit is one call of ``poc system autostart --start``; what it starts lives on
after that, so it stays active, and at its end only a process of its own would be killed.
"""

from __future__ import annotations

import os
import subprocess
import zlib

from poc import _fs
from poc.engine.restart import starts_at_boot
from poc.engine.store import STOPPED, read_optional
from poc.errors import PocError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc.engine import Engine
    from poc.engine.container import Container
    from poc.engine.store import Paths

UNITS = "/etc/systemd/system"
_TARGET = "multi-user.target"
_UNIT = """\
[Unit]
Description=Containers of poc in {store} that start again after a reboot
Documentation=man:docker-run(1)
Wants=network-online.target
After=network-online.target nss-lookup.target
RequiresMountsFor={place}

[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
TasksMax=infinity
ExecStart={command}

[Install]
WantedBy={target}
"""


def start_all(engine: Engine) -> tuple[list[Container], list[tuple[Container, Exception]]]:
    """Start what is to run after a reboot and does not run: those that were started, and those that failed, and why."""
    started: list[Container] = []
    failed: list[tuple[Container, Exception]] = []
    for container in reversed(engine.containers.list(all=True)):
        try:
            if _is_wanted(engine.paths, container):
                container.start()
                started.append(container)
        except (PocError, OSError) as error:
            failed.append((container, error))
    return started, failed


def _is_wanted(paths: Paths, container: Container) -> bool:
    policy = container.config.restart_policy
    if policy["Name"] == "no" or container.status not in ("created", "exited"):
        return False
    by_hand = os.path.exists(paths.container(container.id, STOPPED))
    return starts_at_boot(policy, read_optional(container.status_path), by_hand)


def unit(paths: Paths, command: Sequence[str]) -> str:
    """The systemd.service(5) unit; ``command`` is what starts poc."""
    words = [*command, *([] if paths.is_system else ["--root", paths.data]), "system", "autostart", "--start"]
    place = _quote(paths.data)
    return _UNIT.format(store=paths.data.replace("%", "%%"), place=place, command=_line(words), target=_TARGET)


def _line(words: Sequence[str]) -> str:
    return " ".join(_quote(word).replace("$", "$$") for word in words)


def _quote(word: str) -> str:
    """As systemd.syntax(7) reads it, where % begins a specifier."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return plain if word and not set(word) & set(" \t\n\"'\\;") else f'"{plain}"'


def _name(paths: Paths) -> str:
    """One unit for each store."""
    return "poc.service" if paths.is_system else f"poc-{zlib.crc32(os.fsencode(paths.data)):08x}.service"


def install(paths: Paths, command: Sequence[str], units: str = UNITS) -> str:
    """Put the unit in its place and have it wanted at boot. Returns its path. Raises Unsupported without systemd."""
    if not os.path.isdir(units):
        raise Unsupported(f"autostart needs systemd: there is no {units}")
    path, wanted = f"{units}/{_name(paths)}", f"{units}/{_TARGET}.wants"
    os.makedirs(wanted, 0o755, exist_ok=True)
    _fs.write_atomic(path, unit(paths, command), sync=True)
    try:
        os.symlink(path, f"{wanted}/{_name(paths)}")
    except FileExistsError:
        pass  # installed before
    _reload(units)
    return path


def remove(paths: Paths, units: str = UNITS) -> str:
    """Undo `install`; content when there is nothing. What it has started runs on."""
    path = f"{units}/{_name(paths)}"
    _fs.remove_file(f"{units}/{_TARGET}.wants/{_name(paths)}")
    _fs.remove_file(path)
    _reload(units)
    return path


def _reload(units: str) -> None:
    if units == UNITS and os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)
