"""podman's own black-box tests (test/system/*.bats) on poc: how many pass, file by file, and why the others do not.

    git clone https://github.com/containers/podman && apt install bats jq openssl
    scripts/podman-tests podman/test/system [run logs …]

The tests stay as they are. A small program stands in for `podman`: it passes everything on to poc, but for what the
tests' own set-up asks of podman alone (pods, `--external`, which OCI runtime it uses). It says some of podman's words
in docker's: `--all` becomes the ids, the log driver k8s-file json-file, `container exists` an inspect; `rm --time` and
`commit -q` go; and of docker's exit code 1 it makes podman's 125. Their image is made here: a busybox under the name
that they use.
docs/podman-tests.md has the outcome.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from tabulate import tabulate

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from poc import Engine  # noqa: E402

IMAGE = "quay.io/libpod/testimage:20241011"
FILES = (
    *("info", "run", "logs", "ps", "start", "stop", "rm", "cp", "exec", "pause", "top", "events", "kill", "diff"),
    *("volumes", "run-ipcns", "run-namespaces", "healthcheck", "update", "system-df", "interactive"),
)
STAND_IN = """#!/bin/bash
poc() {{ "{python}" -I -S -X utf8 "{start}" poc --root "{root}" "$@"; }}
case "$*" in
    "info --format "*OCIRuntime.Name*) echo poc; exit ;;
    "pod rm"*|"pod ls"*|"network prune"*|*" --external"*) exit 0 ;;
    "rm -t 0 --all --force --ignore") set -- $(poc ps -aq); [ $# = 0 ] && exit; poc rm -f "$@" >/dev/null; exit ;;
    "volume rm -a -f") set -- $(poc volume ls -q); [ $# = 0 ] && exit; poc volume rm -f "$@"; exit ;;
    "container exists "*) poc inspect --type container "$3" >/dev/null 2>&1; exit ;;
    "image exists "*) poc images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep -qxF "$3"; exit ;;
    "images --all"*) shift 2; poc images "$@"; exit ;;
esac
case "$1" in
    stop|kill|restart|pause) all=$(poc ps -q --no-trunc) ;;
    unpause) all=$(poc ps -q --no-trunc --filter status=paused) ;;
    start) all=$(poc ps -aq --no-trunc) ;;
    *) all= ;;
esac
words=()
for word; do
    case "$1 $word" in
        "rm -t"|"rm --time") skip=1; continue ;;
        "rm -t"[0-9]*|"rm --time="*|"commit -q") continue ;;
        "rm -ft0"|"rm -fqt0"|"rm -fvt0") word=-f ;;
        *" k8s-file"|*" --log-driver=k8s-file") word=${{word/k8s-file/json-file}} ;;
        *" --all"|"stop -a"|"kill -a"|"restart -a"|"pause -a"|"unpause -a")
            [ -n "$all" ] && {{ words+=($all); continue; }} ;;
    esac
    [ -n "$skip" ] && {{ skip=; continue; }}
    words+=("$word")
done
set -- "${{words[@]}}"
# Killed by the tests' timeout it has to be the one who follows.
case "$1 $* " in logs*" -f "*|events*) exec "{python}" -I -S -X utf8 "{start}" poc --root "{root}" "$@" ;; esac
poc "$@"
code=$?
case "${{1/container/$2}}-$code" in
    run-*|create-*|start-*|exec-*|wait-*|rm-*) exit $code ;;
    *-1) exit 125 ;;
esac
exit $code
"""
HEALTH = """#!/bin/sh
if test -e /uh-oh || test -e /uh-oh-only-once; then
    echo "Uh-oh on stdout!"; echo "Uh-oh on stderr!" >&2; rm -f /uh-oh-only-once; exit 1
