"""The list of VMs, a VM's own page, and the hosts that could take it."""

from __future__ import annotations

from ostler.control.v1 import vm_pb2 as pb
from ostler.control.v1.event_pb2 import ListEventsRequest
from ostler.control.v1.extra_config_pb2 import ListExtraConfigsRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.commands import event
from ostler_control.cli.commands._vm_extraconfig import VIEW as EXTRA_CONFIG
from ostler_control.cli.commands._vm_guest import VIEW as GUEST
from ostler_control.cli.commands._vm_view import CANDIDATES, STATES, VIEW
from ostler_control.web import tables
from ostler_control.web.actions import Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Button
from ostler_control.web.lists import render_list
from ostler_control.web.objects import render_object
from ostler_control.web.pages import vm_snapshots
from ostler_control.web.pages.vm_actions import ACTIONS, target_of
from ostler_control.web.pages.vm_creation import CREATION

LAST_EVENTS = 10


def vms(console: Console, request: Request) -> Response:
    """The page of VMs."""
    filters = tables.Filters(request, ("host", "Host"), ("account", "Account"), ("selector", "Labels"), state=STATES)
    state = pb.Vm.State.Value((filters["state"] or "state_unspecified").upper())
    wanted = pb.ListVmsRequest(
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
        account=filters["account"],
        host=filters["host"],
        state=state,
        selector=filters["selector"],
    )
    answer = console.app.client.vms.ListVms(wanted)
    following = filters.next(answer.next_page_token)
    table = tables.table(VIEW, answer.vms, "VMs", lambda v: tables.path("vms", v.id), next=following)
    buttons = CREATION.buttons(console)
    return render_list(console, request, ("vm", "list"), filters, table, buttons=buttons)


def one_vm(console: Console, request: Request) -> Response:
    """The page of a VM."""
    client = console.app.client
    found = client.vms.GetVm(pb.GetVmRequest(vm=request.path_params["vm"]))
    target = target_of(found)
    configs = client.extra_configs.ListExtraConfigs(ListExtraConfigsRequest(vm=found.id)).extra_configs
    extra = [tables.table(EXTRA_CONFIG, configs, "Extra configuration")] if configs else []
    last = ListEventsRequest(resource_id=found.id, page_size=LAST_EVENTS)
    watched = [Button(what, f"{target.href}/{what.lower()}") for what in ("Console", "Screen", "Picture")]
    links = [("Which hosts could take it", f"{target.href}/hosts")] if console.is_admin else []
    if target.state == "running":
        links.append(("What its guest says", f"{target.href}/guest"))
    return render_object(
        console,
        request,
        target,
        ("vm", "show", found.name),
        VIEW,
        found,
        notice=found.attention,
        buttons=[*(watched if target.state == "running" else []), *ACTIONS.buttons(console, target)],
        links=[
            *links,
            ("Its backups", tables.address("/backups", {"vm": found.id})),
            ("Its operations", tables.address("/operations", {"resource": found.id})),
        ],
        more=[
            *vm_snapshots.table_of(console.app, found.id),
            *extra,
            tables.table(event.VIEW, client.events.ListEvents(last).events, "Last events"),
        ],
    )


def guest_of(console: Console, request: Request) -> Response:
    """What the guest agent of a VM tells."""
    found = console.app.client.vms.GetVm(pb.GetVmRequest(vm=request.path_params["vm"]))
    said = console.app.client.vms.ReadGuestInfo(pb.ReadGuestInfoRequest(vm=found.id))
    target = Target(found.id, found.name, "guest of VM", "", "/vms", tables.path("vms", found.id))
    links = [(f"VM {found.name}", target.href)]
    return render_object(console, request, target, ("vm", "guest", "info", found.name), GUEST, said, links=links)


def console_of(console: Console, request: Request) -> Response:
    """A VM's serial console, see `terminal`."""
    return _watched(console, request, "console", "Console", "terminal")


def screen_of(console: Console, request: Request) -> Response:
    """A VM's screen, with its keyboard and mouse, see `terminal`."""
    return _watched(console, request, "vnc", "Screen", "viewer")


def picture_of(console: Console, request: Request) -> Response:
    """What a VM's screen shows at the moment."""
    return _watched(console, request, "screenshot", "Picture", "screen.png")


def _watched(console: Console, request: Request, verb: str, what: str, part: str) -> Response:
    """The page of a VM's console, screen or picture. verb: of the command; part: last part of the address
    that the page gets it from."""
    found = console.app.client.vms.GetVm(pb.GetVmRequest(vm=request.path_params["vm"]))
    return console.render(
        request,
        f"{what.lower()}.html",
        title=f"{what} of {found.name}",
        here="/vms",
        command=command("vm", verb, found.name),
        name=found.name,
        back=tables.path("vms", found.id),
        address=tables.path("vms", found.id, part),
    )


def screenshot(console: Console, request: Request) -> Response:
    """The picture itself, as it is now."""
    wanted = pb.ScreenshotRequest(vm=request.path_params["vm"])
    return Response(console.app.client.vms.Screenshot(wanted).png, media_type="image/png")


def hosts_for(console: Console, request: Request) -> Response:
    """Which hosts could take a VM, and why the others could not."""
    found = console.app.client.vms.GetVm(pb.GetVmRequest(vm=request.path_params["vm"]))
    candidates = console.app.client.vms.FindHosts(pb.FindHostsRequest(vm=found.id)).candidates
    refusals: dict[str, int] = {}
    for one in candidates:
        if not one.fits:
            refusals[one.refusal] = refusals.get(one.refusal, 0) + 1
    counts = [f"{number} x {refusal.lower().replace('_', ' ')}" for refusal, number in sorted(refusals.items())]
    filters = tables.Filters(request)
    rows, following = tables.cut(filters.page, candidates)
    fitting = sum(one.fits for one in candidates)
    return console.render(
        request,
        "table.html",
        title=f"Hosts for {found.name}",
        here="/vms",
        command=command("vm", "hosts", found.name),
        back=(found.name, tables.path("vms", found.id)),
        summary=f"{fitting} of {len(candidates)} hosts could take it now. {'; '.join(counts)}",
        table=tables.table(CANDIDATES, rows, "Hosts", lambda c: tables.path("hosts", c.host_name), next=following),
    )
