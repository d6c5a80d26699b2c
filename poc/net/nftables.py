"""nftables through pyroute2: tables as data, compared with the kernel's and replaced in one transaction.

Knows the handful of expressions that poc's rules are made of. Nobody's table but those named is ever written.
Imports pyroute2 at once: import this module inside functions only.
"""

from __future__ import annotations

import socket
import struct

from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFT_MSG_GETTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    NFTSocket,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex, masq, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    # What `nft` prints for it, and the kernel's expressions for it.
    Part = tuple[str, list[Any]]

INET, IPV4, BRIDGE = 1, 2, 7  # NFPROTO_*
FAMILIES = {INET: "inet", IPV4: "ip", BRIDGE: "bridge"}
PREROUTING, FORWARD, POSTROUTING = 0, 2, 4  # NF_INET_*, NF_BR_*

_EQUAL, _NOT_EQUAL = 0, 1  # NFT_CMP_*
_LINK_HEADER, _NETWORK_HEADER, _TRANSPORT_HEADER = 0, 1, 2  # NFT_PAYLOAD_*
_PROTOCOL, _IIFNAME, _OIFNAME, _L4PROTO, _IIFGROUP = 1, 6, 7, 16, 21  # NFT_META_*
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11


class Chain:
    """A base chain with its rules: ``kind`` "filter" or "nat", ``hook`` and ``priority`` the kernel's numbers."""

    __slots__ = ("hook", "kind", "name", "priority", "rules")

    def __init__(self, name: str, kind: str, hook: int, priority: int, rules: Sequence[Sequence[Part]]) -> None:
        self.name = name
        self.kind = kind
        self.hook = hook
        self.priority = priority
        self.rules = rules


class Table:
    """A table as it should be. ``chains`` may be empty where only its name matters."""

    __slots__ = ("chains", "family", "name")

    def __init__(self, family: int, name: str, chains: Sequence[Chain] = ()) -> None:
        self.family = family
        self.name = name
        self.chains = chains

    def owns(self, message: Any, prefix: str = "NFTA_CHAIN") -> bool:
        """Whether a chain's (or with ``prefix`` a rule's) message speaks of this table."""
        return bool(message["nfgen_family"] == self.family and message.get_attr(f"{prefix}_TABLE") == self.name)


