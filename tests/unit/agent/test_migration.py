"""Both sides of a migration, without one: what is prepared, what is undone, what is never touched."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from ostler_agent import preconditions
from ostler_agent.hypervisors.base import Addresses, MigrationLimits, MigrationOutcome
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.migration import source
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.destination import Endpoint, IncomingMigrations, MovedVolume
from ostler_agent.spec import DiskFormat, DiskSpec, Key, NicSpec, PowerState, Provisioning, VmSpec, VolumeRef
from ostler_common.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    OstlerError,
    ResourceExhaustedError,
)
from ostler_common.secret import Secret

from tests.fakes.hypervisor import FakeHypervisor
from tests.images import qcow2

VM = str(uuid.uuid4())


def ref() -> VolumeRef:
    return VolumeRef(str(uuid.uuid4()), str(uuid.uuid4()), DiskFormat.QCOW2, Key(str(uuid.uuid4()), Secret(b"x")))


SHARED, MOVED, ALSO_MOVED = ref(), ref(), ref()
SPEC = VmSpec(
    VM,
    "guest",
    1,
    128 << 20,
    disks=tuple(DiskSpec(volume, slot) for slot, volume in enumerate((SHARED, MOVED, ALSO_MOVED))),
    nics=(NicSpec("52:54:00:00:00:01", "br0"),),
)
KEYS = {volume.key.key_id for volume in (SHARED, MOVED, ALSO_MOVED) if volume.key}
MOVING = [MovedVolume(volume.volume_id, 512) for volume in (MOVED, ALSO_MOVED)]
ORIGIN = Source("11111111-2222-3333-4444-555555555555", 60)


class FakeVolumes:
    """Volumes that are plain files; fails to make the one named."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fails_for = ""

    def create(self, job: JobContext, ref: VolumeRef, size_bytes: int, provisioning: Provisioning) -> object:
        if ref.volume_id == self.fails_for:
            raise ResourceExhaustedError("full", "POOL_FULL")
        path = self.directory / ref.volume_id
        assert not path.exists()
        path.write_bytes(bytes(size_bytes))
        return None

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        (self.directory / ref.volume_id).unlink(missing_ok=True)


NO_ISOS = Isos(lambda source, offset: iter([]))


class Destination:
    """A host with the shared volume on it, and br0."""

    def __init__(self, root: Path) -> None:
        self.pool = root / "pool"
        self.pool.mkdir()
        (self.pool / SHARED.volume_id).write_bytes(qcow2(encryption=2))
        self.driver = FakeHypervisor()
        self.volumes = FakeVolumes(self.pool)
        self.admissions = Admissions(root / "admissions")
        self.incoming = IncomingMigrations(
            self.driver,
            self.volumes,
            lambda ref: self.pool / ref.volume_id,
            "10.0.0.2",
            "h2.qemu",
            self.admissions,
            NO_ISOS,
        )

    def files(self) -> set[str]:
        return {path.name for path in self.pool.iterdir()}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Destination:
    (tmp_path / "net" / "br0" / "bridge").mkdir(parents=True)
    monkeypatch.setattr(preconditions, "SYS_CLASS_NET", tmp_path / "net")
    return Destination(tmp_path)


def job() -> JobContext:
    return JobContext("test")


def test_prepared(there: Destination) -> None:
    endpoint = there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    assert endpoint == Endpoint(
        Addresses("qemu+tls://10.0.0.2/system", "tcp://10.0.0.2", "tcp://10.0.0.2"),
        {volume.volume_id: there.pool / volume.volume_id for volume in (SHARED, MOVED, ALSO_MOVED)},
        "h2.qemu",
    )
    assert there.driver.keys[VM] == KEYS
    assert {MOVED.volume_id, ALSO_MOVED.volume_id} < there.files()
    # The migration failed and is retried: the targets of the first attempt are replaced.
    assert there.incoming.prepare(SPEC, MOVING, ORIGIN, job()) == endpoint


def test_an_ipv6_address_is_bracketed(there: Destination) -> None:
    incoming = IncomingMigrations(
        there.driver,
        there.volumes,
        lambda ref: there.pool / ref.volume_id,
        "fd00::2",
        "h2.qemu",
        there.admissions,
        NO_ISOS,
    )
    assert incoming.prepare(SPEC, MOVING, ORIGIN, job()).addresses.migrate_uri == "tcp://[fd00::2]"


def test_arrived(there: Destination) -> None:
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    with pytest.raises(FailedPreconditionError) as error:
        there.incoming.finish(VM, True, sorted(KEYS), [MOVED, ALSO_MOVED], job())
    assert error.value.reason == "VM_NOT_HERE"
    there.driver.add(VM)
    for _ in range(2):
        assert there.incoming.finish(VM, True, sorted(KEYS), [MOVED, ALSO_MOVED], job()).vm_id == VM
    assert there.files() == {SHARED.volume_id, MOVED.volume_id, ALSO_MOVED.volume_id}
    assert there.driver.keys[VM] == KEYS
    # From now on they are the VM's data, whatever the source reports.
    there.driver.add(VM, PowerState.STOPPED)
    there.incoming.finish(VM, False, [], [MOVED, ALSO_MOVED], job())
    assert {MOVED.volume_id, ALSO_MOVED.volume_id} < there.files()


