"""The files by which a container knows names: /etc/hosts and /etc/resolv.conf. Reads the host's, writes nothing."""

from __future__ import annotations

from poc import _fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.config import ContainerConfig

GATEWAY = "host-gateway"
_LOCAL = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def hosts(config: ContainerConfig, hostname: str, address: str | None, gateway: str) -> str:
    """hosts(5): the host's own for a container in its network, and ``--add-host``. ``gateway`` is host-gateway."""
    extra = []
    for entry in config.extra_hosts:
        name, _, target = entry.partition(":")
        extra.append(f"{gateway if target == GATEWAY else target}\t{name}")
    if config.network == "host" and not config.hostname:
        lines = _read("/etc/hosts").splitlines()
    else:
        names = f"{hostname}.{config.domainname} {hostname}" if config.domainname else hostname
        lines = [*_LOCAL, f"{address or '127.0.1.1'}\t{names}"]
    return "\n".join([*lines, *extra]) + "\n"


def resolv_conf(config: ContainerConfig) -> str:
    """resolv.conf(5): the host's, in whose place comes what ``--dns``, ``--dns-search`` and ``--dns-option`` say."""
    lines = _host_lines(config.network == "host")
    for word, given in (("nameserver", config.dns), ("search", config.dns_search), ("options", config.dns_opt)):
        if not given:
            continue
        lines = [line for line in lines if not line.startswith(word)]
        if word == "nameserver":
            lines += [f"nameserver {server}" for server in given]
        elif given != ["."]:
            lines.append(f"{word} {' '.join(given)}")
    return "\n".join(lines) + "\n" if lines else ""


def _host_lines(same_network: bool) -> list[str]:
    """The host's, without servers on its own loopback, which another network namespace can't reach."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        lines = [line for line in _read(path).splitlines() if not line.startswith("#")]
        if same_network and lines:
            return lines
        kept = [line for line in lines if not line.startswith(("nameserver 127.", "nameserver ::1"))]
        if any(line.startswith("nameserver") for line in kept):
            return kept
    return []


def _read(path: str) -> str:
    try:
        return _fs.read_text(path)
    except OSError:
        return ""
