"""The list of VMs, and a VM's own page."""

from __future__ import annotations

from ostler.control.v1 import vm_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.commands import vm
from ostler_control.web import tables
from ostler_control.web.context import Console, command

PAGE_SIZE = 100


def vms(console: Console, request: Request) -> Response:
    """The page of VMs; ?state=, ?host= and ?account= filter, ?page= is the API's page token."""
    filters = {name: request.query_params.get(name, "") for name in ("state", "host", "account")}
    state = pb.Vm.State.Value(filters["state"].upper()) if filters["state"] in vm.STATES else 0
    wanted = pb.ListVmsRequest(
        page_size=PAGE_SIZE,
        page_token=request.query_params.get("page", ""),
        account=filters["account"],
        host=filters["host"],
        state=pb.Vm.State.ValueType(state),
    )
    answer = console.app.client.vms.ListVms(wanted)
    following = tables.next_page("/vms", filters, answer.next_page_token)
    return console.render(
        request,
        "vms.html",
        title="VMs",
        here="/vms",
        command=command("vm", "list", *tables.options(filters)),
        filters=filters,
        states=vm.STATES,
        table=tables.table(vm.VIEW, answer.vms, "VMs", lambda v: tables.path("vms", v.id), next=following),
    )


def one_vm(console: Console, request: Request) -> Response:
    """The page of a VM."""
    found = console.app.client.vms.GetVm(pb.GetVmRequest(vm=request.path_params["vm"]))
    return console.render(
        request,
        "object.html",
        title=found.name,
        kind="VM",
        here="/vms",
        command=command("vm", "show", found.name),
        state=text.enum_of(found, "state"),
        tone=tables.tone(text.enum_of(found, "state")),
        notice=found.attention,
        meters=[],
        facts=tables.facts(vm.VIEW, found),
        tables=tables.sections(vm.VIEW, found),
    )
