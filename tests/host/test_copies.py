"""Volumes copied into others by real tools: every layout and key into every other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.pools import PoolSpec
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_common.errors import CancelledError, FailedPreconditionError, from_status

from tests.host.conftest import Storage, contents, job, need, new_key, wire
from tests.host.killed_agent import children_of
from tests.host.volumes import MARKER, MIB, QCOW2, RAW, THICK, image, reason, wait_for

Kind = tuple[DiskFormat, bool]
KINDS: list[Kind] = list(product(DiskFormat, (False, True)))
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Storage, dict[Kind, VolumeRef]]]:
    """A volume of each kind, all with the same content: nobody changes them."""
    need("qemu-img")
    made = Storage(tmp_path_factory.mktemp("library"))
    template = made.template(image(SIZE))
    refs = {}
    for disk_format, encrypted in KINDS:
        refs[disk_format, encrypted] = ref = made.ref(disk_format, new_key() if encrypted else None)
        made.volumes.create(job(), ref, SIZE, template=template)
    yield made, refs
    made.jobs.stop(10)


Library = tuple[Storage, dict[Kind, VolumeRef]]


@pytest.mark.parametrize("target_kind", KINDS)
@pytest.mark.parametrize("source_kind", KINDS)
def test_a_copy_holds_the_same_bytes(library: Library, source_kind: Kind, target_kind: Kind, tmp_path: Path) -> None:
    storage, refs = library
    before = storage.files()
    source, target = refs[source_kind], storage.ref(target_kind[0], new_key() if target_kind[1] else None)
    made = storage.volumes.copies.copy(job(), source, target)
    assert (made.virtual_size_bytes, made.encrypted, made.format) == (SIZE, target_kind[1], target_kind[0])
    assert contents(storage.path(target), target, tmp_path / "out") == image(SIZE)
    assert (MARKER in storage.path(target).read_bytes()) != target_kind[1]
    assert storage.volumes.info(target) == made
    storage.volumes.delete(job(), target)
    assert storage.files() == before


def test_a_copy_into_another_pool_may_be_larger_and_fat(library: Library, tmp_path: Path) -> None:
    storage, refs = library
    other = PoolSpec("11111111-0000-4000-8000-000000000000", "local", str(tmp_path / "other"))
    storage.pools.ensure(other)
    target = VolumeRef(other.pool_id, storage.ref(RAW).volume_id, RAW, new_key())
    made = storage.volumes.copies.copy(job(), refs[QCOW2, True], target, SIZE + MIB, THICK)
    assert made.virtual_size_bytes == SIZE + MIB
    assert made.allocated_bytes >= SIZE + MIB
    found = contents(tmp_path / "other" / target.volume_id, target, tmp_path / "out")
    assert found[:SIZE] == image(SIZE)
    assert len(found) == SIZE + MIB
    storage.pools.remove(other.pool_id, storage.guests)


def test_zeros_are_found_and_not_written(library: Library) -> None:
    storage, refs = library
    target = storage.ref(QCOW2, new_key())
    made = storage.volumes.copies.copy(job(), refs[RAW, True], target)
    # Half of the source is zeros, and its file holds them encrypted; the copy's header takes 2 MiB.
    assert made.allocated_bytes < SIZE + MIB
    storage.volumes.delete(job(), target)


def test_what_is_refused_leaves_nothing(library: Library) -> None:
    storage, refs = library
    copy = storage.volumes.copies.copy
    before = storage.files()
    plain, locked = refs[QCOW2, False], refs[QCOW2, True]
    target = storage.ref(QCOW2)
    with pytest.raises(FailedPreconditionError, match=f"does not open {locked.volume_id}") as caught:
        copy(job(), replace(locked, key=new_key()), target)
    assert caught.value.reason == "WRONG_KEY"
    assert reason(lambda: copy(job(), replace(refs[RAW, True], key=new_key()), target)) == "WRONG_KEY"
    assert reason(lambda: copy(job(), replace(locked, key=None), target)) == "KEY_MISSING"
    assert reason(lambda: copy(job(), replace(locked, key=Key("k", None)), target)) == "KEY_MISSING"
    assert reason(lambda: copy(job(), plain, replace(target, key=Key("k", None)))) == "KEY_MISSING"
    assert reason(lambda: copy(job(), replace(plain, key=new_key()), target)) == "NOT_ENCRYPTED"
    assert reason(lambda: copy(job(), plain, plain)) == "INVALID_FIELD"
    assert reason(lambda: copy(job(), plain, target, SIZE - 512)) == "SOURCE_LARGER"
    assert reason(lambda: copy(job(), plain, target, 1000)) == "INVALID_FIELD"
    assert reason(lambda: copy(job(), storage.ref(RAW), target)) == "VOLUME_NOT_FOUND"
    assert reason(lambda: copy(job(), plain, locked)) == "VOLUME_EXISTS"
    assert storage.files() == before


def test_a_source_that_somebody_writes_to_is_not_copied(library: Library) -> None:
    need("qemu-io")
    storage, refs = library
    source, target = refs[QCOW2, False], storage.ref(RAW)
    held = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", storage.path(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with held:
        assert held.stdin
        assert held.stdout
        held.stdin.write("read 0 512\n")
        held.stdin.flush()
        assert "read 512/512" in held.stdout.readline()
        assert reason(lambda: storage.volumes.copies.copy(job(), source, target)) == "VOLUME_IN_USE"
        held.communicate("quit\n")
    storage.guests.volumes[source.volume_id] = "somebody"
    assert reason(lambda: storage.volumes.copies.copy(job(), source, target, vm_id="other")) == "VOLUME_IN_USE"
    del storage.guests.volumes[source.volume_id]
    assert not storage.path(target).exists()


def test_the_same_operation_again_is_a_success(library: Library) -> None:
    storage, refs = library
    target, work = storage.ref(RAW), job()
    made = storage.volumes.copies.copy(work, refs[RAW, False], target)
    again = JobContext("again", facts=work.facts)
    assert storage.volumes.copies.copy(again, refs[RAW, False], target) == made
    storage.volumes.delete(job(), target)


def test_a_full_pool_is_left_as_it_was(library: Library, tmp_path: Path) -> None:
    need("mount")
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    storage, refs = library
    small = PoolSpec("22222222-0000-4000-8000-000000000000", "local", str(tmp_path / "small"))
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path / "small"], check=True)
    try:
        storage.pools.ensure(small)
        for ref, source in ((RAW, _incompressible(storage)), (QCOW2, refs[RAW, True])):
            target = VolumeRef(small.pool_id, storage.ref(ref).volume_id, ref, new_key() if ref is QCOW2 else None)
            assert reason(lambda: storage.volumes.copies.copy(job(), source, target)) == "POOL_FULL"  # noqa: B023
        assert [path.name for path in (tmp_path / "small").iterdir()] == [".ostler-pool"]
    finally:
        storage.pools.remove(small.pool_id, storage.guests)
        subprocess.run(["umount", tmp_path / "small"], check=True)


def _incompressible(storage: Storage) -> VolumeRef:
    ref = storage.ref(RAW)
    data = os.urandom(SIZE)
    storage.volumes.create(job(), ref, SIZE, template=storage.template(data))
    return ref


def test_a_source_is_neither_grown_nor_deleted_while_it_is_copied(library: Library) -> None:
    storage, refs = library
    source, target = refs[RAW, False], storage.ref(RAW)
    tried: list[str] = []

    class Watching(JobContext):
        def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
            if not tried:
                tried.append(reason(lambda: storage.volumes.delete(job(), source)))
                tried.append(reason(lambda: storage.volumes.grow(job(), source, SIZE + MIB)))
                tried.append(reason(lambda: storage.volumes.delete(job(), target)))

    storage.volumes.copies.copy(Watching("watching"), source, target)
    assert tried == ["VOLUME_BUSY"] * 3
    storage.volumes.delete(job(), target)


def test_cancelling_leaves_nothing(library: Library) -> None:
    storage, refs = library
    before = storage.files()
    work, target = job(), storage.ref(QCOW2, new_key())
    work.cancel()
    with pytest.raises(CancelledError):
        storage.volumes.copies.copy(work, refs[RAW, False], target)
    assert storage.files() == before


AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from tests.host.conftest import Storage

root, pool_id, request = sys.argv[1:]
storage = Storage(Path(root), pool_id)
list(storage.service.CopyVolume(volume_pb2.CopyVolumeRequest.FromString(bytes.fromhex(request)), None))
"""


