"""IP addresses that a running VM is seen to use, asked of its host."""

from __future__ import annotations

from ipaddress import ip_address

import structlog
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function
from ostler_common.seen_addresses import MAX_SEEN_ADDRESSES, is_usable

from ostler_control.agents import Agents
from ostler_control.hosts.rows import address, is_up
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Vm, VmState
from ostler_control.vms.rows import nics_of

log = structlog.get_logger(__name__)

DEADLINE_S = 8.0


def read_addresses(agents: Agents, vm: Vm) -> list[vm_pb2.SeenAddress]:
    """The addresses on the VM's own interfaces, as the guest claims; none when it does not run or its host cannot tell.

    They are checked here, too: a host may have been taken over.
    """
    host = Host.get_or_none(Host.id == vm.host_id) if vm.state is VmState.RUNNING else None
    if host is None or not is_up(host) or not rules.supports(Function.GUEST_ADDRESSES, host):
        return []
    request = agent_pb2.ReadVmAddressesRequest(vm_id=vm.id)
    try:
        answer = agents.call(address(host), lambda agent: agent.vms.ReadVmAddresses, request, DEADLINE_S)
    except OstlerError as error:
        log.info("a VM's addresses are not known", vm=vm.id, host=host.name, reason=error.reason)
        return []
    macs = {nic.mac for nic in nics_of(vm.id)}
    return [
        vm_pb2.SeenAddress(mac=seen.mac, address=str(ip_address(seen.address)), source=seen.source)
        for seen in answer.addresses[:MAX_SEEN_ADDRESSES]
        if seen.mac in macs and is_usable(seen.mac, seen.address)
    ]
