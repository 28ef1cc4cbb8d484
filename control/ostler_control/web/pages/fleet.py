"""Hosts with how full they are, zones, clusters and pools; and a host's own page with its probes."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.control.v1 import host_pb2 as pb
from ostler.control.v1.hypervisor_pb2 import ListHypervisorTypesRequest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli import text
from ostler_control.cli.app import pages
from ostler_control.cli.commands import host, hypervisor
from ostler_control.web import tables
from ostler_control.web.context import Console, command
from ostler_control.web.objects import render_object
from ostler_control.web.pages import places
from ostler_control.web.pages.host_actions import ACTIONS, target_of
from ostler_control.web.tables import Meter

MAX_TYPES = 200  # of hypervisors


@dataclass(frozen=True)
class HostRow:
    """A host on the fleet's page."""

    name: str
    href: str
    cluster: str
    state: str
    tone: str
    reason: str
    vms: int
    capabilities: str
    meters: list[Meter]


def fleet(console: Console, request: Request) -> Response:
    """The page of the fleet; ?cluster= and ?state= filter hosts, ?page= is the API's page token."""
    if not console.is_admin:
        return RedirectResponse("/vms", 303)
    client = console.app.client
    filters = tables.Filters(request, cluster=places.cluster_names(console.app), state=host.STATES)
    wanted = pb.ListHostsRequest(
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
        cluster=filters["cluster"],
        state=pb.Host.State.Value((filters["state"] or "state_unspecified").upper()),
    )
    answer = client.hosts.ListHosts(wanted)
    types = pages(
        client.hypervisors.ListHypervisorTypes,
        ListHypervisorTypesRequest(),
        lambda a: a.hypervisor_types,
        MAX_TYPES,
    )
    return console.render(
        request,
        "fleet.html",
        title="Fleet",
        here="/",
        command=command("host", "list", *filters.words()),
        filters=filters.fields,
        hosts=[_row(h) for h in answer.hosts],
        next=filters.next(answer.next_page_token),
        places=[
            *places.beginnings(console.app),
            tables.table(hypervisor.VIEW, types, "Hypervisor types", lambda t: tables.path("hypervisors", t.type)),
        ],
    )


def one_host(console: Console, request: Request) -> Response:
    """The page of a host."""
    found = console.app.client.hosts.GetHost(pb.GetHostRequest(host=request.path_params["host"]))
    target = target_of(found)
    return render_object(
        console,
        request,
        target,
        ("host", "show", found.name),
        host.VIEW,
        found,
        notice=found.state_reason,
        meters=_meters(found),
        buttons=ACTIONS.buttons(console, target),
        links=[
            ("Its VMs", tables.address("/vms", {"host": found.name})),
            ("Its operations", tables.address("/operations", {"resource": found.id})),
        ],
    )


def _row(found: pb.Host) -> HostRow:
    state = text.enum_of(found, "state")
    able = found.capabilities
    known = (
        ("encryption", able.volume_encryption),
        ("conversion", able.instance_conversion),
        ("UEFI", able.uefi),
        ("TPM", able.tpm),
    )
    return HostRow(
        name=found.name,
        href=tables.path("hosts", found.name),
        cluster=found.cluster_name,
        state=state if found.enabled else f"{state}, disabled",
        tone=tables.tone(state),
        reason=found.state_reason,
        vms=found.vm_count,
        capabilities=text.joined(name for name, has in known if has),
        meters=_meters(found),
    )


def _meters(found: pb.Host) -> list[Meter]:
    able, load = found.capabilities, found.load
    meters = []
    if able.cpus:  # known once the host was up
        of = f"{text.size(found.allocated_memory_bytes, '0')} of {text.size(able.memory_bytes)} allocated"
        meters += [
            Meter("CPUs", _share(found.allocated_cpus, able.cpus), f"{found.allocated_cpus} of {able.cpus} allocated"),
            Meter("memory", _share(found.allocated_memory_bytes, able.memory_bytes), of),
        ]
    if found.HasField("load"):
        used = f"{text.size(load.memory_used_bytes)} of {text.size(load.memory_total_bytes)} in use"
        meters += [
            Meter("CPU load", _share(load.cpu_used, load.cpus), f"{load.cpu_used:.1f} of {load.cpus} CPUs in use"),
            Meter("memory load", _share(load.memory_used_bytes, load.memory_total_bytes), used),
        ]
    return meters


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
