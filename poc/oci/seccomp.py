"""The default seccomp profile: which system calls a container may make, as an OCI ``LinuxSeccomp``.

Data only, equal in effect to Docker's default profile (docs.docker.com/engine/security/seccomp, moby/profiles),
but for the address families of ``socket``, where it is tighter. `poc.runtime.seccomp` compiles and loads it.

What is not named here fails with EPERM: the keyring, io_uring, userfaultfd, kexec, swap, quotas, the clock. What only
root's capabilities make harmless comes back with the capability. A call newer than every name here fails with
ENOSYS (the loader's doing), so that a C library takes its older way.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_EPERM, _ENOSYS = 1, 38

# ptrace and process_vm_* stand here because since Linux 4.8 a tracer can't lead its tracee around the filter.
_ALLOWED = """
    execve execveat exit exit_group fork vfork wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal
    ptrace process_vm_readv process_vm_writev process_mrelease prctl seccomp restart_syscall rseq membarrier
    landlock_create_ruleset landlock_add_rule landlock_restrict_self set_tid_address uretprobe riscv_hwprobe
    get_thread_area set_thread_area get_robust_list set_robust_list

    getpid getppid gettid getpgid getpgrp getsid setpgid setsid uname sysinfo getcpu umask times getrusage
    getrlimit setrlimit ugetrlimit prlimit64 getpriority setpriority ioprio_get ioprio_set capget capset
    getuid geteuid getgid getegid getgroups getresuid getresgid setuid setgid setgroups setreuid setregid
    setresuid setresgid setfsuid setfsgid
    getuid32 geteuid32 getgid32 getegid32 getgroups32 getresuid32 getresgid32 setuid32 setgid32 setgroups32
    setreuid32 setregid32 setresuid32 setresgid32 setfsuid32 setfsgid32
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
    sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64

    futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn pause alarm
    signalfd signalfd4 eventfd eventfd2

    brk mmap mmap2 munmap mremap mprotect madvise mincore msync mseal mlock mlock2 mlockall munlock munlockall
    remap_file_pages map_shadow_stack memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect

    open openat openat2 creat close close_range read readv pread64 preadv preadv2 write writev pwrite64 pwritev
    pwritev2 lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock pipe pipe2 splice tee vmsplice
    sendfile sendfile64 copy_file_range fadvise64 fadvise64_64 fallocate readahead cachestat
    truncate truncate64 ftruncate ftruncate64 fsync fdatasync sync syncfs sync_file_range
    io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64

    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    statmount listmount access faccessat faccessat2 getcwd chdir fchdir getdents getdents64 readlink readlinkat
    mkdir mkdirat mknod mknodat rmdir link linkat unlink unlinkat symlink symlinkat rename renameat renameat2
    chmod fchmod fchmodat fchmodat2 chown fchown lchown chown32 fchown32 lchown32 fchownat
    utime utimes futimesat utimensat utimensat_time64 name_to_handle_at
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr
    flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    fanotify_mark inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

    select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2

    socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64

    ipc shmget shmat shmdt shmctl semget semop semctl semtimedop semtimedop_time64 msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64

    time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
    clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 getrandom
"""

_BY_CAPABILITY = (
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        """bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
        quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare""",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
)

_ARM = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
_BY_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "i386": "modify_ldt",
    "i686": "modify_ldt",
    "aarch64": _ARM,
    "armv6l": _ARM,
    "armv7l": _ARM,
    "ppc64le": "sync_file_range2 swapcontext",
    "riscv64": "riscv_flush_icache",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
}

# A 64-bit kernel also takes its 32-bit calls. On a machine without a row only the native ones pass.
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}

# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_CLONE_NAMESPACES = 0x7E020000

# PER_LINUX, PER_LINUX32, each with UNAME26 too, and the value that only asks.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# (first, how many) of the address families that pass: all but AF_ALG (38) and AF_VSOCK (40, which knows no namespace).
# The kernel takes an int, the filter sees 64 bits. "Greater than 40" would pass 40 | 1 << 32, and that opens AF_VSOCK;
# so blocks of powers of two, compared under a mask of the lower 32 bits.
_FAMILIES = ((0, 32), (32, 4), (36, 2), (39, 1), (41, 1), (42, 2), (44, 4), (48, 16))


def default_profile(capabilities: Collection[str], machine: str | None = None) -> dict[str, Any]:
    """The profile for a container whose bounding set is ``capabilities`` ("CAP_CHOWN", …).

    ``machine`` is uname(2)'s, by default this host's. The result is the caller's to change.
    """
    machine = machine or os.uname().machine
    names = [*_ALLOWED.split(), *_BY_MACHINE.get(machine, "").split()]
    for capability, calls in _BY_CAPABILITY:
        if capability in capabilities:
            names += calls.split()
    rules = [
        _allow(names),
        *(_allow(["personality"], "EQ", value) for value in _PERSONALITIES),
        *(_allow(["socket"], "MASKED_EQ", 0xFFFFFFFF & -size, first) for first, size in _FAMILIES),
    ]
    if "CAP_SYS_ADMIN" not in capabilities:
        flags = 1 if machine == "s390x" else 0  # there the stack comes first
        rules.append(_allow(["clone"], "MASKED_EQ", _CLONE_NAMESPACES, 0, index=flags))
        # clone3's flags are in memory, out of the filter's sight. ENOSYS makes the C library use clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "syscalls": rules}
    if machine in _ARCHITECTURES:
        profile["architectures"] = [*_ARCHITECTURES[machine]]
    return profile


def _allow(
    names: list[str], operator: str | None = None, value: int = 0, value_two: int = 0, index: int = 0
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if operator:
        rule["args"] = [{"index": index, "value": value, "valueTwo": value_two, "op": f"SCMP_CMP_{operator}"}]
    return rule
