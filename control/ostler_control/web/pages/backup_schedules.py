"""Schedules of backups: their list, a schedule's page, and the form on a VM's page that creates one."""

from __future__ import annotations

from collections.abc import Iterator

import click
from ostler.client.paging import pages
from ostler.control.v1 import backup_pb2 as pb
from ostler_common.errors import InvalidArgumentError, NotFoundError
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import timetables
from ostler_control.cli.app import App
from ostler_control.cli.commands._backup_schedule import INTERVALS, VIEW
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object
from ostler_control.web.tables import Table

MAX_ROWS = 10_000


def table(app: App) -> Table:
    """The first schedules."""
    answer = app.client.backups.ListBackupSchedules(pb.ListBackupSchedulesRequest(page_size=tables.PAGE_SIZE))
    return tables.table(VIEW, answer.schedules, "Schedules", lambda s: tables.path("backup-schedules", s.id))


def one_schedule(console: Console, request: Request) -> Response:
    """The page of a schedule."""
    found = _get(console.app, request.path_params["schedule"])
    target = _target(found)
    links = [
        (f"VM {found.vm_name}", tables.path("vms", found.vm_id)),
        ("Backups of the VM", tables.address("/backups", {"vm": found.vm_id})),
    ]
    words, buttons = ("backup", "schedule", "list", "--vm", found.vm_name), ACTIONS.buttons(console, target)
    return render_object(
        console, request, target, words, VIEW, found, notice=found.last_error, buttons=buttons, links=links
    )


def _get(app: App, id_: str) -> pb.BackupSchedule:
    wanted = pb.ListBackupSchedulesRequest()
    every: Iterator[pb.BackupSchedule] = pages(
        app.client.backups.ListBackupSchedules, wanted, lambda a: a.schedules, MAX_ROWS
    )
    found = next((one for one in every if one.id == id_), None)
    if found is None:
        raise NotFoundError("there is no such schedule", "BACKUP_SCHEDULE_NOT_FOUND")
    return found


def _target(found: pb.BackupSchedule) -> Target:
    href = tables.path("backup-schedules", found.id)
    return Target(found.id, found.id, "schedule of backups", "", "/backups", href)


def _create(app: App, call: Call) -> str:
    chosen = [interval for interval in INTERVALS if call.flag(interval)]
    if len(chosen) != 1:
        raise InvalidArgumentError("choose one of every hour, day, week and month", "CONFLICTING_FIELDS")
    try:
        times = timetables.parse(chosen[0], call.text("at"))
    except click.UsageError as error:
        raise InvalidArgumentError(error.message, "INVALID_SCHEDULE") from None
    keep = {rule: call.number(f"keep-{rule}") for rule in _RULES if call.text(f"keep-{rule}")}
    made = app.client.backups.CreateBackupSchedule(
        pb.CreateBackupScheduleRequest(
            request_id=call.request_id,
            vm=call.target,
            interval=INTERVALS[chosen[0]],
            minute=times.minute,
            hour=times.hour,
            day=times.day,
            keep=pb.BackupRetention(**keep),
        )
    )
    return tables.path("backup-schedules", made.id)


def _delete(app: App, call: Call) -> str:
    app.client.backups.DeleteBackupSchedule(pb.DeleteBackupScheduleRequest(schedule=call.target))
    return "/backups"


_RULES = {"last": "newest ones", "daily": "newest of each day", "weekly": "of each week", "monthly": "of each month"}
_EVERY = {"hourly": "Every hour", "daily": "Every day", "weekly": "Every week", "monthly": "Every month"}

# For a VM's page.
CREATE = Action(
    "schedule-backups",
    ("backup", "schedule", "create"),
    "Schedule backups",
    "Back up VM {name} regularly? A backup of the schedule that no rule keeps is deleted.",
    _create,
    options=(
        *(Option(name, label, is_flag=True) for name, label in _EVERY.items()),
        Option("at", "When, UTC: 30, 03:30, sun 03:30 or 1 03:30 (empty: at its beginning)"),
        *(Option(f"keep-{name}", f"How many to keep: {label}") for name, label in _RULES.items()),
    ),
)
ACTIONS = Actions(
    "/backup-schedules",
    lambda app, id_: _target(_get(app, id_)),
    (
        label_action("backup schedule", "schedule"),
        Action(
            "delete",
            ("backup", "schedule", "delete"),
            "Delete",
            "Delete schedule {name}? Its backups stay.",
            _delete,
            is_dangerous=True,
        ),
    ),
)
