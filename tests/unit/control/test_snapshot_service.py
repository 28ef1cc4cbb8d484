"""SnapshotService and what VolumeService does with snapshots, called as the server calls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import pytest
from google.longrunning import operations_pb2
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1 import volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import OstlerError
from ostler_control.agents import Agents
from ostler_control.api.snapshots import SnapshotService
from ostler_control.api.volumes import VolumeService
from ostler_control.catalog import accounts
from ostler_control.models import Account, Event, Operation, Pool, Snapshot, new_id
from ostler_control.operations import Engine
from ostler_control.pools import manage

from tests import databases
from tests.sites import MIB, Site, outcome, site_at_work
from tests.unit.control import calls

State = pb.Snapshot.State
Schedule = pb.SnapshotSchedule


@dataclasses.dataclass
class Api:
    site: Site
    engine: Engine
    snapshots: SnapshotService
    volumes: VolumeService
    admin: grpc.ServicerContext
    member: grpc.ServicerContext
    stranger: grpc.ServicerContext

    def done(self, operation: operations_pb2.Operation) -> Any:
        """Id of what the operation was about, once it is over."""
        row: Any = Operation.get_by_id(operation.name.removeprefix("operations/"))
        assert outcome(self.engine, row) == ("succeeded", "")
        return row.resource_id

    def volume(self, name: str) -> None:
        request = volume_pb2.CreateVolumeRequest(name=name, disk_offering="encrypted", size_bytes=4 * MIB)
        self.done(self.volumes.CreateVolume(request, self.member))

    def snapshot(self, volume: str, name: str) -> pb.Snapshot:
        request = pb.CreateSnapshotRequest(volume=volume, name=name, request_id=new_id())
        self.done(self.snapshots.CreateSnapshot(request, self.member))
        return self.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot=name), self.member)

    def names(self, context: grpc.ServicerContext, volume: str = "", account: str = "") -> list[str]:
        answer = self.snapshots.ListSnapshots(pb.ListSnapshotsRequest(volume=volume, account=account), context)
        return [row.name for row in answer.snapshots]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    state_dir = tmp_path_factory.mktemp("api")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as (site, engine):
        yield Api(
            site,
            engine,
            SnapshotService(engine.agents, engine.keys),
            VolumeService(engine.agents, engine.keys, engine.templates),
            calls.context(site.admin()),
            calls.context(calls.user("alice", site.account)),
            calls.context(calls.user("eve", Account.create(name="other"))),
        )


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_snapshots_life(api: Api) -> None:
    api.volume("life")
    first = api.snapshot("life", "life-1")
    assert (first.state, first.account_name, first.volume_name, first.pool_name) == (
        State.READY,
        "acme",
        "life",
        "shared",
    )
    assert (first.size_bytes, first.online, first.schedule_id) == (4 * MIB, False, "")
    assert (first.format, first.encrypt_format) == (types_pb2.DISK_FORMAT_QCOW2, types_pb2.ENCRYPT_FORMAT_LUKS)
    api.snapshot("life", "life-2")
    api.volume("another")
    api.snapshot("another", "another-1")
    assert api.names(api.member, volume="life") == ["life-2", "life-1"], "the newest first"
    assert set(api.names(api.admin, account="acme")) >= {"life-1", "life-2", "another-1"}
    page = api.snapshots.ListSnapshots(pb.ListSnapshotsRequest(page_size=1, volume="life"), api.member)
    rest = pb.ListSnapshotsRequest(page_size=1, volume="life", page_token=page.next_page_token)
    assert [row.name for row in api.snapshots.ListSnapshots(rest, api.member).snapshots] == ["life-1"]
    api.done(api.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume="life"), api.member))
    assert api.names(api.member, volume=first.volume_id) == ["life-2", "life-1"], "of a volume that is gone"
    assert api.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot=first.id), api.member).volume_name == ""
    for name in ("life-1", "life-2"):
        operation = api.snapshots.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot=name), api.member)
        api.done(operation)
    assert reason(lambda: api.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot="life-1"), api.member)) == (
        "SNAPSHOT_NOT_FOUND"
    )


def test_a_repeated_request_is_one_snapshot(api: Api) -> None:
    api.volume("once")
    request = pb.CreateSnapshotRequest(volume="once", request_id=new_id())
    first = api.snapshots.CreateSnapshot(request, api.member)
    api.done(first)
    assert api.snapshots.CreateSnapshot(request, api.member).name == first.name
    assert len(api.names(api.member, volume="once")) == 1
    dry = pb.CreateSnapshotRequest(volume="once", validate_only=True)
    assert api.snapshots.CreateSnapshot(dry, api.member).done
    assert len(api.names(api.member, volume="once")) == 1


def test_a_volume_from_a_snapshot_and_a_copy(api: Api) -> None:
    api.volume("source")
    api.snapshot("source", "source-1")
    made = api.done(
        api.volumes.CreateVolume(volume_pb2.CreateVolumeRequest(name="made", snapshot="source-1"), api.member)
    )
    volume = api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=made), api.member)
    assert (volume.name, volume.disk_offering_name, volume.account_name) == ("made", "encrypted", "acme")
    assert volume.encrypt_format == types_pb2.ENCRYPT_FORMAT_LUKS
    copy = volume_pb2.CopyVolumeRequest(volume="made", name="copied", request_id=new_id())
    copied = api.done(api.volumes.CopyVolume(copy, api.member))
    assert api.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume=copied), api.member).size_bytes == 4 * MIB
    mismatch = volume_pb2.CreateVolumeRequest(name="x", snapshot="source-1", disk_offering="plain")
    assert reason(lambda: api.volumes.CreateVolume(mismatch, api.member)) == "ENCRYPTION_MISMATCH"


def test_members_see_only_their_accounts_snapshots(api: Api) -> None:
    api.volume("mine")
    row = api.snapshot("mine", "mine-1")
    schedule = api.snapshots.CreateSnapshotSchedule(
        pb.CreateSnapshotScheduleRequest(volume="mine", interval=Schedule.DAILY, hour=3, keep=2), api.member
    )
    stranger = api.stranger
    assert api.names(stranger) == []
    assert api.names(stranger, volume=row.volume_id) == []
    assert list(api.snapshots.ListSnapshotSchedules(pb.ListSnapshotSchedulesRequest(), stranger).schedules) == []
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: api.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot=row.id), stranger), "SNAPSHOT_NOT_FOUND"),
        (
            lambda: api.snapshots.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot=row.id), stranger),
            "SNAPSHOT_NOT_FOUND",
        ),
        (lambda: api.snapshots.RevertVolume(pb.RevertVolumeRequest(snapshot=row.id), stranger), "SNAPSHOT_NOT_FOUND"),
        (lambda: api.snapshots.CreateSnapshot(pb.CreateSnapshotRequest(volume="mine"), stranger), "VOLUME_NOT_FOUND"),
        (lambda: api.names(stranger, volume="mine"), "VOLUME_NOT_FOUND"),
        (lambda: api.names(stranger, account="acme"), "ACCOUNT_NOT_FOUND"),
        (
            lambda: api.volumes.CreateVolume(volume_pb2.CreateVolumeRequest(name="v", snapshot=row.id), stranger),
            "SNAPSHOT_NOT_FOUND",
        ),
        (
            lambda: api.volumes.CopyVolume(volume_pb2.CopyVolumeRequest(volume="mine", name="v"), stranger),
            "VOLUME_NOT_FOUND",
        ),
        (
            lambda: api.snapshots.CreateSnapshotSchedule(
                pb.CreateSnapshotScheduleRequest(volume="mine", interval=Schedule.DAILY, keep=1), stranger
            ),
            "VOLUME_NOT_FOUND",
        ),
        (
            lambda: api.snapshots.DeleteSnapshotSchedule(
                pb.DeleteSnapshotScheduleRequest(schedule=schedule.id), stranger
            ),
            "SNAPSHOT_SCHEDULE_NOT_FOUND",
        ),
        (
            lambda: api.snapshots.CreateSnapshot(pb.CreateSnapshotRequest(volume="mine", pool="shared"), api.member),
            "ADMINS_ONLY_FIELD",
        ),
    ]
    for call, expected in refusals:
        assert reason(call) == expected


def test_a_schedules_life(api: Api) -> None:
    api.volume("clock")
    request = pb.CreateSnapshotScheduleRequest(
        request_id=new_id(), volume="clock", interval=Schedule.WEEKLY, minute=30, hour=3, day=7, keep=5
    )
    made = api.snapshots.CreateSnapshotSchedule(request, api.member)
    assert api.snapshots.CreateSnapshotSchedule(request, api.member) == made, "a repeat is harmless"
    assert (made.volume_name, made.interval, made.minute, made.hour, made.day, made.keep, made.last_error) == (
        "clock", Schedule.WEEKLY, 30, 3, 7, 5, "",
    )  # fmt: skip
    next_time = made.next_time.ToDatetime()
    assert (next_time.isoweekday(), next_time.hour, next_time.minute) == (7, 3, 30)
    listed = api.snapshots.ListSnapshotSchedules(pb.ListSnapshotSchedulesRequest(volume="clock"), api.member)
    assert list(listed.schedules) == [made]
    bad = pb.CreateSnapshotScheduleRequest(volume="clock", keep=1)
    assert reason(lambda: api.snapshots.CreateSnapshotSchedule(bad, api.member)) == "INVALID_ENUM"
    delete = pb.DeleteSnapshotScheduleRequest(schedule=made.id)
    api.snapshots.DeleteSnapshotSchedule(delete, api.member)
    assert reason(lambda: api.snapshots.DeleteSnapshotSchedule(delete, api.member)) == "SNAPSHOT_SCHEDULE_NOT_FOUND"
    verbs = [row.type for row in Event.select().where(Event.resource_id == made.id).order_by(Event.create_time)]
    assert verbs == ["snapshot_schedule.create", "snapshot_schedule.delete"]


def test_a_pool_with_snapshots_stays(api: Api) -> None:
    other: Any = Account.create(name="keeper")
    pool: Any = Pool.create(name="attic", type="local", scope="host", scope_id=new_id())
    Snapshot.create(name="kept", account=other, volume_id=new_id(), pool=pool, size_bytes=MIB, state="ready")
    with pytest.raises(OstlerError, match="1 snapshots"):
        accounts.delete(other, "root")
    assert reason(lambda: manage.delete(cast("Agents", None), pool, "root")) == "POOL_HAS_SNAPSHOTS"
    Snapshot.delete().where(Snapshot.name == "kept").execute()
