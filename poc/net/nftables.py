"""One nftables table through pyroute2: rules as data, compared and replaced in one transaction.

Knows the handful of expressions that poc's rules are made of; nobody's table but the one named is ever written.
Imports pyroute2 at once: import this module inside functions only.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    NFTSocket,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex, masq, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    # What `nft` prints for it, and the kernel's expressions for it.
    Part = tuple[str, list[Any]]

UNSPECIFIED, INET, IPV4 = 0, 1, 2  # NFPROTO_*
HOOK_FORWARD, HOOK_POSTROUTING = 2, 4  # NF_INET_*
POLICY_DROP = 0
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

    def texts(self) -> list[str]:
        """Each rule as `nft` prints it, but for the quotes."""
        return [_text(rule) for rule in self.rules]


def interface_in(name: str) -> Part:
    """Packets that came in through this interface."""
    return f'iifname "{name}"', [_meta(Meta.NFT_META_IIFNAME), _compare(_padded(name))]


def interface_out(name: str, equal: bool = True) -> Part:
    """Packets that leave through this interface; through any but this one unless ``equal``."""
    text = f'oifname "{name}"' if equal else f'oifname != "{name}"'
    return text, [_meta(Meta.NFT_META_OIFNAME), _compare(_padded(name), Cmp.NFT_CMP_EQ if equal else Cmp.NFT_CMP_NEQ)]


def source(subnet: str) -> Part:
    """Packets from this subnet."""
    return f"ip saddr {subnet}", _in_subnet(12, subnet)


def destination(subnet: str) -> Part:
    """Packets to this subnet."""
    return f"ip daddr {subnet}", _in_subnet(16, subnet)


def replies() -> Part:
    """Packets of a connection that was let through before, and errors about one."""
    return "ct state established,related", _conntrack(0, 2 | 4)  # NFT_CT_STATE


def published() -> Part:
    """Packets of a connection whose destination was translated: a published port."""
    return "ct status dnat", _conntrack(2, 1 << 5)  # NFT_CT_STATUS, IPS_DST_NAT


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
    return genex("meta", {"key": int(key), "dreg": 1})


def _compare(data: bytes, operation: int = Cmp.NFT_CMP_EQ) -> Any:
    return genex("cmp", {"sreg": 1, "op": int(operation), "data": _data(data)})


def _masked(mask: bytes) -> Any:
    values = {"mask": _data(mask), "xor": _data(bytes(len(mask)))}
    return genex("bitwise", {"sreg": 1, "dreg": 1, "len": len(mask), **values})


def _in_subnet(offset: int, subnet: str) -> list[Any]:
    address, _, prefix = subnet.partition("/")
    mask = struct.pack("!I", 0xFFFFFFFF << (32 - int(prefix)) & 0xFFFFFFFF)
    network_header = genex("payload", {"dreg": 1, "base": 1, "offset": offset, "len": 4})
    return [network_header, _masked(mask), _compare(socket.inet_aton(address))]


def _conntrack(key: int, bits: int) -> list[Any]:
    load = genex("ct", {"dreg": 1, "key": key})
    return [load, _masked(struct.pack("=I", bits)), _compare(bytes(4), Cmp.NFT_CMP_NEQ)]


def _data(value: bytes) -> Any:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _padded(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


class Nftables(NFTSocket):  # type: ignore[misc]
    """A netlink socket to nftables of the calling network namespace. Errors are OSError."""

    def chains(self) -> list[Any]:
        """Every chain of every family, as pyroute2's messages."""
        return self._dump(nft_chain_msg(), NFT_MSG_GETCHAIN, UNSPECIFIED)

    def rules(self, family: int, table: str, chain: str | None = None) -> list[Any]:
        """The rules of one table or chain in order, as pyroute2's messages; none when it is not there."""
        request = nft_rule_msg()
        request["attrs"] = [("NFTA_RULE_TABLE", table)]
        if chain is not None:
            request["attrs"].append(("NFTA_RULE_CHAIN", chain))
        return self._dump(request, NFT_MSG_GETRULE, family)

    def replace(self, table: str, chains: Sequence[Chain]) -> None:
        """Make the IPv4 table ``table`` consist of ``chains``, in one transaction: no packet meets half a table."""
        # Deleting what is not there fails; adding what is there does not. Hence add, delete, add.
        messages = [_table(NFT_MSG_NEWTABLE, table), _table(NFT_MSG_DELTABLE, table), _table(NFT_MSG_NEWTABLE, table)]
        for chain in chains:
            messages.append(_base_chain(table, chain))
            messages += [_rule(table, chain.name, rule) for rule in chain.rules]
        self._transaction(messages, f"write nftables table {table}")

    def delete(self, table: str) -> None:
        """Delete an IPv4 table; content when there is none."""
        messages = [_table(NFT_MSG_NEWTABLE, table), _table(NFT_MSG_DELTABLE, table)]
        self._transaction(messages, f"delete nftables table {table}")

    def holds(self, table: str, chains: Sequence[Chain]) -> bool:
        """Whether the IPv4 table ``table`` consists of just these chains and rules.

        Each rule carries its own text as its comment, which is what is compared.
        """
        wanted = {chain.name: chain.texts() for chain in chains}
        found: dict[str, list[str]] = {
            message.get_attr("NFTA_CHAIN_NAME"): []
            for message in self.chains()
            if message["nfgen_family"] == IPV4 and message.get_attr("NFTA_CHAIN_TABLE") == table
        }
        for message in self.rules(IPV4, table):
            found[message.get_attr("NFTA_RULE_CHAIN")].append(message.get_attr("NFTA_RULE_USERDATA"))
        return found == wanted

    def _dump(self, request: Any, kind: int, family: int) -> list[Any]:
        request["nfgen_family"] = family
        request["header"]["type"] = kind | NFNL_SUBSYS_NFTABLES << 8
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
        for _ in range(20):
            try:
                messages = list(self.nlm_request_batch([request]))
            except NetlinkError as error:
                raise OSError(error.code, f"read nftables: {error.args[1]}") from None
            if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                return messages
        raise OSError(11, "read nftables: they keep changing")

    def _transaction(self, messages: list[Any], what: str) -> None:
        for message in messages:
            message["nfgen_family"] = IPV4
        try:
            self.nlm_request_batch([_batch(_BATCH_BEGIN), *messages, _batch(_BATCH_END)])
        except NetlinkError as error:
            raise OSError(error.code, f"{what}: {error.args[1]}") from None