fi
echo "Life is Good on stdout"; echo "Life is Good on stderr" >&2
"""
# Their certificates, which nothing here uses, ask for an option that is younger than Debian 12's openssl.
OPENSSL = """#!/bin/bash
exec {openssl} "${{@/#-quiet/-batch}}"
"""
PRINTENV = '#!/bin/sh\n[ $# = 0 ] && exec env\neval "[ -n \\"\\${$1+x}\\" ]" && eval "echo \\"\\$$1\\""\n'
PAUSE = "#!/bin/sh\ntrap 'exit 0' TERM\necho Confirmed: testimage pause invoked as $0\nwhile :; do sleep 0.1; done\n"


def make_image(engine: Engine, scratch: str) -> None:
    """What the tests expect of their image, as far as a busybox can have it."""
    busybox = str(shutil.which("busybox"))
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    path = f"{scratch}/image.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("bin", "sbin", "usr/bin", "usr/sbin", "dev", "etc", "home/podman", "mnt", "proc", "root", "sys"):
            add(archive, name, kind=tarfile.DIRTYPE)
        for name in ("tmp", "var/tmp"):
            add(archive, name, kind=tarfile.DIRTYPE, mode=0o1777)
        add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", mode=0o644)
        add(archive, "etc/group", b"root:x:0:\nnobody:x:65534:\n", mode=0o644)
        add(archive, "etc/os-release", b'NAME="Alpine Linux"\nID=alpine\n', mode=0o644)
        add(archive, "home/podman/testimage-id", b"20241011\n", mode=0o644)
        add(archive, "home/podman/healthcheck", HEALTH.encode())
        add(archive, "home/podman/pause", PAUSE.encode())
        archive.add(os.path.realpath(busybox), "bin/busybox")
        add(archive, "bin/printenv", PRINTENV.encode())
        for name in set(applets) - {"bin/busybox", "bin/printenv"}:
            add(archive, name, kind=tarfile.SYMTYPE, link="/bin/busybox")
    config = {
        "Cmd": ["/bin/echo", "This container is intended for podman CI testing"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Labels": {"created_by": "test/system/build-testimage", "created_at": "2024-10-11T17:00:00Z"},
        "WorkingDir": "/home/podman",
    }
    engine.images.store.add_tar(path, IMAGE, config=config)


def add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o755,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode, member.linkname, member.mtime = kind, len(data), mode, link, 1600000000
    archive.addfile(member, io.BytesIO(data))


def write_program(path: str, text: str) -> None:
    Path(path).write_text(text)
    os.chmod(path, 0o755)


def run_file(tests: Path, file: Path, program: str, scratch: str, seconds: int) -> str:
    """The TAP report of one file, as far as it came in the time."""
    environment = {**os.environ, "PODMAN": program, "TMPDIR": f"{scratch}/tmp", "PODMAN_TIMEOUT": "30"}
    environment["PATH"] = f"{scratch}/bin:{environment['PATH']}"
    command = ["timeout", "--kill-after=10", str(seconds), "bats", "--tap", str(file)]
    return subprocess.run(
        command, cwd=tests, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    ).stdout


def outcomes(report: str) -> list[tuple[str, str, str]]:
    """(ok, skip or why it failed, name) of each test of a TAP report."""
    found = []
    for part in re.split(r"(?m)^(?=ok |not ok )", report)[1:]:
        head, _, rest = part.partition("\n")
        matched = re.match(r"(not )?ok \d+ (.*?)( # skip ?(.*))?( in \d+.*)?$", head)
        assert matched is not None, head
        if matched[3]:
            found.append(("skip", matched[4] or "", matched[2]))
        else:
            found.append(("not ok", why(rest), matched[2]) if matched[1] else ("ok", "", matched[2]))
    return found


def why(text: str) -> str:
    """The one line that says most: what poc refused, or else what the test wanted."""
    lines = [line.removeprefix("# ").strip() for line in text.splitlines()]
    last = [line for line in lines if re.search(r"(?<!\w)(poc|Error): ", line)]
    wanted = [line.strip("#| ") for line in lines if line.startswith("#|")]
    said = re.sub(r"^\[[^]]*\] ", "", last[-1]) if last else ""
    return " | ".join(filter(None, [said[:110], " ".join(wanted)[:130]])) or " ".join(lines[:2])[:160]


def main() -> None:
    parser = argparse.ArgumentParser(prog="podman-tests", description=__doc__.partition("\n")[0])
    parser.add_argument("tests", type=Path, help="podman's directory test/system")
    parser.add_argument("files", nargs="*", default=FILES, help="names without number and ending (default: many)")
    parser.add_argument("--seconds", type=int, default=600, help="for each file at most (default 600)")
    parser.add_argument("--reports", type=Path, help="keep the TAP reports in this directory")
    arguments = parser.parse_args()
    tests = arguments.tests.resolve()
    rows, reasons = [], []
    with tempfile.TemporaryDirectory(prefix="poc-podman-", dir="/var/tmp") as scratch:
        engine = Engine(f"{scratch}/s")
        make_image(engine, scratch)
        for name in ("tmp", "bin"):
            os.mkdir(f"{scratch}/{name}")
        program, start = f"{scratch}/bin/podman", CHECKOUT / "scripts" / "start.py"
        write_program(program, STAND_IN.format(python=sys.executable, start=start, root=engine.paths.data))
        write_program(f"{scratch}/bin/openssl", OPENSSL.format(openssl=shutil.which("openssl")))
        try:
            for name in arguments.files:
                (file,) = tests.glob(f"[0-9][0-9][0-9]-{name}.bats")
                report = run_file(tests, file, program, scratch, arguments.seconds)
                if arguments.reports:
                    (arguments.reports / f"{name}.tap").write_text(report)
                found = outcomes(report)
                counts = Counter(kind for kind, _, _ in found)
                total = len(re.findall(r"(?m)^@test ", file.read_text()))
                rows.append([name, total, counts["ok"], counts["not ok"], counts["skip"], total - len(found)])
                reasons += [f"{name}: {test}: {reason}" for kind, reason, test in found if kind == "not ok"]
                print(*rows[-1], file=sys.stderr)
        finally:
            engine.prune(images=True)
    rows.append(["all", *(sum(row[column] for row in rows) for column in range(1, 6))])
    print("\n".join(reasons))
    print(tabulate(rows, headers=["file", "tests", "pass", "fail", "skip", "not reached"]))


if __name__ == "__main__":
    main()
