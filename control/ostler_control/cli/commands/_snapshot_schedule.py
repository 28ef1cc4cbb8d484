"""`ostler snapshot schedule`."""

from __future__ import annotations

import click
from ostler.control.v1 import snapshot_pb2 as pb

from ostler_control.cli import text, timetables
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VOLUME
from ostler_control.cli.options import limit_option, list_options, output_option, request_id_option
from ostler_control.cli.output import Listing, View, print_changed, print_list

INTERVALS = {
    "hourly": pb.SnapshotSchedule.HOURLY,
    "daily": pb.SnapshotSchedule.DAILY,
    "weekly": pb.SnapshotSchedule.WEEKLY,
    "monthly": pb.SnapshotSchedule.MONTHLY,
}


def _times(schedule: pb.SnapshotSchedule) -> str:
    return timetables.words(
        text.enum_of(schedule, "interval"), timetables.At(schedule.minute, schedule.hour, schedule.day)
    )


VIEW = View[pb.SnapshotSchedule](
    "schedule",
    columns=[
        ("volume", lambda s: s.volume_name),
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
    """Schedules that create snapshots regularly."""


@schedule.command("create")
@click.argument("volume", type=VOLUME)
@timetables.interval_options
@click.option("--keep", type=click.IntRange(1, 1000), required=True, help="How many to keep; older ones are deleted.")
@request_id_option
@output_option
@pass_app
def create(app: App, volume: str, interval: str | None, at: str, keep: int, request_id: str, output: str) -> None:
    """Creates a schedule of snapshots for a volume.

    A volume may have several schedules. After missed runs one snapshot is created
    late, the next one when it is due. A schedule deletes only snapshots that it created.

    \b
    Example:
      ostler snapshot schedule create data-1 --daily --at 03:30 --keep 7
      ostler snapshot schedule create data-1 --weekly --at "sun 04:00" --keep 5
    """
    if interval is None:
        raise click.UsageError("give --hourly, --daily, --weekly or --monthly")
    times = timetables.parse(interval, at)
    request = pb.CreateSnapshotScheduleRequest(
        request_id=request_id,
        volume=volume,
        interval=INTERVALS[interval],
        minute=times.minute,
        hour=times.hour,
        day=times.day,
        keep=keep,
    )
    print_changed(VIEW, app.client.snapshots.CreateSnapshotSchedule(request), output)


@schedule.command("list")
@click.option("--volume", type=VOLUME, default="", help="Only those of this volume.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, volume: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists schedules with the error of the last run.

    \b
    Example:
      ostler snapshot schedule list --volume data-1
    """
    request = pb.ListSnapshotSchedulesRequest(volume=volume, selector=selector)
    print_list(VIEW, pages(app.client.snapshots.ListSnapshotSchedules, request, lambda a: a.schedules, limit), listing)


@schedule.command("delete")
@click.argument("schedule_id", metavar="ID")
@pass_app
def delete(app: App, schedule_id: str) -> None:
    """Deletes a schedule. Its snapshots stay.

    \b
    Example:
      ostler snapshot schedule delete 3f6f1a52-8a8e-4d0c-9f53-0f6f5f6f1a52
    """
    app.client.snapshots.DeleteSnapshotSchedule(pb.DeleteSnapshotScheduleRequest(schedule=schedule_id))


schedule.add_command(label_command("snapshot schedule"))
