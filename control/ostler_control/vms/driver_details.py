"""Details of VMs for their hypervisor's driver: merged from template, service offering and VM, in this order.

In the details of a VM their keys begin with "driver."; the driver of the VM's host states which there are.
"""

from __future__ import annotations

import functools

from google.protobuf import json_format
from ostler.types.v1 import host_pb2
from ostler_common.driver_details import DetailField, DetailKind, check_schema, check_values
from ostler_common.errors import FailedPreconditionError

from ostler_control.catalog.driver_details import PREFIX, of_offerings, of_templates
from ostler_control.hypervisors import rules
from ostler_control.models import Host, OfferingDetail, TemplateDetail, Vm, VmDetail, owners, tuples


def merged(vm: Vm) -> dict[str, str]:
    """All details that the driver receives for a VM, by its own keys."""
    given, own = _parts(vm)
    return given | own


def check(vm: Vm, host_id: str) -> None:
    """Refuses a VM whose details the driver of the host does not accept.

    Raises FailedPreconditionError DETAIL_UNKNOWN, DETAIL_INVALID, DETAIL_MISSING, DETAIL_NOT_ALLOWED.
    """
    host = Host.select(Host.capabilities, Host.hypervisor_type).where(Host.id == host_id).first()
    if host is not None:
        check_on(vm, host)


def check_on(vm: Vm, host: Host, *, has_none: bool = False) -> None:
    """The same, of a host whose capabilities and type were read. has_none: the caller knows that neither the VM nor its
    template or offering has any details."""
    if not host.capabilities:
        return
    schema = schema_of(host.capabilities)
    per_vm = {field.key: field.per_vm for field in schema}
    given, own = ({}, {}) if has_none else _parts(vm)
    for key in own:
        if not per_vm.get(key, True):
            raise FailedPreconditionError(
                f"VMs must not set the detail {PREFIX}{key}: an admin sets it in a template or service offering",
                "DETAIL_NOT_ALLOWED",
                {"detail": PREFIX + key},
            )
    details = given | own
    if details or schema:
        check_values(details, schema, f"hypervisors of type {rules.name_of(host.hypervisor_type)}")


@functools.lru_cache(maxsize=1024)  # hosts' reports are kilobytes, and many are alike
def schema_of(capabilities: str) -> tuple[DetailField, ...]:
    """The details that a host's driver accepts, from its report; none if the report is not valid."""
    message = json_format.Parse(capabilities, host_pb2.Capabilities(), ignore_unknown_fields=True)
    schema = tuple(map(_field, message.driver_details))
    try:
        check_schema(schema)
    except ValueError:
        return ()
    return schema


def _field(message: host_pb2.DriverDetail) -> DetailField:
    kinds = {host_pb2.DriverDetail.NUMBER: DetailKind.NUMBER, host_pb2.DriverDetail.BOOLEAN: DetailKind.BOOLEAN}
    return DetailField(
        key=message.key,
        summary=message.summary,
        kind=kinds.get(message.kind, DetailKind.TEXT),
        required=message.required,
        per_vm=message.per_vm,
        values=tuple(message.values),
        max_length=message.max_length,
        minimum=message.minimum,
        maximum=message.maximum,
    )


def _parts(vm: Vm) -> tuple[dict[str, str], dict[str, str]]:
    """Those of its template and offering, and its own: most have none, which one statement tells."""
    having = owners(
        (VmDetail.vm, [vm.id]),
        (TemplateDetail.template, [vm.template_id] if vm.template_id else []),
        (OfferingDetail.service_offering, [vm.service_offering_id]),
    )
    is_given = having[TemplateDetail] or having[OfferingDetail]
    return _given(vm) if is_given else {}, _own(vm) if having[VmDetail] else {}


def _given(vm: Vm) -> dict[str, str]:
    """Those of its template and offering."""
    of_template = of_templates([vm.template_id]).get(vm.template_id, {}) if vm.template_id else {}
    of_offering = of_offerings([vm.service_offering_id]).get(vm.service_offering_id, {})
    return {key.removeprefix(PREFIX): value for key, value in (of_template | of_offering).items()}


def _own(vm: Vm) -> dict[str, str]:
    query = VmDetail.select(VmDetail.key, VmDetail.value).where(
        (VmDetail.vm == vm.id) & VmDetail.key.startswith(PREFIX)
    )
    return {key.removeprefix(PREFIX): value for key, value in tuples(query, tuple[str, str])}