def _batch(kind: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def _message(message: Any, kind: int, attributes: list[tuple[str, Any]]) -> Any:
    message["attrs"] = attributes
    message["header"]["type"] = kind | NFNL_SUBSYS_NFTABLES << 8
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    return message


def _table(kind: int, table: str) -> Any:
    return _message(nft_table_msg(), kind, [("NFTA_TABLE_NAME", table)])


def _base_chain(table: str, chain: Chain) -> Any:
    hook = {"attrs": [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", chain.priority)]}
    attributes = [
        ("NFTA_CHAIN_TABLE", table),
        ("NFTA_CHAIN_NAME", chain.name),
        ("NFTA_CHAIN_HOOK", hook),
        ("NFTA_CHAIN_TYPE", chain.kind),
    ]
    return _message(nft_chain_msg(), NFT_MSG_NEWCHAIN, attributes)


def _rule(table: str, chain: str, rule: Sequence[Part]) -> Any:
    attributes = [
        ("NFTA_RULE_TABLE", table),
        ("NFTA_RULE_CHAIN", chain),
        ("NFTA_RULE_EXPRESSIONS", [expression for _, part in rule for expression in part]),
        ("NFTA_RULE_USERDATA", {"value": _text(rule)}),
    ]
    return _message(nft_rule_msg(), NFT_MSG_NEWRULE, attributes)


def _text(rule: Sequence[Part]) -> str:
    # nft prints comments unescaped; with quotes in them, what it lists could not be loaded again.
    return " ".join(text for text, _ in rule).replace('"', "")
