"""A volume's file read as it is in the pool."""

import os
import subprocess

from ostler.agent.v1 import volume_pb2

from tests.host.conftest import Storage, job, need, wire
from tests.host.volumes import MIB, QCOW2, RAW, Images, encrypted, reason


def read(storage: Storage, request: volume_pb2.ReadVolumeRequest) -> bytes:
    return b"".join(answer.data for answer in storage.service.ReadVolume(request, None))  # type: ignore[arg-type]


def test_the_bytes_are_those_of_the_file(storage: Storage, encrypted_images: Images) -> None:
    ref = encrypted(storage, encrypted_images, QCOW2)
    whole = storage.path(ref).read_bytes()
    request = volume_pb2.ReadVolumeRequest(volume=wire(ref))
    answers = list(storage.service.ReadVolume(request, None))  # type: ignore[arg-type]
    assert {answer.file_size_bytes for answer in answers} == {len(whole)}
    assert max(len(answer.data) for answer in answers) == MIB
    assert b"".join(answer.data for answer in answers) == whole
    for offset in (1, MIB + 7, len(whole)):
        request.offset = offset
        assert read(storage, request) == whole[offset:]


def test_what_cannot_be_read(storage: Storage) -> None:
    ref = storage.ref(RAW)
    assert reason(lambda: next(storage.volumes.read(ref))) == "VOLUME_NOT_FOUND"
    storage.volumes.create(job(), ref, MIB)
    for offset in (-1, MIB + 1):
        assert reason(lambda: next(storage.volumes.read(ref, offset))) == "INVALID_FIELD"  # noqa: B023
    storage.guests.volumes[ref.volume_id] = "vm"
    assert reason(lambda: next(storage.volumes.read(ref))) == "VOLUME_IN_USE"
    del storage.guests.volumes[ref.volume_id]
    storage.path(ref).unlink()
    storage.path(ref).symlink_to("/etc/passwd")
    assert reason(lambda: next(storage.volumes.read(ref))) == "NOT_AN_IMAGE"
    storage.path(ref).unlink()
    os.mkfifo(storage.path(ref))
    assert reason(lambda: next(storage.volumes.read(ref))) == "NOT_AN_IMAGE"


def test_nobody_writes_while_it_is_read_and_others_may_read(storage: Storage) -> None:
    need("qemu-io")
    ref = storage.ref(RAW)
    storage.volumes.create(job(), ref, 3 * MIB)
    pieces = storage.volumes.read(ref)
    next(pieces)
    assert reason(lambda: storage.volumes.delete(job(), ref)) == "VOLUME_BUSY"
    write = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(storage.path(ref))]
    assert "Failed to get" in subprocess.run(write, capture_output=True, text=True, check=False).stderr
    again = b"".join(data for _, data in storage.volumes.read(ref))
    assert again == bytes(3 * MIB)
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(storage.path(ref)), str(storage.path(ref))]
    subprocess.run(compare, check=True)
    pieces.close()  # type: ignore[attr-defined]
    assert "wrote 512" in subprocess.run(write, capture_output=True, text=True, check=True).stdout


def test_what_somebody_writes_to_is_not_read(storage: Storage) -> None:
    need("qemu-io")
    ref = storage.ref(RAW)
    storage.volumes.create(job(), ref, MIB)
    held = subprocess.Popen(
        ["qemu-io", "-f", "raw", storage.path(ref)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with held:
        assert held.stdin
        assert held.stdout
        held.stdin.write("read 0 512\n")
        held.stdin.flush()
        assert "read 512/512" in held.stdout.readline()
        assert reason(lambda: next(storage.volumes.read(ref))) == "VOLUME_IN_USE"
        held.communicate("quit\n")
    next(storage.volumes.read(ref))
