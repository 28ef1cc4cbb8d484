"""Files that lie in a pool become volumes, and get their names back."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.adoption import Adoption
from ostler_agent.volumes.locks import VolumeLocks
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

MIB = 1 << 20
NAME = "old.qcow2"


@dataclass
class Place:
    """A pool with an image in it."""

    adoption: Adoption
    pools: Pools
    pool_id: str
    directory: Path

    def ref(self, format: DiskFormat = DiskFormat.QCOW2, key: Key | None = None) -> VolumeRef:
        return VolumeRef(self.pool_id, str(uuid.uuid4()), format, key)

    def names(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    pools = Pools(tmp_path / "state", POOL_TYPES)
    pool_id = str(uuid.uuid4())
    pools.ensure(PoolSpec(pool_id, "local", str(tmp_path / "pool")))
    made = Place(Adoption(pools, VolumeLocks()), pools, pool_id, tmp_path / "pool")
    image(made.directory / NAME)
    return made


def image(path: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "4M"], check=True)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as error:
        call()
    return error.value.reason


def test_a_file_gets_the_name_of_a_volume_and_its_own_back(place: Place) -> None:
    ref, job = place.ref(), JobContext("adopt")
    before = (place.directory / NAME).read_bytes()
    assert place.adoption.adopt(job, ref, NAME).virtual_size_bytes == 4 * MIB
    assert place.names() == {ref.volume_id}
    assert place.adoption.adopt(job, ref, NAME).virtual_size_bytes == 4 * MIB, "idempotent"
    place.adoption.release(JobContext("release"), ref, NAME)
    place.adoption.release(JobContext("release"), ref, NAME)
    assert place.names() == {NAME}
    assert (place.directory / NAME).read_bytes() == before


def test_an_agent_that_died_between_the_two_names_goes_on_or_back(place: Place) -> None:
    ref, job = place.ref(), JobContext("adopt")
    job.remember(**place.pools.identity_fact(ref, place.directory / NAME))
    os.link(place.directory / NAME, place.directory / ref.volume_id)
    place.adoption.adopt(job, ref, NAME)
    assert place.names() == {ref.volume_id}
    os.link(place.directory / ref.volume_id, place.directory / NAME)
    place.adoption.release(JobContext("release"), ref, NAME)
    assert place.names() == {NAME}


def test_a_file_that_is_open_keeps_its_name_beside_the_volumes(place: Place) -> None:
    ref = place.ref()
    place.adoption.adopt(JobContext("adopt"), ref, NAME, keep_name=True)
    assert place.names() == {NAME, ref.volume_id}
    assert (place.directory / NAME).samefile(place.directory / ref.volume_id)
    place.adoption.release(JobContext("release"), ref, NAME)
    assert place.names() == {NAME}


def test_two_adoptions_of_a_file_make_no_two_volumes_of_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one links the file after this one has inspected it, and before this one links it."""
    link, other = os.link, str(uuid.uuid4())

    def link_after_another(source: Path, target: Path, **options: bool) -> None:
        link(source, place.directory / other)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", link_after_another)
    assert refused(lambda: place.adoption.adopt(JobContext("adopt"), place.ref(), NAME)) == "FILE_LINKED"
    assert place.names() == {NAME, other}


def test_a_file_that_qemu_has_open_is_refused(place: Place) -> None:
    command = ["qemu-io", "-f", "qcow2", str(place.directory / NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as qemu:
        try:
            assert qemu.stdout is not None
            assert qemu.stdout.read(1), "its prompt: it has opened the file"
            assert refused(lambda: place.adoption.adopt(JobContext("x"), place.ref(), NAME)) == "VOLUME_IN_USE"
            assert place.adoption.inspect(place.pool_id, NAME, DiskFormat.QCOW2, None, in_use=True)
        finally:
            qemu.kill()
    assert place.names() == {NAME}


def test_what_is_no_image_of_the_pools_own_is_refused(place: Place, tmp_path: Path) -> None:
    directory = place.directory
    image(directory / "overlay.qcow2", "-b", str(directory / NAME), "-F", "qcow2")
    image(directory / "data.qcow2", "-o", f"data_file={directory}/data.raw")
    (directory / "short.raw").write_bytes(b"x" * 100)
    (directory / "link.qcow2").symlink_to(directory / NAME)
    (directory / "folder.qcow2").mkdir()
    os.mkfifo(directory / "fifo.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", directory / "disk.vmdk", "4M"], check=True)

    def reason(name: str, format: DiskFormat = DiskFormat.QCOW2, key: Key | None = None) -> str:
        return refused(lambda: place.adoption.adopt(JobContext("x"), place.ref(format, key), name))

    assert reason("overlay.qcow2") == "BACKING_FILE"
    assert reason("data.qcow2") == "EXTERNAL_DATA_FILE"
    assert reason("short.raw", DiskFormat.RAW) == "NOT_AN_IMAGE"
    assert reason("link.qcow2") == "FILE_LINKED"
    assert reason("folder.qcow2") == "NOT_AN_IMAGE"
    assert reason("fifo.qcow2") == "NOT_AN_IMAGE"
    assert reason("missing.qcow2") == "FILE_NOT_FOUND"
    assert reason(NAME, DiskFormat.RAW) == "FORMAT_MISMATCH"
    assert reason("disk.vmdk", DiskFormat.RAW) == "FORMAT_MISMATCH"
    assert reason("../pool/old.qcow2") == "INVALID_FIELD"
    assert reason("/etc/passwd") == "INVALID_FIELD"
    assert reason(NAME, key=Key(str(uuid.uuid4()), Secret(b"x"))) == "NOT_ENCRYPTED"
    os.link(directory / NAME, tmp_path / "elsewhere")
    assert reason(NAME) == "FILE_LINKED"


def test_deleting_a_volume_leaves_the_name_that_its_file_had(place: Place) -> None:
    """An adoption that failed half way ends so, and the VM that the file is from needs it."""
    ref = place.ref()
    place.adoption.adopt(JobContext("adopt"), ref, NAME, keep_name=True)
    place.pools.delete(ref)
    assert place.names() == {NAME}


def test_an_encrypted_file_needs_its_passphrase(place: Place) -> None:
    key = Key(str(uuid.uuid4()), Secret(b"open sesame"))
    qemu_img.create(place.directory / "secret.qcow2", DiskFormat.QCOW2, 4 * MIB, key=key)

    def adopt(passphrase: bytes) -> object:
        key = Key(str(uuid.uuid4()), Secret(passphrase)) if passphrase else None
        return place.adoption.adopt(JobContext("x"), place.ref(key=key), "secret.qcow2")

    assert refused(lambda: adopt(b"")) == "ENCRYPTED_IMAGE"
    assert refused(lambda: adopt(b"wrong")) == "WRONG_KEY"
    adopt(b"open sesame")


def test_nothing_is_overwritten(place: Place) -> None:
    ref = place.ref()
    image(place.directory / ref.volume_id)
    assert refused(lambda: place.adoption.adopt(JobContext("x"), ref, NAME)) == "VOLUME_EXISTS"
    assert refused(lambda: place.adoption.release(JobContext("x"), ref, NAME)) == "FILE_EXISTS"
    assert place.names() == {NAME, ref.volume_id}