def test_an_agent_killed_in_the_middle_leaves_nothing_and_may_try_again(storage: Storage, tmp_path: Path) -> None:
    source, target = storage.ref(RAW), storage.ref(QCOW2, new_key())
    data = image(SIZE)
    storage.volumes.create(job(), source, SIZE, template=storage.template(data))
    request = volume_pb2.CopyVolumeRequest(
        operation=job_pb2.OperationRef(id="copy", attempt=1), source=wire(source), target=wire(target)
    )
    part = storage.pool / f".{target.volume_id}.part"
    arguments = [str(tmp_path), storage.pool_id, request.SerializeToString().hex()]
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], env={"PYTHONPATH": ":".join(sys.path)}) as agent:
        wait_for(part.exists)
        agent.kill()
    wait_for(lambda: not children_of("qemu-img", target.volume_id))

    after = Storage(tmp_path, storage.pool_id)
    *_, update = after.jobs.watch("copy")
    assert (update.state, from_status(update.error).reason) == (job_pb2.JobUpdate.FAILED, "INTERRUPTED")
    assert after.files() == {source.volume_id}
    request.operation.attempt = 2
    *_, last = after.service.CopyVolume(request, None)  # type: ignore[arg-type]
    assert last.state == job_pb2.JobUpdate.SUCCEEDED
    assert contents(storage.path(target), target, tmp_path / "out") == data
