"""What tests with real tools on this machine share."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_agent.jobs import JobContext, Jobs
from ostler_agent.keyfile import KeyFile
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec
from ostler_agent.services.volumes import VolumeService
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_agent.templates import Templates, TemplateSource
from ostler_agent.volumes import Volumes
from ostler_common.secret import Secret, new_passphrase

from tests.fakes.runtime import FakeRuntime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


def need(*programs: str) -> None:
    """Skips the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@dataclass
class Storage:
    """An agent's storage: one local pool, its volumes, and their service over jobs.

    recover: whether to recover the jobs of an earlier run; False where other services must exist first.
    """

    root: Path
    pool_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    templates: dict[str, bytes] = field(default_factory=dict)
    recover: bool = True

    def __post_init__(self) -> None:
        self.guests = FakeRuntime()
        self.pools = Pools(self.root / "state", POOL_TYPES)
        self.pools.ensure(PoolSpec(self.pool_id, "local", str(self.pool)))
        self.volumes = Volumes(
            self.pools,
            Templates(
                self.root / "templates", lambda source, offset: iter([self.templates[source.template_id][offset:]])
            ),
            self.guests,
        )
        self.jobs = Jobs(self.root / "jobs")
        self.service = VolumeService(self.jobs, self.volumes)
        if self.recover:
            self.jobs.recover()

    def _download(self, template_id: str, offset: int) -> Iterator[bytes]:
        yield self.templates[template_id][offset:]

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    def ref(self, disk_format: DiskFormat, key: Key | None = None) -> VolumeRef:
        return VolumeRef(self.pool_id, str(uuid.uuid4()), disk_format, key)

    def path(self, ref: VolumeRef) -> Path:
        return self.pool / ref.volume_id

    def files(self) -> set[str]:
        """Names in the pool, its mark aside."""
        return {path.name for path in self.pool.iterdir()} - {".ostler-pool"}

    def template(self, data: bytes, disk_format: DiskFormat = DiskFormat.RAW) -> TemplateSource:
        """A template that the control plane would serve."""
        template_id = str(uuid.uuid4())
        self.templates[template_id] = data
        return TemplateSource(template_id, hashlib.sha256(data).hexdigest(), len(data), disk_format)

    def create_request(self, ref: VolumeRef, size_bytes: int, attempt: int = 1) -> agent_pb2.CreateVolumeRequest:
        return agent_pb2.CreateVolumeRequest(
            operation=job_pb2.OperationRef(id=f"create.{ref.volume_id}", attempt=attempt),
            volume=wire(ref),
            size_bytes=size_bytes,
        )


def wire(ref: VolumeRef) -> volume_pb2.VolumeRef:
    message = volume_pb2.VolumeRef(
        pool_id=ref.pool_id,
        volume_id=ref.volume_id,
        format=volume_pb2.DISK_FORMAT_QCOW2 if ref.format is DiskFormat.QCOW2 else volume_pb2.DISK_FORMAT_RAW,
    )
    if ref.key and ref.key.passphrase:
        message.key.key_id = ref.key.key_id
        message.key.passphrase = ref.key.passphrase.reveal()
    return message


def new_key() -> Key:
    return Key(str(uuid.uuid4()), new_passphrase())


def job() -> JobContext:
    return JobContext("test")


def contents(path: Path, ref: VolumeRef, target: Path) -> bytes:
    """What a guest would read from a volume, by a qemu-img of the test's own."""
    driver = {DiskFormat.QCOW2: "qcow2", DiskFormat.RAW: "luks" if ref.key else "raw"}[ref.format]
    opened = f"driver={driver},file.driver=file,file.filename={path}"
    passphrase = ref.key.passphrase if ref.key else None
    with KeyFile(passphrase or Secret(b"unused")) as key:
        secret = []
        if passphrase:
            secret = ["--object", f"secret,id=s,file={key.path}"]
            opened += ",key-secret=s" if driver == "luks" else ",encrypt.key-secret=s"
        subprocess.run(
            ["qemu-img", "convert", *secret, "--image-opts", "-O", "raw", opened, target],
            check=True,
            pass_fds=[key.fd],
        )
    return target.read_bytes()


@pytest.fixture(scope="session")
def encrypted_images(tmp_path_factory: pytest.TempPathFactory) -> dict[DiskFormat, tuple[Key, Path]]:
    """An encrypted volume's file of 1 MiB in each format: copying one is much faster than staging one."""
    need("qemu-img")
    made = Storage(tmp_path_factory.mktemp("encrypted"))
    images = {}
    for disk_format in DiskFormat:
        key = new_key()
        ref = made.ref(disk_format, key)
        made.volumes.create(job(), ref, 1 << 20)
        images[disk_format] = key, made.path(ref)
    return images


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    need("qemu-img")
    made = Storage(tmp_path)
    yield made
    made.jobs.stop(10)
