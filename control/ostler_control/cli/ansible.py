"""VMs as Ansible's dynamic inventory: the JSON that an inventory script prints.

Format: "Developing dynamic inventory", Ansible's developer guide.
"""

from __future__ import annotations

import re
import socket
from collections import Counter, defaultdict
from collections.abc import Sequence

from ostler.control.v1 import vm_pb2 as pb

# Names that Ansible gives a meaning of its own.
_TAKEN = frozenset({"all", "localhost", "ungrouped"})
_NOT_IN_GROUPS = re.compile(r"[^A-Za-z0-9_]")

Variables = dict[str, object]


def inventory(vms: Sequence[pb.Vm]) -> dict[str, object]:
    """What `--list` answers: variables by host, and hosts by group."""
    hosts = by_name(vms)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, vm in hosts.items():
        for group in groups_of(vm):
            groups[group].append(name)
    return {
        "_meta": {"hostvars": {name: variables(vm) for name, vm in hosts.items()}},
        **{group: {"hosts": groups[group]} for group in sorted(groups)},
    }


def by_name(vms: Sequence[pb.Vm]) -> dict[str, pb.Vm]:
    """VMs by the name that Ansible knows them by: their own, or the id where another VM has that name, or where the
    name means another machine. (Members choose the names of their VMs.)"""
    count = Counter(vm.name for vm in vms) + Counter(vm.id for vm in vms)
    return {vm.name if count[vm.name] == 1 and not _is_another_machine(vm.name) else vm.id: vm for vm in vms}


def _is_another_machine(name: str) -> bool:
    """Whether Ansible, or the resolver below it, takes a name for something else: localhost, 127.1."""
    if name.lower() in _TAKEN:
        return True
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True


def groups_of(vm: pb.Vm) -> list[str]:
    """`zone_berlin`, `state_running`, `label_env_prod`. Ansible wants letters, digits and underscores only."""
    pairs = [
        ("account", vm.account_name),
        ("zone", vm.zone_name),
        ("cluster", vm.cluster_name),
        ("host", vm.host_name),
        ("state", pb.Vm.State.Name(vm.state).lower()),
        *(("label", f"{key}_{value}" if value else key) for key, value in sorted(vm.labels.items())),
    ]
    return list(dict.fromkeys(_NOT_IN_GROUPS.sub("_", f"{kind}_{name}") for kind, name in pairs if name))


def variables(vm: pb.Vm) -> Variables:
    """A host's variables. Free text, such as a VM's description, is left out: Ansible might run it as a template."""
    addresses = [address.partition("/")[0] for nic in vm.nics for address in nic.addresses]
    reach: Variables = {"ansible_host": addresses[0]} if addresses else {}
    return {
        **reach,
        "ostler_id": vm.id,
        "ostler_name": vm.name,
        "ostler_account": vm.account_name,
        "ostler_state": pb.Vm.State.Name(vm.state).lower(),
        "ostler_zone": vm.zone_name,
        "ostler_cluster": vm.cluster_name,
        "ostler_host": vm.host_name,
        "ostler_offering": vm.service_offering_name,
        "ostler_template": vm.template_name,
        "ostler_cpus": vm.cpus,
        "ostler_memory_bytes": vm.memory_bytes,
        "ostler_labels": dict(sorted(vm.labels.items())),
        "ostler_addresses": addresses,
        "ostler_networks": [nic.network for nic in vm.nics],
        "ostler_macs": [nic.mac for nic in vm.nics],
    }
