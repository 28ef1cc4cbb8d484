"""A host of a PowerFlex array: the gateway and the SDC are stand-ins, the tools are real."""

from __future__ import annotations

import atexit
import hashlib
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ostler_agent.keyfile import KeyFile
from ostler_agent.pools import Pools, PoolSpec
from ostler_agent.pools.powerflex import PowerFlex
from ostler_agent.spec import DiskFormat, Key, VolumeRef
from ostler_agent.templates import Templates, TemplateSource
from ostler_agent.volumes import Volumes
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.fakes.powerflex import FakeGateway, Sdc
from tests.fakes.runtime import FakeRuntime
from tests.host.conftest import job, new_key

MIB = 1 << 20


NOISE = random.Random(7).randbytes(MIB)


def new_link_directory() -> Path:
    """Below /dev: a device anywhere else is no volume."""
    made = Path(tempfile.mkdtemp(prefix="ostler-links-", dir="/dev/shm"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@dataclass
class Host:
    """An agent's storage on an array."""

    root: Path
    array: FakeGateway
    sdc: Sdc
    pool_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    link_directory: Path = field(default_factory=lambda: new_link_directory())

    def __post_init__(self) -> None:
        self.guests = FakeRuntime()
        self.start()
        self.ensure()

    def start(self) -> None:
        """As an agent's start does: the password is gone."""
        pool_type = PowerFlex(
            devices=self.sdc.by_id,
            links=self.link_directory,
            zeroing_dir=self.root / "zeroing",
            drv_cfg=self._drv_cfg(),
            device_timeout_s=1.0,
            unmap_timeout_s=0.5,
        )
        self.pools = Pools(self.root / "state", [pool_type])
        self.templates = Templates(self.root / "templates", lambda source, offset: iter([NOISE[offset:]]))
        self.volumes = Volumes(self.pools, self.templates, self.guests)

    def _drv_cfg(self) -> Path:
        """The SDC's own tool, which tells who it is."""
        tool = self.root / "drv_cfg"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\necho {self.sdc.guid}\n")
        tool.chmod(0o755)
        return tool

    def ensure(self, password: str = "") -> None:
        spec = PoolSpec(self.pool_id, "powerflex", options=self.array.options())
        self.pools.ensure(spec, Secret((password or self.array.password).encode()))

    def ref(self, disk_format: DiskFormat, key: Key | None = None) -> VolumeRef:
        return VolumeRef(self.pool_id, str(uuid.uuid4()), disk_format, key)

    def made(self, disk_format: DiskFormat, encrypted: bool, size_bytes: int = 64 * MIB) -> VolumeRef:
        """A volume that begins with NOISE."""
        ref = self.ref(disk_format, new_key() if encrypted else None)
        self.volumes.create(job(), ref, size_bytes, template=NOISE_TEMPLATE)
        return ref

    def head(self, ref: VolumeRef, size_bytes: int = MIB) -> bytes:
        """What a guest would read first."""
        with self.pools.hold(ref) as path:
            return read(path, ref, size_bytes, self.root / "read")

    def links(self) -> set[str]:
        return {link.name for link in (self.link_directory / self.pool_id).iterdir()}


NOISE_TEMPLATE = TemplateSource(str(uuid.uuid4()), hashlib.sha256(NOISE).hexdigest(), MIB, DiskFormat.RAW)


def read(path: Path, ref: VolumeRef, size_bytes: int, target: Path) -> bytes:
    driver = {DiskFormat.QCOW2: "qcow2", DiskFormat.RAW: "luks" if ref.key else "raw"}[ref.format]
    opened = f"driver=raw,offset=0,size={size_bytes},file.driver={driver},file.file.driver=host_device"
    opened += f",file.file.filename={path}"
    passphrase = ref.key.passphrase if ref.key else None
    with KeyFile(passphrase or Secret(b"unused")) as key:
        secret = ["--object", f"secret,id=s,file={key.path}"] if passphrase else []
        if passphrase:
            opened += ",file.key-secret=s" if driver == "luks" else ",file.encrypt.key-secret=s"
        command = ["qemu-img", "convert", *secret, "--image-opts", "-O", "raw", opened, str(target)]
        subprocess.run(command, check=True, pass_fds=[key.fd])
    return target.read_bytes()


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as raised:
        call()
    return raised.value.reason
