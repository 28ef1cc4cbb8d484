"""An agent that is killed in the middle of staging a volume, and its next life."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ostler.types.v1 import job_pb2
from ostler_agent.journal import Journal
from ostler_agent.spec import DiskFormat
from ostler_common.errors import from_status

from tests.host.conftest import Storage, new_key
from tests.host.killed_agent import children_of
from tests.host.volumes import MIB, wait_for

AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from tests.host.conftest import Storage

root, pool_id, request = sys.argv[1:]
storage = Storage(Path(root), pool_id)
list(storage.service.CreateVolume(volume_pb2.CreateVolumeRequest.FromString(bytes.fromhex(request)), None))
"""
State = job_pb2.JobUpdate.State


def test_killed_while_qemu_img_runs(storage: Storage, tmp_path: Path) -> None:
    ref = storage.ref(DiskFormat.QCOW2, new_key())
    request = storage.create_request(ref, MIB)
    part = storage.pool / f".{ref.volume_id}.part"
    arguments = [str(tmp_path), storage.pool_id, request.SerializeToString().hex()]
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], env={"PYTHONPATH": ":".join(sys.path)}) as agent:
        wait_for(part.exists)
        agent.kill()
    wait_for(lambda: not children_of("qemu-img", ref.volume_id))

    after = Storage(tmp_path, storage.pool_id)
    update = after.jobs.get(request.operation.id)
    assert (update.state, from_status(update.error).reason) == (State.FAILED, "INTERRUPTED")
    assert after.files() == set()
    request.operation.attempt = 2
    *_, last = after.service.CreateVolume(request, None)  # type: ignore[arg-type]
    assert last.state == State.SUCCEEDED
    assert after.volumes.info(ref).virtual_size_bytes == MIB


@pytest.mark.parametrize("part_left", [True, False])
def test_killed_after_the_volume_got_its_name(storage: Storage, tmp_path: Path, part_left: bool) -> None:
    ref = storage.ref(DiskFormat.RAW)
    request = storage.create_request(ref, MIB)
    *_, done = storage.service.CreateVolume(request, None)  # type: ignore[arg-type]
    journal = Journal(tmp_path / "jobs")
    record = journal.load(request.operation.id)
    assert record
    # As the journal was just before the end was written to it.
    record.state, record.final = "RUNNING", {}
    journal.save(record)
    if part_left:
        os.link(storage.path(ref), storage.pool / f".{ref.volume_id}.part")
    after = Storage(tmp_path, storage.pool_id)
    assert after.jobs.get(request.operation.id) == done
    assert after.files() == {ref.volume_id}


def test_killed_before_it_began_and_the_name_is_anothers(storage: Storage, tmp_path: Path) -> None:
    ref = storage.ref(DiskFormat.RAW)
    request = storage.create_request(ref, MIB)
    list(storage.service.CreateVolume(request, None))  # type: ignore[arg-type]
    journal = Journal(tmp_path / "jobs")
    record = journal.load(request.operation.id)
    assert record
    record.state, record.final, record.facts = "RUNNING", {}, {}
    journal.save(record)
    update = Storage(tmp_path, storage.pool_id).jobs.get(request.operation.id)
    assert from_status(update.error).reason == "VOLUME_EXISTS"
    assert storage.files() == {ref.volume_id}
