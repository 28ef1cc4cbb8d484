"""The extra configuration that a service offering may carry: what a VM needs to use DPDK, and nothing else.

dpdk-numa              <cpu><numa>...          memory that the switch can map
dpdk-hugepages         <memoryBacking>...      in huge pages
dpdk-interface-NAME    <driver>, <model>, ...  goes into each network interface
dpdk-vhost-user        client | server         network interfaces are vhost-user sockets; the role of QEMU in them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.xml_fragment import Node, parse

from ostler_control.extraconfig.check import Policy, check
from ostler_control.extraconfig.host_access import Path
from ostler_control.extraconfig.names import MAX_PER_VM, check_config_name
from ostler_control.extraconfig.rules import parse_rules
from ostler_control.extraconfig.size import check_size

NUMA = "dpdk-numa"
HUGEPAGES = "dpdk-hugepages"
INTERFACE_PREFIX = "dpdk-interface-"
VHOST_USER = "dpdk-vhost-user"


class VhostUser(StrEnum):
    """The role of QEMU in its vhost-user sockets."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True)
class _Kind:
    """What one kind of DPDK configuration may have. below: where in the domain it goes."""

    rules: str
    below: Path = ()

    def policy(self) -> Policy:
        return Policy(parse_rules(self.rules), list_name="the list for DPDK")


_KINDS = {
    NUMA: _Kind("cpu@mode=host-passthrough|host-model,cpu/numa"),
    HUGEPAGES: _Kind("memoryBacking/hugepages,memoryBacking/nosharepages,memoryBacking/access@mode=shared|private"),
}
_INTERFACE = _Kind(
    "devices/interface/driver@name=vhost|qemu,devices/interface/driver@queues,devices/interface/driver@rx_queue_size,"
    "devices/interface/driver@tx_queue_size,devices/interface/model@type=virtio,devices/interface/mtu@size",
    ("devices", "interface"),
)


@dataclass(frozen=True)
class Dpdk:
    """The DPDK configuration of a service offering. domain, interface: XML by name, for the domain and for each of its
    network interfaces."""

    domain: Mapping[str, str]
    interface: Mapping[str, str]
    vhost_user: VhostUser | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not (self.domain or self.interface or self.vhost_user)


def check_dpdk(configs: Mapping[str, str], memory_bytes: int) -> Dpdk:
    """The configuration (text by name) of an offering with this much memory, checked.

    Raises InvalidArgumentError: what `xml_fragment.parse` does, INVALID_EXTRA_CONFIG_NAME, INVALID_VHOST_USER; and
    FailedPreconditionError: ONLY_DPDK_ALLOWED, VHOST_USER_NEEDS_SHARED_MEMORY, what `check` and `check_size` do.
    """
    if len(configs) > MAX_PER_VM:
        raise bad_field("extra_configs", f"at most {MAX_PER_VM} are allowed", "TOO_MANY_EXTRA_CONFIGS")
    domain: dict[str, str] = {}
    interface: dict[str, str] = {}
    vhost_user, shared = None, False
    for name, text in configs.items():
        check_config_name("extra_configs", name)
        if name == VHOST_USER:
            vhost_user = _role(text)
        elif name.startswith(INTERFACE_PREFIX):
            check(parse(text), _INTERFACE.policy(), _INTERFACE.below)
            interface[name] = text
        elif name in _KINDS:
            nodes = parse(text)
            check(nodes, _KINDS[name].policy())
            check_size(nodes, memory_bytes)
            shared = shared or any(_shares_memory(node) for top in nodes for _, node in top.walk())
            domain[name] = text
        else:
            raise _only_dpdk(name)
    if vhost_user is not None and not shared:
        raise FailedPreconditionError(
            f"{VHOST_USER} needs memory that the switch can map: give {NUMA} cells memAccess='shared', or {HUGEPAGES} "
            "<access mode='shared'/>",
            "VHOST_USER_NEEDS_SHARED_MEMORY",
        )
    return Dpdk(domain, interface, vhost_user)


def _shares_memory(node: Node) -> bool:
    return node.attributes.get("memAccess") == "shared" or (
        node.name == "access" and node.attributes.get("mode") == "shared"
    )


def _role(text: str) -> VhostUser:
    try:
        return VhostUser(text.strip())
    except ValueError:
        raise bad_field(VHOST_USER, "must be client or server", "INVALID_VHOST_USER") from None


def _only_dpdk(name: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f'a service offering may carry extra configuration for DPDK only, not "{name}" '
        f"(use {NUMA}, {HUGEPAGES}, {INTERFACE_PREFIX}NAME or {VHOST_USER})",
        "ONLY_DPDK_ALLOWED",
        {"name": name},
    )
