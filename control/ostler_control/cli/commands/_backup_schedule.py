"""`ostler backup schedule`."""

from __future__ import annotations

import click
from ostler.control.v1 import backup_pb2 as pb

from ostler_control.cli import text, timetables
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VM
from ostler_control.cli.options import limit_option, list_options, output_option, request_id_option
from ostler_control.cli.output import Listing, View, print_changed, print_list

INTERVALS = {
    "hourly": pb.BackupSchedule.HOURLY,
    "daily": pb.BackupSchedule.DAILY,
    "weekly": pb.BackupSchedule.WEEKLY,
    "monthly": pb.BackupSchedule.MONTHLY,
}
_MAX_KEPT = 1000


def _times(schedule: pb.BackupSchedule) -> str:
    return timetables.words(
        text.enum_of(schedule, "interval"), timetables.At(schedule.minute, schedule.hour, schedule.day)
    )


def _keep(schedule: pb.BackupSchedule) -> str:
    keep = schedule.keep
    rules = {"last": keep.last, "daily": keep.daily, "weekly": keep.weekly, "monthly": keep.monthly}
    return ", ".join(f"{count} {name}" for name, count in rules.items() if count)


VIEW = View[pb.BackupSchedule](
    "schedule",
    columns=[
        ("VM", lambda s: s.vm_name),
        ("when", _times),
        ("keep", _keep),
        ("next", lambda s: text.when(s, "next_time")),
        ("last error", lambda s: s.last_error),
        ("id", lambda s: s.id),
    ],
    details=[("labels", lambda s: labels_joined(s.labels))],
    name=lambda s: s.id,
)


@click.group("schedule", cls=Noun)
def schedule() -> None:
    """Schedules that create backups regularly and delete old ones."""


@schedule.command("create")
@click.argument("vm", type=VM)
@timetables.interval_options
@click.option("--keep-last", type=click.IntRange(0, _MAX_KEPT), default=0, help="Keep the newest ones, this many.")
@click.option(
    "--keep-daily", type=click.IntRange(0, _MAX_KEPT), default=0, help="The newest of each day, as many days."
)
@click.option(
    "--keep-weekly", type=click.IntRange(0, _MAX_KEPT), default=0, help="The newest of each week, from Monday."
)
@click.option("--keep-monthly", type=click.IntRange(0, _MAX_KEPT), default=0, help="The newest of each month.")
@request_id_option
@output_option
@pass_app
def create(
    app: App,
    vm: str,
    interval: str | None,
    at: str,
    keep_last: int,
    keep_daily: int,
    keep_weekly: int,
    keep_monthly: int,
    request_id: str,
    output: str,
) -> None:
    """Creates a schedule of backups for a VM.

    Give at least one --keep option. A backup that no rule keeps is deleted; one that
    does not verify is left, and does not count. Days, weeks and months without a backup
    do not count either. A schedule deletes only backups that it created.

    \b
    Examples:
      ostler backup schedule create web-1 --daily --at 02:00 --keep-daily 7 --keep-weekly 4 --keep-monthly 12
      ostler backup schedule create web-1 --hourly --keep-last 24
    """
    if interval is None:
        raise click.UsageError("give --hourly, --daily, --weekly or --monthly")
    if not (keep_last or keep_daily or keep_weekly or keep_monthly):
        raise click.UsageError("give --keep-last, --keep-daily, --keep-weekly or --keep-monthly")
    times = timetables.parse(interval, at)
    request = pb.CreateBackupScheduleRequest(
        request_id=request_id,
        vm=vm,
        interval=INTERVALS[interval],
        minute=times.minute,
        hour=times.hour,
        day=times.day,
        keep=pb.BackupRetention(last=keep_last, daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly),
    )
    print_changed(VIEW, app.client.backups.CreateBackupSchedule(request), output)


@schedule.command("list")
@click.option("--vm", type=VM, default="", help="Only those of this VM.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, vm: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists schedules with the error of the last run.

    \b
    Example:
      ostler backup schedule list --vm web-1
    """
    request = pb.ListBackupSchedulesRequest(vm=vm, selector=selector)
    print_list(VIEW, pages(app.client.backups.ListBackupSchedules, request, lambda a: a.schedules, limit), listing)


@schedule.command("delete")
@click.argument("schedule_id", metavar="ID")
@pass_app
def delete(app: App, schedule_id: str) -> None:
    """Deletes a schedule. Its backups stay.

    \b
    Example:
      ostler backup schedule delete 3f6f1a52-8a8e-4d0c-9f53-0f6f5f6f1a52
    """
    app.client.backups.DeleteBackupSchedule(pb.DeleteBackupScheduleRequest(schedule=schedule_id))


schedule.add_command(label_command("backup schedule"))
