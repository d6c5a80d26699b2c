"""The container's first process, from its birth to its `execve`. Runs in the child, after the clone.

It imports nothing (an import would be resolved in the container's file system) and never returns: the
steps of `_STEPS` run in order, the first that fails is reported through the channel by its name, and
the process ends.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal

import prctl

from poc import _libc, namespaces, rootfs
from poc._fs import read_bytes, write_text
from poc.errors import CommandNotExecutable, CommandNotFound, SetupError
from poc.net import loopback_up
from poc.oci.defaults import DEFAULT_PATH
from poc.runtime import capabilities, seccomp, terminal
from poc.runtime.channel import CONSOLE, MAPPED, MOUNTED, PROCEED, READY, START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import NoReturn

    from poc.cgroups import Cgroup
    from poc.oci.types import Spec
    from poc.rootfs import Overlay, Step
    from poc.runtime.channel import Channel
    from poc.runtime.gate import Gate


_CATCHABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Init:
    """Everything the child needs, gathered by the parent before the clone.

    ``parent`` is a pidfd of the process it is to end with, if any.
    """

    __slots__ = (
        *("cgroup", "channel", "filter", "filter_flags", "gate", "keyring", "late_namespaces", "mapped", "overlay"),
        *("parent", "plan", "preserved", "protection", "reaper", "root", "root_fd", "spec", "stdio", "steps"),
    )

    def __init__(
        self,
        spec: Spec,
        root: str,
        channel: Channel,
        cgroup: Cgroup,
        plan: Sequence[Step],
        protection: Sequence[Step],
        overlay: Overlay | None = None,
        stdio: tuple[int, int, int] | None = None,
        program: bytes | None = None,
        filter_flags: Sequence[str] = (),
        late_namespaces: Collection[str] = (),
        reaper: bool = False,
        parent: int | None = None,
        gate: Gate | None = None,
        mapped: bool = False,
    ) -> None:
        self.spec = spec
        self.root = root
        self.channel = channel
        self.cgroup = cgroup
        self.plan = plan
        self.protection = protection
        self.overlay = overlay
        self.stdio = stdio
        self.filter = program
        self.filter_flags = filter_flags
        self.late_namespaces = late_namespaces
        self.reaper = reaper
        self.parent = parent
        self.gate = gate
        self.mapped = mapped
        self.preserved = 0
        self.keyring: str | None = None
        self.root_fd = -1
        self.steps: Sequence[tuple[str, Callable[[Init], None]]] = _STEPS

    def run(self) -> NoReturn:
        """Be the container's first process."""
        step = ""
        # It would finalise what is the caller's, and by touching all that is there copy it into the new cgroup.
        gc.disable()
        try:
            for name, action in self.steps:
                step = name
                action(self)
        except BaseException as error:
            self.channel.fail(error, step)
        finally:
            os._exit(1)


def _join_cgroup(init: Init) -> None:
    # By itself: for a process that moves itself the kernel need not stop all others from forking meanwhile.
    init.cgroup.join(unified=False)


def _new_session(init: Init) -> None:
    os.setsid()
    os.umask(0)
    if init.keyring is not None:
        _libc.join_session_keyring(init.keyring)


def _late_namespaces(init: Init) -> None:
    if "cgroup" in init.late_namespaces:
        namespaces.leave(["cgroup"])


def _mount_root(init: Init) -> None:
    propagation = _propagation(init)
    if propagation & _libc.MS_SHARED:
        # What is bound into the container is to stay shared with the host. Its root must not be.
        rootfs.separate(init.root)
    else:
        rootfs.detach_propagation(_libc.MS_REC | (propagation & _libc.MS_SLAVE or _libc.MS_PRIVATE))
    if init.overlay is not None:
        init.overlay.mount(init.root)
    else:
        rootfs.bind_self(init.root)
    init.root_fd = os.open(init.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _propagation(init: Init) -> int:
    return rootfs.parse_propagation(init.spec["linux"].get("rootfsPropagation") or "rprivate")


def _become_root(init: Init) -> None:
    """In a user namespace: be its root, once the caller has said who that is."""
    if not init.mapped:
        return
    # The root that is mapped may not be let into the directories of what is to be mounted.
    for step in init.plan:
        if isinstance(step, rootfs.Mount):
            step.open_source()
    init.channel.expect(MAPPED)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if "ipc" in init.late_namespaces:
        namespaces.leave(["ipc"])


def _mount_all(init: Init) -> None:
    for step in init.plan:
        step.apply(init.root_fd)
    os.close(rootfs.make_in_root(init.root_fd, init.spec["process"]["cwd"]))  # docker's: it need not exist


def _open_console(init: Init) -> None:
    if init.spec["process"].get("terminal", False):
        terminal.bind_console(init.root_fd, _new_console(init))


def _join_console(init: Init) -> None:
    """The same for a process that comes later: /dev/console stays the first one's."""
    init.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if init.spec["process"].get("terminal", False):
        _new_console(init)


def _new_console(init: Init) -> int:
    size = init.spec["process"].get("consoleSize", {})
    master, slave = terminal.open_in_container(init.root_fd, size.get("height", 0), size.get("width", 0))
    os.fchown(slave, init.spec["process"].get("user", {}).get("uid", 0), -1)  # or it could not open its /dev/stdout
    init.channel.send(CONSOLE, (master,))
    os.close(master)
    init.stdio = (slave, slave, slave)
    return slave


def _use_stdio(init: Init) -> None:
    if init.stdio is None:
        return
    for number, fd in enumerate(init.stdio):
        if fd == number:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, number)
    if init.spec["process"].get("terminal", False):
        terminal.control(0)


