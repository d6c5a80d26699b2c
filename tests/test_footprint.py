"""A monitor that waits makes itself small, and is none the worse for it."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

from conftest import needs

from poc import _fs
from poc.engine import footprint

if TYPE_CHECKING:
    import poc

SMAPS = """\
00400000-00500000 r-xp 00000000 fe:00 42                                 /usr/bin/python3
Rss:                 900 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me sd
00500000-00501000 r--p 00100000 fe:00 42                                 /usr/bin/python3
Anonymous:             4 kB
Swap:                  0 kB
00501000-00502000 rw-p 00101000 fe:00 42                                 /usr/bin/python3
Anonymous:             0 kB
Swap:                  0 kB
01000000-01100000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000002000 r--p 00000000 fe:00 43                         /opt/a library.so (deleted)
Anonymous:             0 kB
Swap:                  4 kB
7f0000002000-7f0000004000 r--s 00000000 fe:00 44                         /opt/a b
Anonymous:             0 kB
Swap:                  0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
"""


def resident(pid: int | str) -> int:
    """kB of memory that are mapped now (proc_pid_smaps(5))."""
    found = re.search(r"^Rss: +(\d+)", _fs.read_text(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_clean_is_what_is_no_different_from_its_file() -> None:
    assert footprint.clean_mappings(SMAPS.splitlines()) == [(0x400000, 0x100000), (0x7F0000002000, 0x2000)]


def test_a_shrunken_process_works_on() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = resident("self")
            footprint.shrink()
            assert resident("self") < before - 1024
            assert json.loads(json.dumps(SMAPS)) == SMAPS and re.sub("[^r]", "", "relro") == "rr"
            footprint.shrink()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs("root", "overlay")
def test_a_quiet_monitor_shrinks_and_goes_on(engine: poc.Engine) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo after"
    container = engine.containers.run("busybox", ["sh", "-c", script], detach=True, network="none")
    monitor = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    before, deadline = resident(monitor), time.monotonic() + 30
    while resident(monitor) > before - 1024:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.mkdir(f"/proc/{container.attrs['State']['Pid']}/root/tmp/go")
    assert container.wait(timeout=30) == 0
    assert list(container.logs()) == [("stdout", b"after\n")]
