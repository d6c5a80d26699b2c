"""The container's first process, from its birth to its `execve`. Runs in the child, after the clone.

It imports nothing (an import would be resolved in the container's file system) and never returns: the
steps of `_STEPS` run in order, the first that fails is reported through the channel by its name, and
the process ends.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import stat

import prctl

from poc import _libc, namespaces, rootfs
from poc._fs import close_all_but, read_bytes
from poc._lean import signal
from poc.errors import CommandNotExecutable, CommandNotFound, SetupError
from poc.net import loopback_up
from poc.oci.defaults import DEFAULT_PATH
from poc.runtime import capabilities, seccomp, terminal
from poc.runtime.channel import CONSOLE, MAPPED, MOUNTED, PROCEED, READY, START
from poc.runtime.trampoline import CALLS, Trampoline, failure, refuse_interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, NoReturn

    from poc.cgroups import Cgroup
    from poc.oci.types import Spec
    from poc.rootfs import Overlay, Step
    from poc.runtime.channel import Channel
    from poc.runtime.gate import Gate
    from poc.runtime.notify import Handover
    from poc.runtime.traits import Trait


_RLIMIT_LOCKS = 10  # asm-generic/resource.h; Python's module leaves it out
_NO_LIMIT = (1 << 63) - 1


class Init:
    """Everything the child needs, gathered by the parent before the clone.

    ``parent`` is a pidfd of the process it is to end with, if any. ``straight``: there is to be no trampoline.
    """

    __slots__ = (
        *("cgroup", "channel", "filter", "filter_flags", "gate", "handover", "interpreter", "joined", "keyring"),
        *("late_namespaces", "mapped", "overlay", "parent", "pivot", "plan", "preserved", "program", "protection"),
        *("reaper", "root", "root_fd", "spec", "stdio", "steps", "straight", "traits", "trampoline", "trees"),
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
        late_namespaces: Collection[str] = (),
        reaper: bool = False,
        parent: int | None = None,
        gate: Gate | None = None,
        mapped: bool = False,
        traits: Sequence[Trait] = (),
    ) -> None:
        self.spec = spec
        self.root = root
        self.channel = channel
        self.cgroup = cgroup
        self.plan = plan
        self.protection = protection
        self.overlay = overlay
        self.stdio = stdio
        self.filter: bytes | None = None
        self.filter_flags: Sequence[str] = ()
        self.late_namespaces = late_namespaces
        self.reaper = reaper
        self.parent = parent
        self.gate = gate
        self.mapped = mapped
        self.joined: Mapping[str, int] = {}
        self.trees: Mapping[str, int] = {}
        self.preserved = 0
        self.keyring: str | None = None
        self.root_fd = -1
        self.program = ""
        self.interpreter = os.stat("/proc/self/exe")
        # The filter may not allow a trampoline; a security module's label would be the trampoline's, not the program's.
        self.straight = any(trait.labels for trait in traits)
        self.handover: Handover | None = None
        self.trampoline: Trampoline | None = None
        self.pivot = True
        self.traits = traits
        self.steps: Sequence[tuple[str, Callable[[Init], None]]] = _STEPS

    def use_profile(self, profile: Any, cache: str) -> None:
        """Load a seccomp profile (``linux.seccomp``) before the program, None for none."""
        if profile is not None:
            self.filter = seccomp.program(profile, cache)
            self.filter_flags = seccomp.filter_flags(profile)
            self.straight = self.straight or not seccomp.permits(profile, CALLS)
            if seccomp.notifies(profile):
                from poc.runtime.notify import Handover

                self.handover = Handover()

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


def _has_own_mounts(init: Init) -> bool:
    """Or are they also others', whose root pivot_root(2) would change?"""
    return any(entry["type"] == "mount" and not entry.get("path") for entry in init.spec["linux"].get("namespaces", ()))


