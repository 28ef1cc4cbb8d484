"""A volume's keys swapped by qemu-img."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_common.errors import from_status
from ostler_common.secret import Secret

from tests.host.conftest import Storage, contents, job, new_key, wire
from tests.host.killed_agent import children_of
from tests.host.volumes import MIB, QCOW2, RAW, Images, encrypted, image, reason, wait_for


def with_key(ref: VolumeRef, key: Key) -> VolumeRef:
    return replace(ref, key=key)


@pytest.mark.parametrize("disk_format", [QCOW2, RAW])
def test_a_key_is_swapped_and_the_data_stays(storage: Storage, disk_format: DiskFormat, tmp_path: Path) -> None:
    ref, new = storage.ref(disk_format, new_key()), new_key()
    assert ref.key
    storage.volumes.create(job(), ref, MIB, template=storage.template(image(MIB)))
    swapped = with_key(ref, new)
    for _ in range(2):
        storage.volumes.keys.add(job(), ref, new)
    assert storage.volumes.info(ref) == storage.volumes.info(swapped)
    for _ in range(2):
        assert storage.volumes.keys.remove(job(), swapped, ref.key) == storage.volumes.info(swapped)
    assert reason(lambda: storage.volumes.info(ref)) == "WRONG_KEY"
    assert contents(storage.path(ref), swapped, tmp_path / "out") == image(MIB)


@pytest.mark.parametrize("disk_format", [QCOW2, RAW])
def test_what_is_refused_changes_nothing(storage: Storage, encrypted_images: Images, disk_format: DiskFormat) -> None:
    ref, other = encrypted(storage, encrypted_images, disk_format), new_key()
    keys, before = storage.volumes.keys, storage.path(ref).read_bytes()
    assert ref.key
    old = ref.key
    assert reason(lambda: keys.add(job(), with_key(ref, other), new_key())) == "WRONG_KEY"
    # The key that is to stay opens nothing: the other one stays, too.
    assert reason(lambda: keys.remove(job(), with_key(ref, other), old)) == "WRONG_KEY"
    assert reason(lambda: keys.remove(job(), ref, replace(old, key_id="k"))) == "INVALID_FIELD"
    assert reason(lambda: keys.add(job(), ref, Key("k", None))) == "KEY_MISSING"
    assert reason(lambda: keys.add(job(), with_key(ref, Key("k", None)), other)) == "KEY_MISSING"
    assert reason(lambda: keys.add(job(), replace(ref, key=None), other)) == "KEY_MISSING"
    storage.guests.volumes[ref.volume_id] = "vm"
    assert reason(lambda: keys.add(job(), ref, other)) == "VOLUME_IN_USE"
    assert reason(lambda: keys.remove(job(), ref, other)) == "VOLUME_IN_USE"
    assert storage.path(ref).read_bytes() == before


def test_a_plain_volume_has_no_keys(storage: Storage) -> None:
    ref = storage.ref(QCOW2)
    storage.volumes.create(job(), ref, MIB)
    assert reason(lambda: storage.volumes.keys.add(job(), with_key(ref, new_key()), new_key())) == "NOT_ENCRYPTED"


def test_luks_has_room_for_eight_keys(storage: Storage, encrypted_images: Images, tmp_path: Path) -> None:
    ref, last = encrypted(storage, encrypted_images, RAW), new_key()
    assert ref.key
    assert ref.key.passphrase
    (tmp_path / "key").write_bytes(ref.key.passphrase.reveal())
    for number in range(7):
        (tmp_path / "new").write_text(f"number {number}")
        flags = ["-q", "--key-file", str(tmp_path / "key"), "--pbkdf-force-iterations", "1000"]
        subprocess.run(["cryptsetup", "luksAddKey", *flags, storage.path(ref), tmp_path / "new"], check=True)
    assert reason(lambda: storage.volumes.keys.add(job(), ref, last)) == "KEY_SLOTS_FULL"
    storage.volumes.keys.remove(job(), ref, Key("k", Secret(b"number 3")))
    storage.volumes.keys.add(job(), ref, last)
    storage.volumes.info(with_key(ref, last))


AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from tests.host.conftest import Storage

root, pool_id, request = sys.argv[1:]
storage = Storage(Path(root), pool_id)
list(storage.service.AddVolumeKey(volume_pb2.AddVolumeKeyRequest.FromString(bytes.fromhex(request)), None))
"""


def test_an_agent_killed_at_it_leaves_a_volume_that_opens(
    storage: Storage, encrypted_images: Images, tmp_path: Path
) -> None:
    ref, new = encrypted(storage, encrypted_images, QCOW2), new_key()
    assert new.passphrase
    request = volume_pb2.AddVolumeKeyRequest(
        operation=job_pb2.OperationRef(id="add", attempt=1), volume=wire(ref), new_key=wire(with_key(ref, new)).key
    )
    arguments = [str(tmp_path), storage.pool_id, request.SerializeToString().hex()]
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], env={"PYTHONPATH": ":".join(sys.path)}) as agent:
        wait_for(lambda: any(b"amend" in (process / "cmdline").read_bytes() for process in _at_work(ref)))
        agent.kill()
    wait_for(lambda: not _at_work(ref))
    after = Storage(tmp_path, storage.pool_id)
    update = after.jobs.get("add")
    assert from_status(update.error).reason == "INTERRUPTED"
    after.volumes.info(ref)
    request.operation.attempt = 2
    *_, update = after.service.AddVolumeKey(request, None)  # type: ignore[arg-type]
    assert update.state == job_pb2.JobUpdate.SUCCEEDED
    after.volumes.info(with_key(ref, new))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or new.passphrase.reveal() not in path.read_bytes()


def _at_work(ref: VolumeRef) -> list[Path]:
    return children_of("qemu-img", ref.volume_id)