def _name_host(init: Init) -> None:
    if hostname := init.spec.get("hostname"):
        _libc.sethostname(hostname)
    if domainname := init.spec.get("domainname"):
        _libc.setdomainname(domainname)


def _loopback(init: Init) -> None:
    if any(ns["type"] == "network" and not ns.get("path") for ns in init.spec["linux"].get("namespaces", ())):
        loopback_up()


def _sysctl(init: Init) -> None:
    proc = rootfs.open_in_root(init.root_fd, "/proc/sys") if init.spec["linux"].get("sysctl") else -1
    for key, value in init.spec["linux"].get("sysctl", {}).items():
        write_text(f"{rootfs.proc_path(proc)}/{key.replace('.', '/')}", value)


def _protect(init: Init) -> None:
    for step in init.protection:
        step.apply(init.root_fd)


def _create_container(init: Init) -> None:
    if init.gate is not None and init.gate.hooks is not None:
        init.channel.send(MOUNTED)
        init.channel.expect(PROCEED)
        init.gate.hooks.run("createContainer", "creating", os.getpid())


def _enter_root(init: Init) -> None:
    rootfs.enter(init.root_fd)
    if init.spec["linux"].get("rootfsPropagation"):
        rootfs.detach_propagation(_propagation(init))


def _look_for_program(init: Init) -> None:
    """Let `create` already fail for want of a program, not `start`; Docker takes its 127 and 126 from these words."""
    if init.gate is None and init.steps is _STEPS:
        return
    process = init.spec["process"]
    path = dict(entry.partition("=")[::2] for entry in process.get("env", ())).get("PATH", DEFAULT_PATH)
    name = process["args"][0]
    directories = [process["cwd"]] if "/" in name else path.split(":")
    found = [candidate for directory in directories if os.path.exists(candidate := os.path.join(directory, name))]
    if any(os.path.isfile(candidate) and os.access(candidate, os.X_OK) for candidate in found):
        return
    if found:
        raise CommandNotExecutable(f'exec: "{name}": permission denied', "execve")
    missing = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    raise CommandNotFound(f'exec: "{name}": {missing}', "execve")


def _await_start(init: Init) -> None:
    init.channel.send(READY)
    if init.gate is None:
        init.channel.expect(START)
        return
    init.channel.close()
    init.channel = init.gate.wait()


def _limits(init: Init) -> None:
    process = init.spec["process"]
    for limit in process.get("rlimits", ()):
        number = getattr(resource, limit["type"])
        try:
            resource.setrlimit(number, (limit["soft"], limit["hard"]))
        except ValueError as error:
            raise SetupError(f"{limit['type']} {limit['soft']}:{limit['hard']}: {error}") from None
    if "oomScoreAdj" in process and not init.mapped:  # in a user namespace the file is not ours (`adjust_oom_score`)
        write_text("/proc/self/oom_score_adj", str(process["oomScoreAdj"]))


def _bound_capabilities(init: Init) -> None:
    if "capabilities" in init.spec["process"]:
        capabilities.limit_bounding(init.spec["process"]["capabilities"].get("bounding", ()))


def _early_filter(init: Init) -> None:
    # Without no_new_privs loading a filter takes CAP_SYS_ADMIN, which the next steps give away.
    if not init.spec["process"].get("noNewPrivileges", False):
        _load_filter(init)


def _become_user(init: Init) -> None:
    user = init.spec["process"].get("user", {})
    prctl.set_keepcaps(True)
    os.setgroups(user.get("additionalGids", []))
    os.setresgid(*[user.get("gid", 0)] * 3)
    os.setresuid(*[user.get("uid", 0)] * 3)
    prctl.set_keepcaps(False)
    os.umask(user.get("umask", 0o022))


def _set_capabilities(init: Init) -> None:
    if "capabilities" in init.spec["process"]:
        capabilities.apply(init.spec["process"]["capabilities"])


def _change_directory(init: Init) -> None:
    cwd = init.spec["process"]["cwd"]
    try:
        os.chdir(cwd)
    except OSError as error:
        raise OSError(error.errno, f"working directory {cwd}: {os.strerror(error.errno or 0)}") from None
    # CVE-2024-21626: a leaked descriptor as working directory lies outside the root; getcwd(2) knows.
    if not os.getcwd().startswith("/"):
        raise SetupError(f"working directory {cwd} is outside the container")


