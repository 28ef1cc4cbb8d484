"""Extra configuration of VMs: set, removed, and checked at every start with what the account may have by then."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.types.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError
from ostler_common.hypervisors import Function, not_supported
from ostler_common.xml_fragment import parse

from ostler_control import events, settings
from ostler_control.catalog.offerings import extra_configs_of
from ostler_control.database import session, transaction
from ostler_control.extraconfig.check import ENABLED, Policy, check
from ostler_control.extraconfig.dpdk import Dpdk, VhostUser, check_dpdk
from ostler_control.extraconfig.names import MAX_PER_VM, check_config_name
from ostler_control.extraconfig.size import check_size
from ostler_control.hypervisors import rules
from ostler_control.models import Vm, VmExtraConfig

_EVERYTHING = Policy((), host_access=True, every_element=True)
_VHOST_USER = {
    None: vm_pb2.ExtraConfig.VHOST_USER_UNSPECIFIED,
    VhostUser.CLIENT: vm_pb2.ExtraConfig.VHOST_USER_CLIENT,
    VhostUser.SERVER: vm_pb2.ExtraConfig.VHOST_USER_SERVER,
}


@dataclass(frozen=True)
class Checked:
    """A VM's extra configuration and what refuses it now, None when nothing does."""

    row: VmExtraConfig
    refusal: OstlerError | None


def put(vm: Vm, name: str, xml: str, actor: str, *, override: bool = False) -> Checked:
    """Sets one extra configuration of a VM; it is in force at the VM's next start.

    override: an admin lets it pass whatever the account may have. Raises InvalidArgumentError as `xml_fragment.parse`
    does, or INVALID_EXTRA_CONFIG_NAME; FailedPreconditionError EXTRA_CONFIG_DISABLED, FUNCTION_NOT_SUPPORTED,
    TOO_MANY_EXTRA_CONFIGS, and as `check` and `check_size` do.
    """
    check_config_name("name", name)
    with transaction():
        _check_supported(vm)
        override_by = actor if override else ""
        _check(vm, xml, override_by)
        key = (VmExtraConfig.vm == vm) & (VmExtraConfig.name == name)
        if not VmExtraConfig.update(xml=xml, override_by=override_by).where(key).execute():
            if VmExtraConfig.select().where(VmExtraConfig.vm == vm).count() >= MAX_PER_VM:
                raise FailedPreconditionError(
                    f"VM {vm.name} has {MAX_PER_VM} extra configurations, the most there may be; remove one first",
                    "TOO_MANY_EXTRA_CONFIGS",
                )
            VmExtraConfig.create(vm=vm, name=name, xml=xml, override_by=override_by)
        _record("vm.extraconfig.set", actor, vm, f"{name}{', overriding the rules' if override else ''}")
        return Checked(VmExtraConfig.get(key), None)


def remove(vm: Vm, name: str, actor: str) -> None:
    """Removes one. Raises NotFoundError EXTRA_CONFIG_NOT_FOUND."""
    with transaction():
        key = (VmExtraConfig.vm == vm) & (VmExtraConfig.name == name)
        if not VmExtraConfig.delete().where(key).execute():
            raise NotFoundError(
                f'VM {vm.name} has no extra configuration "{name[:80]}"', "EXTRA_CONFIG_NOT_FOUND", {"name": name[:80]}
            )
        _record("vm.extraconfig.remove", actor, vm, name)


def list_checked(vm: Vm) -> list[Checked]:
    """All of a VM's, each with what refuses it now."""
    return [Checked(row, _refusal(vm, row)) for row in _rows(vm.id)]


def check_start(vm: Vm) -> None:
    """Refuses to start a VM whose extra configuration, or whose offering's, would not be accepted today.

    Raises the refusal of the first that does not pass, which says how to go on.
    """
    for checked in list_checked(vm):
        if checked.refusal is not None:
            raise _not_startable(vm, checked.row.name, checked.refusal)
    of_offering(vm.service_offering_id, vm.memory_bytes)


def of_offering(offering_id: str, memory_bytes: int) -> Dpdk:
    """The extra configuration of a service offering, checked. Raises as `check_dpdk` does."""
    return check_dpdk(extra_configs_of([offering_id]).get(offering_id, {}), memory_bytes)


def to_wire(vm: Vm) -> vm_pb2.ExtraConfig:
    """All that a host adds to the VM's definition: the offering's, then the VM's own by name."""
    with session():
        dpdk, own = of_offering(vm.service_offering_id, vm.memory_bytes), _rows(vm.id)
    return vm_pb2.ExtraConfig(
        domain_xml=[*dpdk.domain.values(), *(row.xml for row in own)],
        interface_xml=list(dpdk.interface.values()),
        vhost_user=_VHOST_USER[dpdk.vhost_user],
    )


def _rows(vm_id: str) -> list[VmExtraConfig]:
    return list(VmExtraConfig.select().where(VmExtraConfig.vm == vm_id).order_by(VmExtraConfig.name))


def _refusal(vm: Vm, row: VmExtraConfig) -> OstlerError | None:
    try:
        _check(vm, row.xml, row.override_by)
    except OstlerError as error:
        return error
    return None


def _check(vm: Vm, xml: str, override_by: str) -> None:
    nodes = parse(xml)
    check(nodes, _EVERYTHING if override_by else _policy(vm.account_id))
    check_size(nodes, vm.memory_bytes)


def _policy(account_id: str) -> Policy:
    at = settings.At(account_id=account_id)
    if not settings.vms.EXTRA_CONFIG_ENABLED.get(at):
        raise FailedPreconditionError(
            f"extra configuration is not enabled for this account (an admin sets {ENABLED})", "EXTRA_CONFIG_DISABLED"
        )
    return Policy(settings.vms.EXTRA_CONFIG_ALLOWED.get(at), settings.vms.EXTRA_CONFIG_HOST_ACCESS.get(at))


def _check_supported(vm: Vm) -> None:
    of_type = rules.known().get(vm.hypervisor_type)
    if of_type is not None and of_type.reported and Function.EXTRA_CONFIG not in of_type.functions:
        raise not_supported(Function.EXTRA_CONFIG, of_type.display_name)


def _not_startable(vm: Vm, name: str, refusal: OstlerError) -> FailedPreconditionError:
    return FailedPreconditionError(
        f'VM {vm.name} cannot start with its extra configuration "{name}": {refusal.message}; remove it with '
        f"`ostler vm extraconfig remove {vm.name} {name}`, or ask an admin to set it with --override",
        refusal.reason,
        {**refusal.metadata, "vm": vm.id, "name": name},
    )


def _record(type: str, actor: str, vm: Vm, message: str) -> None:
    outcome = events.Outcome.SUCCEEDED
    events.record(type, outcome, actor, "vm", vm.id, vm.name, message, account_id=vm.account_id)
