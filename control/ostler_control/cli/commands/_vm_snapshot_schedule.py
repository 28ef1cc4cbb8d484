"""`ostler vm snapshot schedule`."""

from __future__ import annotations

import click
from ostler.control.v1 import vm_snapshot_pb2 as pb

from ostler_control.cli import text, timetables
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VM
from ostler_control.cli.options import limit_option, list_options, output_option, request_id_option
from ostler_control.cli.output import Listing, View, print_changed, print_list

INTERVALS = {
    "hourly": pb.VmSnapshotSchedule.HOURLY,
    "daily": pb.VmSnapshotSchedule.DAILY,
    "weekly": pb.VmSnapshotSchedule.WEEKLY,
    "monthly": pb.VmSnapshotSchedule.MONTHLY,
}


def _times(schedule: pb.VmSnapshotSchedule) -> str:
    return timetables.words(
        text.enum_of(schedule, "interval"), timetables.At(schedule.minute, schedule.hour, schedule.day)
    )


VIEW = View[pb.VmSnapshotSchedule](
    "schedule",
    columns=[
        ("VM", lambda s: s.vm_name),
        ("when", _times),
        ("keep", lambda s: str(s.keep)),
        ("next", lambda s: text.when(s, "next_time")),
        ("last error", lambda s: s.last_error),
        ("id", lambda s: s.id),
    ],
    details=[("labels", lambda s: labels_joined(s.labels))],
    name=lambda s: s.id,
)


@click.group("schedule", cls=Noun)
def schedule() -> None:
    """Schedules that create snapshots of VMs regularly and delete old ones."""


@schedule.command("create")
@click.argument("vm", type=VM)
@timetables.interval_options
@click.option("--keep", type=click.IntRange(1, 1000), required=True, help="How many of its snapshots to keep.")
@request_id_option
@output_option
@pass_app
def create(app: App, vm: str, interval: str | None, at: str, keep: int, request_id: str, output: str) -> None:
    """Creates a schedule of snapshots for a VM.

    It deletes its own oldest snapshots once there are more than --keep, and no others.

    \b
    Examples:
      ostler vm snapshot schedule create web-1 --daily --at 03:30 --keep 7
      ostler vm snapshot schedule create web-1 --weekly --at "sun 04:00" --keep 5
    """
    if interval is None:
        raise click.UsageError("give --hourly, --daily, --weekly or --monthly")
    times = timetables.parse(interval, at)
    request = pb.CreateVmSnapshotScheduleRequest(
        request_id=request_id,
        vm=vm,
        interval=INTERVALS[interval],
        minute=times.minute,
        hour=times.hour,
        day=times.day,
        keep=keep,
    )
    print_changed(VIEW, app.client.vm_snapshots.CreateVmSnapshotSchedule(request), output)


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
      ostler vm snapshot schedule list --vm web-1
    """
    request = pb.ListVmSnapshotSchedulesRequest(vm=vm, selector=selector)
    found = pages(app.client.vm_snapshots.ListVmSnapshotSchedules, request, lambda a: a.schedules, limit)
    print_list(VIEW, found, listing)


@schedule.command("delete")
@click.argument("schedule_id", metavar="ID")
@pass_app
def delete(app: App, schedule_id: str) -> None:
    """Deletes a schedule. Its snapshots stay.

    \b
    Example:
      ostler vm snapshot schedule delete 3f6f1a52-8a8e-4d0c-9f53-0f6f5f6f1a52
    """
    app.client.vm_snapshots.DeleteVmSnapshotSchedule(pb.DeleteVmSnapshotScheduleRequest(schedule=schedule_id))


schedule.add_command(label_command("vm snapshot schedule"))
