"""A VM as its source has it now, whatever the type of the source."""

from __future__ import annotations

from ostler_control.agents import Agents
from ostler_control.imports import kvm_source, sources
from ostler_control.imports.facts import find_vm
from ostler_control.keys import Keyring
from ostler_control.models import Host, ImportSource
from ostler_control.vmware.inventory import SourceVm


def read_source_vm(
    source: ImportSource, keys: Keyring, agents: Agents, text: str, host: Host | None = None
) -> tuple[SourceVm, bool]:
    """A VM by its ref, UUID or name, and whether the source is a vCenter: outside of transactions.

    host: that asks a KVM host, None for any. Raises NotFoundError SOURCE_VM_NOT_FOUND, FailedPreconditionError
    AMBIGUOUS_NAME, what a connection to the source raises.
    """
    if source.type == kvm_source.TYPE:
        return kvm_source.find_vm(source, keys, agents, text, host), False
    with sources.connect(source, keys) as connection:
        return find_vm(connection, text), connection.is_vcenter