def _end_with_parent(init: Init) -> None:
    # The kernel forgets this at every change of ids, hence once more after the last (prctl(2), PR_SET_PDEATHSIG).
    if init.parent is None:
        return
    prctl.set_pdeathsig(signal.SIGKILL)
    poller = select.poll()
    poller.register(init.parent, select.POLLIN)
    if poller.poll(0):
        raise SetupError("the container's monitor was killed")  # before the call, so there was no signal


def _late_filter(init: Init) -> None:
    if init.spec["process"].get("noNewPrivileges", False):
        prctl.set_no_new_privs(1)
        _load_filter(init)


def _load_filter(init: Init) -> None:
    if init.filter is not None:
        seccomp.load(init.filter, init.filter_flags)


def _start_container(init: Init) -> None:
    if init.gate is not None and init.gate.hooks is not None:
        init.gate.hooks.run("startContainer", "created", os.getpid(), init.spec["process"].get("env", ()))


def _execute(init: Init) -> None:
    process = init.spec["process"]
    _libc.cloexec_from(3 + init.preserved)
    for signum in _CATCHABLE:
        if signal.getsignal(signum) == signal.SIG_IGN:  # execve keeps it, and Python and the monitor ignore some
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # execve keeps that too, and the caller's thread may block some
    if init.reaper:
        be_reaper()
    execute(process["args"], _with_home(process.get("env", []), process.get("user", {}).get("uid", 0)))


def _with_home(env: Sequence[str], uid: int) -> Sequence[str]:
    """As runc and crun do, and engines rely on it: HOME is what the container's /etc/passwd says."""
    if any(entry.startswith("HOME=") for entry in env):
        return env
    try:
        lines = read_bytes("/etc/passwd").decode(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.split(":") for line in lines)
    homes = [entry[5] for entry in fields if len(entry) == 7 and entry[2] == str(uid)]
    return [*env, f"HOME={homes[0] if homes and homes[0] else '/'}"]


def execute(args: Sequence[str], env: Sequence[str]) -> NoReturn:
    """execve(2) after a search along PATH of ``env``. Raises CommandNotFound or CommandNotExecutable."""
    environment = dict(entry.partition("=")[::2] for entry in env)
    name = args[0]
    directories = [""] if "/" in name else environment.get("PATH", DEFAULT_PATH).split(":") if name else []
    refused: OSError | None = None
    for directory in directories:
        try:
            os.execve(f"{directory}/{name}" if directory else name, list(args), environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = error
    if refused is not None:
        raise CommandNotExecutable(f"{name!r:.200} can't be executed: {os.strerror(refused.errno or 0)}", "execve")
    where = "" if "/" in name else " in PATH"
    raise CommandNotFound(f"{name!r:.200} not found{where} in the container", "execve")


def be_reaper() -> None:
    """Fork: the child returns and goes on to its execve; this process stays as process 1 and ends with its status.

    It passes every signal on to the child and reaps whatever the kernel hands to process 1.
    """
    everything = signal.valid_signals() - {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # /proc/1/exe is the host's interpreter (CVE-2019-5736), /proc/1/fd what it has open: nobody in the container may
    # follow them, at no moment. In the child execve makes it good again.
    prctl.set_dumpable(0)
    child = namespaces.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setpgid(0, 0)
        _take_foreground()
        return
    os.closerange(3, 1 << 20)
    prctl.set_proctitle("poc-init")
    while True:
        signum = signal.sigwait(everything | {signal.SIGCHLD})
        if signum != signal.SIGCHLD:
            os.kill(child, signum)
            continue
        _reap(child)


def _take_foreground() -> None:
    if os.isatty(0):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})


def _reap(child: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


_FIRST_STEPS = (
    ("parent death signal", _end_with_parent),
    ("join cgroup", _join_cgroup),
    ("setsid", _new_session),
    ("namespaces", _late_namespaces),
    ("mount root", _mount_root),
    ("user namespace", _become_root),
    ("mount", _mount_all),
    ("console", _open_console),
    ("stdio", _use_stdio),
    ("hostname", _name_host),
    ("loopback", _loopback),
    ("sysctl", _sysctl),
    ("protect", _protect),
    ("createContainer hooks", _create_container),
    ("pivot_root", _enter_root),
    ("execve", _look_for_program),
    ("start", _await_start),
)
_LAST_STEPS = (
    ("limits", _limits),
    ("bounding set", _bound_capabilities),
    ("seccomp", _early_filter),
    ("user", _become_user),
    ("capabilities", _set_capabilities),
    ("working directory", _change_directory),
    ("parent death signal", _end_with_parent),
    ("seccomp", _late_filter),
    ("startContainer hooks", _start_container),
    ("execve", _execute),
)
_STEPS = (*_FIRST_STEPS, *_LAST_STEPS)
# Of a process that comes into a running container, and is born in its cgroup and namespaces.
JOINING_STEPS = (
    ("setsid", _new_session),
    ("console", _join_console),
    ("stdio", _use_stdio),
    ("execve", _look_for_program),
    ("start", _await_start),
    *_LAST_STEPS,
)
