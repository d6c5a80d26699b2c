"""``config.json`` as types (runtime-spec, config.md and config-linux.md). Imported by type checkers only."""

from __future__ import annotations

from typing import Any, TypeAlias, TypedDict


class User(TypedDict, total=False):
    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Rlimit(TypedDict):
    type: str
    soft: int
    hard: int


class Process(TypedDict, total=False):
    terminal: bool
    consoleSize: dict[str, int]
    cwd: str
    env: list[str]
    args: list[str]
    user: User
    capabilities: dict[str, list[str]]
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    oomScoreAdj: int
    scheduler: dict[str, Any]
    ioPriority: dict[str, Any]
    execCPUAffinity: dict[str, str]
    apparmorProfile: str
    selinuxLabel: str


class Root(TypedDict, total=False):
    path: str
    readonly: bool


class Mount(TypedDict, total=False):
    destination: str
    type: str
    source: str
    options: list[str]


class Namespace(TypedDict, total=False):
    type: str
    path: str


class IDMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Device(TypedDict, total=False):
    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


TimeOffsets: TypeAlias = dict[str, dict[str, int]]


class Linux(TypedDict, total=False):
    namespaces: list[Namespace]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    devices: list[Device]
    cgroupsPath: str
    resources: dict[str, Any]
    rootfsPropagation: str
    sysctl: dict[str, str]
    seccomp: dict[str, Any]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    personality: dict[str, Any]
    timeOffsets: TimeOffsets
    memoryPolicy: dict[str, Any]
    netDevices: dict[str, dict[str, str]]
    intelRdt: dict[str, Any]
    mountLabel: str


class Hook(TypedDict, total=False):
    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Spec(TypedDict, total=False):
    ociVersion: str
    root: Root
    mounts: list[Mount]
    process: Process
    hostname: str
    domainname: str
    hooks: dict[str, list[Hook]]
    annotations: dict[str, str]
    linux: Linux