class Nftables(NFTSocket):  # type: ignore[misc]
    """A netlink socket to the nftables of the calling network namespace. Errors are OSError."""

    def chains(self) -> list[Any]:
        """Every chain of every family, as pyroute2's messages."""
        return self._dump(nft_chain_msg(), NFT_MSG_GETCHAIN)

    def rules(self, family: int, table: str, chain: str | None = None) -> list[Any]:
        """The rules of one table or chain in order, as pyroute2's messages; none when it is not there."""
        request = nft_rule_msg()
        request["attrs"] = [("NFTA_RULE_TABLE", table)]
        if chain is not None:
            request["attrs"].append(("NFTA_RULE_CHAIN", chain))
        request["nfgen_family"] = family
        return self._dump(request, NFT_MSG_GETRULE)

    def packets(self, table: Table, chain: str) -> int:
        """How many packets the counters in one chain have seen."""
        expressions = (
            expression
            for rule in self.rules(table.family, table.name, chain)
            for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS")
            if expression.get_attr("NFTA_EXPR_NAME") == "counter"
        )
        return sum(counter.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS") for counter in expressions)

    def intact(self, table: Table, chains: list[Any]) -> bool:
        """Whether the table has its chains with as many rules as it should; ``chains`` is what `chains` returned.

        Cheap and enough to notice a flushed table; `holds` looks closer.
        """
        counts = {chain.name: len(chain.rules) for chain in table.chains}
        return counts == {
            message.get_attr("NFTA_CHAIN_NAME"): message.get_attr("NFTA_CHAIN_USE")
            for message in chains
            if table.owns(message)
        }

    def holds(self, table: Table) -> bool:
        """Whether the table consists of just these chains and rules.

        Each rule carries its own text as its comment, which is what is compared.
        """
        found: dict[str, list[str]] = {
            message.get_attr("NFTA_CHAIN_NAME"): [] for message in self.chains() if table.owns(message)
        }
        for message in self.rules(table.family, table.name):
            found[message.get_attr("NFTA_RULE_CHAIN")].append(message.get_attr("NFTA_RULE_USERDATA"))
        return found == {chain.name: [_text(rule) for rule in chain.rules] for chain in table.chains}

    def replace(self, table: Table) -> None:
        """Make the table what it should be, in one transaction: no packet meets half a table."""
        # Deleting what is not there fails, adding what is there does not. Hence add, delete, add.
        messages = [_table(table, kind) for kind in (NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE)]
        for chain in table.chains:
            messages.append(_base_chain(table, chain))
            messages += [_rule(table, chain, rule) for rule in chain.rules]
        self._transaction(messages, f"write nftables table {FAMILIES[table.family]} {table.name}")

    def delete(self, name: str) -> None:
        """Delete the tables of this name, of the families that poc uses; content when there are none."""
        for message in self._dump(nft_table_msg(), NFT_MSG_GETTABLE):
            family = message["nfgen_family"]
            if family in (IPV4, BRIDGE) and message.get_attr("NFTA_TABLE_NAME") == name:
                doomed = _table(Table(family, name), NFT_MSG_DELTABLE)
                self._transaction([doomed], f"delete nftables table {FAMILIES[family]} {name}")

    def _dump(self, request: Any, kind: int) -> list[Any]:
        request["header"]["type"] = kind | NFNL_SUBSYS_NFTABLES << 8
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
        for _ in range(20):
            messages = self._send([request], "read nftables")
            if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                return messages  # else somebody changed them half-way
        raise OSError(11, "read nftables: they change all the time")

    def _transaction(self, messages: list[Any], what: str) -> None:
        self._send([_batch(_BATCH_BEGIN), *messages, _batch(_BATCH_END)], what)

    def _send(self, messages: list[Any], what: str) -> list[Any]:
        try:
            return list(self.nlm_request_batch(messages))
        except NetlinkError as error:
            raise OSError(error.code, f"{what}: {error.args[1]}") from None


def interface_in(name: str) -> Part:
    """Packets that came in through this interface."""
    return f'iifname "{name}"', [_meta(_IIFNAME), _compare(_padded(name))]


def interface_out(name: str, equal: bool = True) -> Part:
    """Packets that leave through this interface; through any but this one unless ``equal``."""
    text = f'oifname "{name}"' if equal else f'oifname != "{name}"'
    return text, [_meta(_OIFNAME), _compare(_padded(name), _EQUAL if equal else _NOT_EQUAL)]


def group_in(group: int) -> Part:
    """Packets that came in through an interface of this group (`ip link set … group`)."""
    return f"iifgroup {group}", [_meta(_IIFGROUP), _compare(struct.pack("=I", group))]


def source(subnet: str) -> Part:
    """Packets from this subnet or address."""
    return f"ip saddr {subnet}", _subnet(12, subnet)


def destination(subnet: str) -> Part:
    """Packets to this subnet or address."""
    return f"ip daddr {subnet}", _subnet(16, subnet)


def foreign_source(subnet: str) -> Part:
    """IPv4 packets from outside this subnet, for chains that see every protocol."""
    ipv4 = [_meta(_PROTOCOL), _compare(b"\x08\x00")]
    return f"ip saddr != {subnet}", [*ipv4, *_subnet(12, subnet, _NOT_EQUAL)]


def foreign_arp(subnet: str) -> Part:
    """ARP that claims an address outside this subnet."""
    arp = [_payload(_LINK_HEADER, 12, 2), _compare(b"\x08\x06")]
    return f"arp saddr ip != {subnet}", [*arp, *_subnet(14, subnet, _NOT_EQUAL)]


def tcp(source_port: int, destination_port: int) -> Part:
    """TCP segments from one port to another."""
    text = f"tcp sport {source_port} tcp dport {destination_port}"
    ports = struct.pack("!HH", source_port, destination_port)
    return text, [_meta(_L4PROTO), _compare(b"\x06"), _payload(_TRANSPORT_HEADER, 0, 4), _compare(ports)]


def replies() -> Part:
    """Packets of a connection that was let through before, and errors about one."""
    return "ct state established,related", _conntrack(0, 2 | 4)  # NFT_CT_STATE


def published() -> Part:
    """Packets of a connection whose destination was translated: a published port."""
    return "ct status dnat", _conntrack(2, 1 << 5)  # NFT_CT_STATUS, IPS_DST_NAT


def counter() -> Part:
    """Count the packets that get this far in the rule."""
    return "counter", [genex("counter", {"bytes": 0, "packets": 0})]


def accept() -> Part:
    """Let it pass this chain."""
    return "accept", verdict(1)


def drop() -> Part:
    """Drop it."""
    return "drop", verdict(0)


def masquerade() -> Part:
    """Give it the source address of the interface it leaves through."""
    return "masquerade", masq()


def _meta(key: int) -> Any:
    return genex("meta", {"key": key, "dreg": 1})


def _payload(base: int, offset: int, length: int) -> Any:
    return genex("payload", {"dreg": 1, "base": base, "offset": offset, "len": length})


def _compare(data: bytes, operation: int = _EQUAL) -> Any:
    return genex("cmp", {"sreg": 1, "op": operation, "data": _data(data)})


def _masked(mask: bytes) -> Any:
    values = {"mask": _data(mask), "xor": _data(bytes(len(mask)))}
    return genex("bitwise", {"sreg": 1, "dreg": 1, "len": len(mask), **values})


def _subnet(offset: int, subnet: str, operation: int = _EQUAL) -> list[Any]:
    address, _, prefix = subnet.partition("/")
    mask = struct.pack("!I", 0xFFFFFFFF << (32 - int(prefix or 32)) & 0xFFFFFFFF)
    field = _payload(_NETWORK_HEADER, offset, 4)
    return [field, _masked(mask), _compare(socket.inet_aton(address), operation)]


def _conntrack(key: int, bits: int) -> list[Any]:
    load = genex("ct", {"dreg": 1, "key": key})
    return [load, _masked(struct.pack("=I", bits)), _compare(bytes(4), _NOT_EQUAL)]


def _data(value: bytes) -> Any:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _padded(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _text(rule: Iterable[Part]) -> str:
    # nft prints comments unescaped; with quotes in them, what it lists could not be loaded again.
    return " ".join(text for text, _ in rule).replace('"', "")


def _batch(kind: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def _message(message: Any, kind: int, table: Table, attributes: list[tuple[str, Any]]) -> Any:
    message["attrs"] = attributes
    message["nfgen_family"] = table.family
    message["header"]["type"] = kind | NFNL_SUBSYS_NFTABLES << 8
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    return message


def _table(table: Table, kind: int) -> Any:
    return _message(nft_table_msg(), kind, table, [("NFTA_TABLE_NAME", table.name)])


def _base_chain(table: Table, chain: Chain) -> Any:
    hook = {"attrs": [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", chain.priority)]}
    attributes = [
        ("NFTA_CHAIN_TABLE", table.name),
        ("NFTA_CHAIN_NAME", chain.name),
        ("NFTA_CHAIN_HOOK", hook),
        ("NFTA_CHAIN_TYPE", chain.kind),
    ]
    return _message(nft_chain_msg(), NFT_MSG_NEWCHAIN, table, attributes)


def _rule(table: Table, chain: Chain, rule: Sequence[Part]) -> Any:
    attributes = [
        ("NFTA_RULE_TABLE", table.name),
        ("NFTA_RULE_CHAIN", chain.name),
        ("NFTA_RULE_EXPRESSIONS", [expression for _, part in rule for expression in part]),
        ("NFTA_RULE_USERDATA", {"value": _text(rule)}),
    ]
    return _message(nft_rule_msg(), NFT_MSG_NEWRULE, table, attributes)