def test_the_source_is_admitted_while_the_migration_is_under_way(there: Destination) -> None:
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    assert there.admissions.admits(ORIGIN.host_id)
    there.incoming.finish(VM, False, sorted(KEYS), [], job())
    assert not there.admissions.admits(ORIGIN.host_id)
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    there.driver.add(VM)
    there.incoming.finish(VM, True, sorted(KEYS), [MOVED, ALSO_MOVED], job())
    assert not there.admissions.admits(ORIGIN.host_id)


def test_not_arrived(there: Destination) -> None:
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    for _ in range(2):
        there.incoming.finish(VM, False, sorted(KEYS), [MOVED, ALSO_MOVED, SHARED], job())
    assert there.files() == {SHARED.volume_id}  # never a volume that was not made for the move
    assert there.driver.keys[VM] == set()


@pytest.mark.parametrize("state", [PowerState.RUNNING, PowerState.PAUSED])
def test_a_vm_that_runs_is_never_touched(there: Destination, state: PowerState) -> None:
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    there.driver.add(VM, state)
    before = there.files()
    with pytest.raises(FailedPreconditionError) as error:
        there.incoming.finish(VM, False, sorted(KEYS), [MOVED, ALSO_MOVED], job())
    assert error.value.reason == "VM_RUNNING"
    there.incoming.undo_interrupted_prepare(SPEC, MOVING)
    assert there.files() == before
    assert there.driver.keys[VM] == KEYS
    with pytest.raises(FailedPreconditionError) as error:
        there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    assert error.value.reason == "VM_RUNNING"


def test_a_failure_undoes_what_was_begun(there: Destination) -> None:
    there.volumes.fails_for = ALSO_MOVED.volume_id
    with pytest.raises(ResourceExhaustedError):
        there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    assert there.files() == {SHARED.volume_id}
    assert there.driver.keys[VM] == set()
    assert not there.admissions.admits(ORIGIN.host_id)


def test_a_cancelled_preparation_leaves_nothing(there: Destination) -> None:
    preparing = job()
    preparing.cancel()
    with pytest.raises(CancelledError):
        there.incoming.prepare(SPEC, MOVING, ORIGIN, preparing)
    assert there.files() == {SHARED.volume_id}
    assert there.driver.keys[VM] == set()


def test_a_preparation_that_was_cut_short_is_undone(there: Destination) -> None:
    there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    for _ in range(2):
        there.incoming.undo_interrupted_prepare(SPEC, MOVING)
    assert there.files() == {SHARED.volume_id}
    assert not there.admissions.admits(ORIGIN.host_id)


def test_somebodys_data_is_no_target(there: Destination) -> None:
    (there.pool / MOVED.volume_id).write_text("data")
    with pytest.raises(AlreadyExistsError) as error:
        there.incoming.prepare(SPEC, MOVING, ORIGIN, job())
    assert error.value.reason == "TARGET_EXISTS"
    there.incoming.undo_interrupted_prepare(SPEC, MOVING)
    assert (there.pool / MOVED.volume_id).read_text() == "data"
    assert there.driver.done == []


def test_what_is_missing_is_found_before_anything_is_done(there: Destination) -> None:
    def reason(error: type[OstlerError], spec: VmSpec = SPEC, moving: list[MovedVolume] = MOVING) -> str:
        with pytest.raises(error) as raised:
            there.incoming.prepare(spec, moving, ORIGIN, job())
        return raised.value.reason

    assert reason(InvalidArgumentError, moving=[MovedVolume(str(uuid.uuid4()), 512)]) == "INVALID_FIELD"
    assert reason(FailedPreconditionError, moving=[]) == "VOLUME_MISSING"
    other = VmSpec(VM, "guest", 1, 128 << 20, disks=SPEC.disks, nics=(NicSpec("52:54:00:00:00:01", "br7"),))
    assert reason(FailedPreconditionError, spec=other) == "BRIDGE_MISSING"
    assert there.driver.done == []
    assert there.files() == {SHARED.volume_id}


def test_the_source_wants_a_path_for_every_volume() -> None:
    driver = FakeHypervisor()
    driver.add(VM)
    endpoint = Endpoint(Addresses("qemu+tls://h/system", "tcp://h", ""), {SHARED.volume_id: Path("/x")}, "h.qemu")
    with pytest.raises(InvalidArgumentError):
        source.migrate(driver, endpoint, SPEC, [], MigrationLimits(), job())
    assert driver.done == []


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (MigrationOutcome.RUNNING_HERE, "MIGRATION_FAILED"),
        (MigrationOutcome.STOPPED_HERE, "VM_STOPPED"),
        (MigrationOutcome.MOVED, ""),
    ],
)
def test_how_a_move_of_an_earlier_life_ended(outcome: MigrationOutcome, reason: str) -> None:
    driver = FakeHypervisor()
    driver.outcome = outcome
    if not reason:
        assert source.resolve_interrupted_migration(driver, VM, 1, job()).downtime_ms == 0
        return
    with pytest.raises((AbortedError, FailedPreconditionError)) as error:
        source.resolve_interrupted_migration(driver, VM, 1, job())
    assert error.value.reason == reason
