"""The VMs of an import source, whether one of them can be imported, and its import.

These pages ask the source itself, so they are not followed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ostler.client.operations import bare_id
from ostler.client.paging import pages
from ostler.control.v1 import import_pb2 as pb
from ostler_common.errors import NotFoundError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli.commands._import_view import POWERS, SOURCE_VM, verdict
from ostler_control.web import tables
from ostler_control.web.context import Console, command, form_of
from ostler_control.web.pages.imports import FINDINGS

_NETWORK = "network:"


@dataclass(frozen=True)
class Field:
    """A field of the form of an import. name: also of the option on the command line."""

    name: str
    label: str
    value: str
    is_flag: bool = False
    is_required: bool = False


TEXTS = (
    ("offering", "Service offering"),
    ("disk-offering", "Disk offering of further disks"),
    ("name", "Name of the new VM (empty: the source's)"),
    ("host", "Host (empty: chosen)"),
    ("conversion-host", "Host that converts (empty: the least loaded capable one)"),
)
FLAGS = (
    ("shutdown", "Shut the guest down first, rather than clone it"),
    ("force-control-download", "The control plane downloads the disks"),
    ("warm", "Copy the disks while the VM runs"),
    ("stopped", "Leave the new VM off"),
)


def inventory(console: Console, request: Request) -> Response:
    """The VMs of a source."""
    source = request.path_params["source"]
    filters = tables.Filters(request, ("name", "Name has"), ("place", "ESXi host or cluster"), power=POWERS)
    wanted = pb.ListSourceVmsRequest(
        source=source,
        name_contains=filters["name"],
        place=filters["place"],
        power=pb.SourceVm.Power.Value((filters["power"] or "power_unspecified").upper()),
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
    )
    answer = console.app.client.imports.ListSourceVms(wanted)
    return console.render(
        request,
        "inventory.html",
        title=f"VMs of {source}",
        here="/imports",
        command=command("import", "list-vms", source, *filters.words()),
        filters=filters.fields,
        action=tables.path("imports", "sources", source),
        table=tables.table(
            SOURCE_VM,
            answer.vms,
            "VMs",
            lambda v: tables.address(tables.path("imports", "sources", source, "vm"), {"ref": v.ref, "vm": v.name}),
            next=filters.next(answer.next_page_token),
        ),
    )


def one_vm(console: Console, request: Request) -> Response:
    """A VM of a source and the form of its import; with an offering, also what stands against it."""
    source, given = request.path_params["source"], dict(request.query_params)
    vm = _find(console, source, given.get("ref", ""), given.get("vm", ""))
    fields, spec = _fields(vm, given), _spec(source, vm.ref, given)
    check = console.app.client.imports.CheckImport(pb.CheckImportRequest(spec=spec)) if spec.service_offering else None
    found = sorted(check.findings, key=lambda finding: -finding.severity) if check else []
    is_go = check is not None and check.go
    return console.render(
        request,
        "source_vm.html",
        title=f"Import of {vm.name}",
        here="/imports",
        command=_command("vm" if is_go else "check", source, vm.name, fields),
        back=(source, tables.path("imports", "sources", source)),
        vm=vm,
        facts=tables.facts(SOURCE_VM, vm),
        sections=tables.sections(SOURCE_VM, vm),
        fields=fields,
        is_go=is_go,
        verdict=verdict(check) if check else [],
        findings=tables.table(FINDINGS, found, "Findings") if check else None,
        request_id=str(uuid.uuid4()),
    )


def begin(console: Console, request: Request) -> Response:
    """Begins the import that the form describes."""
    form = form_of(request)
    spec = _spec(request.path_params["source"], form.get("ref", ""), form)
    wanted = pb.ImportVmRequest(request_id=form.get("request_id", ""), spec=spec)
    operation = console.app.client.imports.ImportVm(wanted)
    return RedirectResponse(tables.path("operations", bare_id(operation.name)), 303)


def _find(console: Console, source: str, ref: str, name: str) -> pb.SourceVm:
    wanted = pb.ListSourceVmsRequest(source=source, name_contains=name)
    vm: pb.SourceVm
    for vm in pages(console.app.client.imports.ListSourceVms, wanted, lambda answer: answer.vms):
        if vm.ref == ref:
            return vm
    raise NotFoundError(f"source {source} has no VM {name} with the ref {ref}", "SOURCE_VM_NOT_FOUND")


def _fields(vm: pb.SourceVm, given: Mapping[str, str]) -> Sequence[Field]:
    """The form's fields: a text for each network that the VM is on."""
    networks = dict.fromkeys(nic.network for nic in vm.nics)
    return [
        *(Field(name, label, given.get(name, ""), is_required=name == "offering") for name, label in TEXTS),
        *(Field(f"{_NETWORK}{name}", f"Network for {name}", given.get(f"{_NETWORK}{name}", "")) for name in networks),
        *(Field(name, label, given.get(name, ""), is_flag=True) for name, label in FLAGS),
    ]


def _spec(source: str, ref: str, given: Mapping[str, str]) -> pb.ImportSpec:
    values = {name: value.strip() for name, value in given.items() if value.strip()}
    networks = {name.removeprefix(_NETWORK): value for name, value in values.items() if name.startswith(_NETWORK)}
    return pb.ImportSpec(
        source=source,
        source_vm=ref,
        name=values.get("name", ""),
        service_offering=values.get("offering", ""),
        disk_offering=values.get("disk-offering", ""),
        host=values.get("host", ""),
        conversion_host=values.get("conversion-host", ""),
        networks=networks,
        shutdown="shutdown" in values,
        force_control_download="force-control-download" in values,
        warm="warm" in values,
        stopped="stopped" in values,
    )


def _command(verb: str, source: str, vm: str, fields: Sequence[Field]) -> str:
    words = ["import", verb, source, vm]
    for field in fields:
        if field.value and field.name.startswith(_NETWORK):
            words += ["--network", f"{field.name.removeprefix(_NETWORK)}={field.value}"]
        elif field.value:
            words += [f"--{field.name}"] if field.is_flag else [f"--{field.name}", field.value]
    return command(*words)
