"""What can be done to a host."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import host_pb2 as pb
from ostler.control.v1.drs_pb2 import ExecutePlanRequest, GenerateReturnPlanRequest
from ostler_common.errors import OstlerError

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action

_UP, _MAINTENANCE = frozenset({"up"}), frozenset({"maintenance"})


def target_of(found: pb.Host) -> Target:
    """A host as what actions are for."""
    traits = frozenset({"enabled" if found.enabled else "disabled"})
    state, href = text.enum_of(found, "state"), tables.path("hosts", found.name)
    return Target(found.id, found.name, "host", state, "/", href, traits)


def _find(app: App, host: str) -> Target:
    return target_of(app.client.hosts.GetHost(pb.GetHostRequest(host=host)))


def _enter(app: App, call: Call) -> Operation | None:
    entered = app.client.hosts.EnterMaintenance(
        pb.EnterMaintenanceRequest(
            host=call.target,
            reason=call.text("reason"),
            evacuate=not call.flag("stay"),
            request_id=call.request_id,
        )
    )
    return entered.evacuation if entered.HasField("evacuation") else None


def _leave(app: App, call: Call) -> Operation | None:
    app.client.hosts.LeaveMaintenance(pb.LeaveMaintenanceRequest(host=call.target))
    if not call.flag("bring-back"):
        return None
    try:
        plan = app.client.drs.GenerateReturnPlan(GenerateReturnPlanRequest(host=call.target))
    except OstlerError as error:
        if error.reason != "NO_EVACUATION":
            raise
        return None
    if not plan.moves:
        return None
    return app.client.drs.ExecutePlan(ExecutePlanRequest(request_id=call.request_id, plan=plan.id))


def _set_enabled(app: App, call: Call, enabled: bool) -> None:
    mask = FieldMask(paths=["enabled"])
    app.client.hosts.UpdateHost(
        pb.UpdateHostRequest(host=call.target, values=pb.Host(enabled=enabled), update_mask=mask)
    )


def _probe(app: App, call: Call) -> None:
    app.client.hosts.ProbeHost(pb.ProbeHostRequest(host=call.target))


ACTIONS = Actions(
    "/hosts",
    _find,
    (
        Action(
            "maintenance",
            ("host", "maintenance", "enter"),
            "Maintenance",
            "Put host {name} into maintenance and migrate its VMs away? VMs that cannot move stay, with the reason.",
            _enter,
            _UP,
            (Option("reason", "Reason"), Option("stay", "Leave its VMs there", is_flag=True)),
        ),
        Action(
            "leave",
            ("host", "maintenance", "leave"),
            "End maintenance",
            "End the maintenance of host {name}?",
            _leave,
            _MAINTENANCE,
            (Option("bring-back", "Migrate evacuated VMs back", is_flag=True),),
        ),
        Action(
            "disable",
            ("host", "disable"),
            "Disable",
            "Place no further VM on host {name}? Its VMs stay.",
            lambda app, call: _set_enabled(app, call, False),
            needs=frozenset({"enabled"}),
        ),
        Action(
            "enable",
            ("host", "enable"),
            "Enable",
            "Place VMs on host {name} again?",
            lambda app, call: _set_enabled(app, call, True),
            needs=frozenset({"disabled"}),
        ),
        Action("probe", ("host", "probe"), "Probe", "Ask host {name} what it can do?", _probe, _UP | _MAINTENANCE),
        label_action("host", admins=True),
    ),
)