def _mount_root(init: Init) -> None:
    if not _has_own_mounts(init):
        if any(entry["type"] == "mount" for entry in init.spec["linux"].get("namespaces", ())):
            rootfs.mount_beside(init.root)  # on the host the caller has done so, who has to undo it
        init.root_fd = os.open(init.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return
    propagation = _propagation(init)
    if propagation & _libc.MS_SHARED:
        # What is bound into the container is to stay shared with the host. Its root must not be.
        rootfs.separate(init.root)
    else:
        rootfs.detach_propagation(_libc.MS_REC | (propagation & _libc.MS_SLAVE or _libc.MS_PRIVATE))
    if init.overlay is not None:
        init.overlay.mount(init.root)
    else:
        try:
            rootfs.bind_self(init.root)
        except PermissionError:
            if init.mapped:
                return  # in the new namespace we are nobody yet: only its root may be let in (`_become_root`)
            raise
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
    if init.root_fd < 0:
        rootfs.bind_self(init.root)
        init.root_fd = os.open(init.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if "ipc" in init.late_namespaces:
        namespaces.leave(["ipc"])


def _mount_all(init: Init) -> None:
    for step in init.plan:
        step.apply(init.root_fd)
        if isinstance(step, rootfs.Mount) and step.is_root():
            os.close(init.root_fd)
            init.root_fd = os.open(init.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # what is on top now
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
    if init.spec["linux"].get("netDevices"):
        init.channel.expect(PROCEED)  # some are about them
    for key, value in init.spec["linux"].get("sysctl", {}).items():
        rootfs.write_proc(init.root_fd, f"sys/{key.replace('.', '/')}", value)


def _protect(init: Init) -> None:
    for step in init.protection:
        step.apply(init.root_fd)


def _create_container(init: Init) -> None:
    if init.gate is not None and init.gate.hooks is not None:
        init.channel.send(MOUNTED)
        init.channel.expect(PROCEED)
        init.gate.hooks.run("createContainer", "creating", os.getpid())


def _enter_root(init: Init) -> None:
    if not _has_own_mounts(init):
        rootfs.confine(init.root_fd)
        return
    if init.pivot:
        rootfs.enter(init.root_fd)
    else:
        rootfs.move_to_root(init.root_fd, init.root)
    if init.spec["linux"].get("rootfsPropagation"):
        rootfs.detach_propagation(_propagation(init))


def _look_for_program(init: Init) -> None:
    """Let `create` already fail for want of a program, not `start`; Docker takes its 127 and 126 from these words."""
    if init.gate is None and init.steps is _STEPS:
        return
    process = init.spec["process"]
    path = dict(entry.partition("=")[::2] for entry in process.get("env", ())).get("PATH", DEFAULT_PATH)
    name = process["args"][0]
    if not name:
        return  # nor will it be started (`lifecycle.start`)
    directories = [process["cwd"]] if "/" in name else path.split(":")
    found = [candidate for directory in directories if os.path.exists(candidate := os.path.join(directory, name))]
    if any(os.path.isfile(candidate) and os.access(candidate, os.X_OK) for candidate in found):
        return
    if found:
        raise CommandNotExecutable(f'exec: "{name:.200}": permission denied', "execve")
    missing = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    raise CommandNotFound(f'exec: "{name:.200}": {missing}', "execve")


def _make_trampoline(init: Init) -> None:
    # Once it holds no more rights than the container, whoever shares its pid namespace could follow /proc/PID/exe.
    prctl.set_dumpable(0)
    if init.straight:
        return
    try:
        init.trampoline = Trampoline()
    except OSError:
        pass  # not on this machine


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
        number = _RLIMIT_LOCKS if limit["type"] == "RLIMIT_LOCKS" else getattr(resource, limit["type"])
        soft, hard = (-1 if limit[key] > _NO_LIMIT else limit[key] for key in ("soft", "hard"))
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError) as error:
            reason = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
            raise SetupError(f"{limit['type']} {soft}:{hard}: {reason}") from None


def _apply_traits(init: Init) -> None:
    for trait in init.traits:
        trait.apply()


def _bound_capabilities(init: Init) -> None:
    if "capabilities" in init.spec["process"]:
        capabilities.limit_bounding(init.spec["process"]["capabilities"].get("bounding", ()))


def _give_stdio(uid: int, gid: int) -> None:
    """As in runc: nobody else than the owner of a pipe could open it again as /dev/stdout. A file stays whose it is."""
    for fd in (0, 1, 2):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, uid, gid)
        except OSError:
            pass  # closed, on a read-only file system, or of somebody who is not mapped


def _become_user(init: Init) -> None:
    user = init.spec["process"].get("user", {})
    if user.get("uid", 0):
        _give_stdio(user["uid"], user.get("gid", 0))
    prctl.set_keepcaps(True)
    os.setgroups(user.get("additionalGids", []))
    os.setresgid(*[user.get("gid", 0)] * 3)
    os.setresuid(*[user.get("uid", 0)] * 3)
    prctl.set_keepcaps(False)
    os.umask(user.get("umask", 0o022))


def _set_capabilities(init: Init) -> None:
    if "capabilities" in init.spec["process"]:
        # Without no_new_privs loading a filter takes CAP_SYS_ADMIN, which therefore goes only then.
        kept = () if init.filter is None or _may_not_gain(init) else ("CAP_SYS_ADMIN",)
        capabilities.apply(init.spec["process"]["capabilities"], kept)


def _may_not_gain(init: Init) -> bool:
    return init.spec["process"].get("noNewPrivileges", False)


def _change_directory(init: Init) -> None:
    cwd = init.spec["process"]["cwd"]
    own: tuple[int, ...] = (init.channel.fileno(), *([] if init.parent is None else [init.parent]))
    preserved = range(3, 3 + init.preserved)
    own += init.trampoline.fds if init.trampoline is not None else ()
    own += () if init.handover is None else (init.handover.fd,)
    close_all_but(*preserved, *own)
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


def _leave_clean(init: Init) -> None:
    # All this before the filter, which need not allow more than the program itself calls.
    process = init.spec["process"]
    process["env"] = list(_with_home(process.get("env", []), process.get("user", {}).get("uid", 0)))
    _libc.cloexec_from(3 + init.preserved)
    _libc.reset_signals()  # execve keeps what is ignored, and Python and the monitor ignore some
    _libc.set_signal_mask(_libc.NO_SIGNAL)  # execve keeps that too, and the caller's thread may block some


def _find_program(init: Init) -> None:
    name = init.spec["process"]["args"][0]
    init.program = _search(name, init.spec["process"]["env"])
    try:
        refuse_interpreter(init.program, init.interpreter)
    except OSError as error:  # a script's interpreter is missing
        raise failure(name, error.errno or 0) from None
    if init.trampoline is not None:
        init.trampoline.report_to(init.channel.fileno())


def _load_filter(init: Init) -> None:
    if _may_not_gain(init):
        prctl.set_no_new_privs(1)
    if init.filter is None:
        return
    if init.handover is not None:
        init.handover.offer(init.channel)
    seccomp.load(init.filter, init.filter_flags)
    if init.handover is not None:
        init.handover.wait()
    if "capabilities" in init.spec["process"] and not _may_not_gain(init):
        capabilities.give_up("CAP_SYS_ADMIN", init.spec["process"]["capabilities"])


def _start_container(init: Init) -> None:
    if init.gate is not None and init.gate.hooks is not None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # of a hook that does not read its state
        for hook in init.spec["hooks"].get("startContainer", ()):
            refuse_interpreter(hook["path"], init.interpreter)
        init.gate.hooks.run("startContainer", "created", os.getpid(), init.spec["process"].get("env", ()))
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _execute(init: Init) -> None:
    process = init.spec["process"]
    if init.reaper:
        be_reaper()
    environment = dict(entry.partition("=")[::2] for entry in process["env"])
    try:
        if init.trampoline is not None:
            init.trampoline.execute(init.program, process["args"], environment)
        os.execve(init.program, process["args"], environment)
    except OSError as error:
        raise failure(process["args"][0], error.errno or 0) from None


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


def _search(name: str, env: Sequence[str]) -> str:
    """The file that execvp(3) would execute. Raises CommandNotFound or CommandNotExecutable."""
    path = dict(entry.partition("=")[::2] for entry in env).get("PATH", DEFAULT_PATH)
    directories = [""] if "/" in name else path.split(":") if name else []
    reason = errno.ENOENT
    for directory in directories:
        candidate = f"{directory}/{name}" if directory else name
        try:
            # access(2) counts no capabilities but root's; those that are not ambient end with the first execve.
            if stat.S_ISREG(os.stat(candidate).st_mode) and os.access(candidate, os.X_OK):
                return candidate
            reason = errno.EACCES
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.errno or 0
    raise failure(name, reason, "" if "/" in name else " in PATH")


def be_reaper() -> None:
    """Fork: the child returns and goes on to its execve; this process stays as process 1 and ends with its status.

    It passes every signal on to the child and reaps whatever the kernel hands to process 1.
    """
    everything = signal.valid_signals() - {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # /proc/1/exe is the host's interpreter (CVE-2019-5736), /proc/1/fd what it has open: nobody in the container may
    # follow them, at no moment. In the child execve makes it good again.
    prctl.set_dumpable(0)
    if os.getpid() != 1:  # in a pid namespace that others are in, too
        _libc.prctl(_libc.PR_SET_CHILD_SUBREAPER, 1)
    prctl.set_name("poc-init")
    prctl.set_proctitle("poc-init")
    child = namespaces.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setpgid(0, 0)
        _take_foreground()
        return
    os.closerange(3, 1 << 20)
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
            os._exit(namespaces.shell_status(os.waitstatus_to_exitcode(status)))


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
    ("trampoline", _make_trampoline),
    ("start", _await_start),
)
_LAST_STEPS = (
    ("limits", _limits),
    ("process", _apply_traits),
    ("bounding set", _bound_capabilities),
    ("user", _become_user),
    ("capabilities", _set_capabilities),
    ("working directory", _change_directory),
    ("parent death signal", _end_with_parent),
    ("clean up", _leave_clean),
    ("execve", _find_program),
    ("seccomp", _load_filter),
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
    ("trampoline", _make_trampoline),
    ("start", _await_start),
    *_LAST_STEPS,
)
