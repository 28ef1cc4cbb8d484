"""The disks of a conversion: checked, inspected, and copied into the place where their volume is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, bad_field

from ostler_agent.conversion import images
from ostler_agent.conversion.images import SourceImage
from ostler_agent.conversion.staging import check_name, check_staged
from ostler_agent.conversion.uploads import file_sha256
from ostler_agent.jobs import JobContext
from ostler_agent.process import Limits, RunError
from ostler_agent.spec import Key, Provisioning, SourceFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.checks import MAX_SIZE_BYTES, check_passphrase_given, check_size

MAX_DISKS = 64
COPY_LIMITS = Limits(cpu_s=7 * 24 * 3600, memory_bytes=4 << 30)  # what bounds the time is the job's timeout
_KEY = re.compile(r"[\x20-\x7e]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WITH_KEYS = (SourceFormat.QCOW2, SourceFormat.RAW)


@dataclass(frozen=True)
class SourceDisk:
    """A staged image and the volume to make of it; the fields are those of SourceDisk in conversion.proto."""

    key: str
    name: str
    format: SourceFormat
    target: VolumeRef
    source_key: Key | None = None
    sha256: str = ""
    size_bytes: int = 0
    provisioning: Provisioning = Provisioning.THIN


def check_disks(disks: Sequence[SourceDisk]) -> None:
    """Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING)."""
    if not 1 <= len(disks) <= MAX_DISKS:
        raise bad_field("disks", f"must be 1 to {MAX_DISKS}")
    for number, disk in enumerate(disks):
        field = f"disks[{number}]"
        if not _KEY.fullmatch(disk.key):
            raise bad_field(f"{field}.key", "must be 1 to 64 printable ASCII characters")
        check_name(disk.name, f"{field}.name")
        if disk.sha256 and not _SHA256.fullmatch(disk.sha256):
            raise bad_field(f"{field}.sha256", "must be 64 lower-case hex digits")
        if disk.size_bytes:
            check_size(disk.size_bytes)
        if disk.source_key and disk.format not in _WITH_KEYS:
            raise bad_field(f"{field}.source_key", f"cannot open an image of format {disk.format}")
        check_passphrase_given(disk.source_key, f"{field}.source_key")
        check_passphrase_given(disk.target.key, f"{field}.target.key")
    for name, values in (
        ("key", [disk.key for disk in disks]),
        ("name", [disk.name for disk in disks]),
        ("target.volume_id", [disk.target.volume_id for disk in disks]),
    ):
        if len(set(values)) < len(disks):
            raise bad_field("disks", f"must differ in {name}")


def inspect_disk(job: JobContext, directory: Path, disk: SourceDisk) -> SourceImage:
    """What a disk's image is, once its digest is proved.

    Raises FailedPreconditionError (FILE_CORRUPT, NOT_ENCRYPTED, WRONG_KEY), InvalidArgumentError (SOURCE_LARGER,
    KEY_MISSING), NotFoundError (FILE_NOT_FOUND), and what `images.inspect` raises.
    """
    check_staged(directory, disk.name)
    path = directory / disk.name
    # A raw image is what the caller says: its guest may have written what looks like a LUKS header.
    image = images.inspect(path, disk.format, disk.source_key is not None if disk.format is SourceFormat.RAW else None)
    if disk.source_key and not image.encrypted:
        raise FailedPreconditionError(
            f"{disk.name} is not encrypted, but came with a key", "NOT_ENCRYPTED", {"file": disk.name}
        )
    if image.encrypted and not disk.source_key:
        raise bad_field("disks.source_key", f"must be given: {disk.name} is encrypted", "KEY_MISSING")
    if image.virtual_size_bytes > MAX_SIZE_BYTES:
        raise FailedPreconditionError(
            f"{disk.name} claims to hold a disk of {image.virtual_size_bytes} bytes, more than any volume may have",
            "NOT_AN_IMAGE",
            {"file": disk.name},
        )
    if disk.size_bytes and disk.size_bytes < image.virtual_size_bytes:
        raise InvalidArgumentError(
            f"{disk.name} has a disk of {image.virtual_size_bytes} bytes, which does not fit in {disk.size_bytes}",
            "SOURCE_LARGER",
            {"file": disk.name, "size_bytes": str(image.virtual_size_bytes)},
        )
    if disk.sha256 and file_sha256(path, lambda count: job.check()) != disk.sha256:
        raise FailedPreconditionError(
            f"{disk.name} is not what its digest says (export or send it again)", "FILE_CORRUPT", {"file": disk.name}
        )
    return image


def copy_disk(
    job: JobContext,
    directory: Path,
    disk: SourceDisk,
    image: SourceImage,
    target: Path,
    progress: Callable[[float], None],
) -> None:
    """Copies an image that passed `inspect_disk` to where its volume is made, encrypted if the volume has a key.

    progress: is told the percentage of this disk. Raises FailedPreconditionError (DISK_UNREADABLE), and what
    `qemu_img.convert` and `qemu_img.resize` raise.
    """
    ref = disk.target
    try:
        qemu_img.convert(
            directory / disk.name,
            disk.format,
            target,
            ref.format,
            source_key=disk.source_key,
            key=ref.key,
            provisioning=disk.provisioning,
            progress=progress,
            cancel=job,
            limits=COPY_LIMITS,
        )
    except RunError as error:
        raise FailedPreconditionError(
            f"{disk.name} cannot be copied, probably because it is damaged (export it again): {error.stderr.strip()}",
            "DISK_UNREADABLE",
            {"file": disk.name},
        ) from error
    if disk.size_bytes > image.virtual_size_bytes:
        thick = disk.provisioning is Provisioning.THICK
        qemu_img.resize(target, ref.format, disk.size_bytes, key=ref.key, allocate=thick, cancel=job)
