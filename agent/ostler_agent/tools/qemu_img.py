"""qemu-img: creates, copies, resizes and opens disk images.

Always names the image driver, so that QEMU never guesses it from a header, and passes a passphrase only as a file
without a name. Callers check headers first (`image_header`), because QEMU opens the files that a header refers to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from ostler_common.errors import FailedPreconditionError, OstlerError, ResourceExhaustedError

from ostler_agent import bitmaps
from ostler_agent.image_header import is_device
from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, Limits, RunError, run
from ostler_agent.spec import DiskFormat, Key, Provisioning, SourceFormat
from ostler_agent.tools import cryptsetup
from ostler_agent.tools.nbd import NbdExport

log = structlog.get_logger(__name__)

OnPercent = Callable[[float], None]
"""Receives the percentage done, 0 to 100."""

_SECRET, _OTHER_SECRET = "key", "other-key"  # ids of the secret objects on the command line

_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")

# QEMU measures its own speed to choose the number of PBKDF rounds. Sometimes it reads 0 from a coarse clock; then the
# next attempt works.
_CALIBRATION = "Unable to get accurate CPU usage"
_CALIBRATION_TRIES = 20

_WRONG_KEY = "cannot unlock any keyslot"
_FAILURES: Sequence[tuple[str, type[OstlerError], str, str]] = (
    ("No space left on device", ResourceExhaustedError, "POOL_FULL", "the pool has no space left for {path}"),
    ("Disk quota exceeded", ResourceExhaustedError, "POOL_FULL", "the pool's quota has no space left for {path}"),
    (_WRONG_KEY, FailedPreconditionError, "WRONG_KEY", "the key does not open {source}"),
    (
        "all keyslots are in use",
        FailedPreconditionError,
        "KEY_SLOTS_FULL",
        "all key slots of {path} are in use",
    ),
    ("lock\n", FailedPreconditionError, "VOLUME_IN_USE", "{source} is in use by another process"),
    ("Image is not in qcow2 format", FailedPreconditionError, "NOT_AN_IMAGE", "{source} is not a qcow2 image"),
    ("Volume is not in LUKS format", FailedPreconditionError, "NOT_AN_IMAGE", "{source} is not a LUKS container"),
)


@dataclass(frozen=True)
class ImageInfo:
    """An image as `qemu-img info` reports it. allocated_bytes: space that its file uses; backing_file: "" for none."""

    format: str
    virtual_size_bytes: int
    allocated_bytes: int
    encrypted: bool
    backing_file: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageInfo:
        return cls(
            format=data["format"],
            virtual_size_bytes=data["virtual-size"],
            allocated_bytes=data.get("actual-size", 0),  # of an NBD export nobody knows
            encrypted=bool(data.get("encrypted")) or data["format"] == "luks",
            backing_file=data.get("backing-filename", ""),
        )


@dataclass(frozen=True)
class Layer:
    """A qcow2 image below another one."""

    path: Path
    key: Key | None


def create(
    path: Path,
    disk_format: DiskFormat,
    size_bytes: int,
    *,
    key: Key | None = None,
    provisioning: Provisioning = Provisioning.THIN,
    cancel: Cancellation | None = None,
) -> None:
    """Creates an empty image of exactly that size as its guest sees it; a raw image on a device has the device's size.

    Raises ResourceExhaustedError (POOL_FULL), RunError.
    """
    if is_device(path) and disk_format is DiskFormat.RAW:
        if key and key.passphrase:
            cryptsetup.luks_format(path, key.passphrase)
        return
    with _Command(path, key) as command:
        driver = _driver(disk_format, key)
        options = _create_options(path, disk_format, key, provisioning)
        command.run_calibrated(
            ["create", "-q", "-f", driver, *command.secret, *options, path, str(size_bytes)], cancel=cancel
        )


def convert(
    source: Path | NbdExport,
    source_format: DiskFormat | SourceFormat,
    target: Path,
    target_format: DiskFormat,
    *,
    source_key: Key | None = None,
    parents: Sequence[Layer] = (),
    key: Key | None = None,
    provisioning: Provisioning = Provisioning.THIN,
    progress: OnPercent | None = None,
    cancel: Cancellation | None = None,
    limits: Limits | None = None,
) -> None:
    """Copies an image that nobody writes to into a new one without backing file. key: the target's.

    parents: images that have what the source lacks, the nearest first; their headers do not refer to each other.
    limits: for a source of unknown origin. Raises ResourceExhaustedError (POOL_FULL), FailedPreconditionError
    (NOT_AN_IMAGE, WRONG_KEY, VOLUME_IN_USE), RunError.
    """
    percent = _PercentReader(progress) if progress else None
    parent_keys = {_parent_secret(number): parent.key for number, parent in enumerate(parents)}
    with _Command(target, key, source, source_key, parent_keys) as command:
        # -m, -W: 16 concurrent, out-of-order requests.
        flags = ["-p", "-m", "16", "-W"]
        chain = [image_opts(source, source_format, source_key, _OTHER_SECRET), *backing_opts(parents, _parent_secret)]
        opened = ["--image-opts", ",".join(chain)]
        if is_device(target) and target_format is DiskFormat.RAW and key and key.passphrase:
            # The same header as in `create`: QEMU's own is shorter, so that the volumes would differ in size.
            cryptsetup.luks_format(target, key.passphrase)
            flags += ["-n", "--target-image-opts"]
            there = [image_opts(target, target_format, key)]
        else:
            flags += ["-O", _driver(target_format, key)]
            there = [*_create_options(target, target_format, key, provisioning), str(target)]
        *options, path = there
        command.run_calibrated(
            ["convert", *flags, *command.secret, *options, *opened, path],
            on_stdout=percent,
            cancel=cancel,
            limits=limits,
        )


def resize(
    path: Path,
    disk_format: DiskFormat,
    size_bytes: int,
    *,
    key: Key | None = None,
    allocate: bool = False,
    cancel: Cancellation | None = None,
) -> None:
    """Grows an unused image. allocate: allocate the new space at once.

    No effect on a raw image on a device, which always has the device's size. Raises ResourceExhaustedError (POOL_FULL),
    FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE), RunError.
    """
    if disk_format is DiskFormat.RAW and is_device(path):
        return
    with _Command(path, key) as command:
        preallocation = f"--preallocation={'falloc' if allocate and not is_device(path) else 'off'}"
        opened = ["--image-opts", image_opts(path, disk_format, key)]
        command.run(["resize", "-q", preallocation, *command.secret, *opened, str(size_bytes)], cancel=cancel)


def drop_broken_bitmaps(path: Path, key: Key | None, cancel: Cancellation | None = None) -> None:
    """Removes our dirty bitmaps that were not saved from an unused qcow2 image: QEMU would refuse to grow it.

    Raises FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE), RunError.
    """
    described = run(
        ["qemu-img", "info", "-U", "--output=json", "--image-opts", image_opts(path, DiskFormat.QCOW2, None)]
    )
    for name in bitmaps.broken_in_file(json.loads(described.stdout)):
        with _Command(path, key) as command:
            opened = ["--image-opts", image_opts(path, DiskFormat.QCOW2, key)]
            command.run(["bitmap", "--remove", *command.secret, *opened, name], cancel=cancel)


def add_key(path: Path, disk_format: DiskFormat, key: Key, new_key: Key, cancel: Cancellation | None = None) -> None:
    """Adds a key to an unused image. key: one that opens it.

    Raises FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE, KEY_SLOTS_FULL), RunError.
    """
    options = {"state": "active", "new-secret": _OTHER_SECRET, "iter-time": str(new_key.iter_time_ms)}
    _amend_keys(path, disk_format, key, new_key, options, cancel)


def remove_key(path: Path, disk_format: DiskFormat, key: Key, old_key: Key, cancel: Cancellation | None = None) -> None:
    """Removes a key from an unused image. key: another one that opens it.

    Raises FailedPreconditionError (WRONG_KEY, VOLUME_IN_USE), RunError.
    """
    _amend_keys(path, disk_format, key, old_key, {"state": "inactive", "old-secret": _OTHER_SECRET}, cancel)


def _amend_keys(
    path: Path, disk_format: DiskFormat, key: Key, other: Key, options: dict[str, str], cancel: Cancellation | None
) -> None:
    prefix = "encrypt." if disk_format is DiskFormat.QCOW2 else ""
    with _Command(path, key, other_key=other) as command:
        what = ",".join(f"{prefix}{name}={value}" for name, value in options.items())
        opened = ["--image-opts", image_opts(path, disk_format, key)]
        command.run_calibrated(["amend", "-q", *command.secret, "-o", what, *opened], cancel=cancel)


def check_key(path: Path, disk_format: DiskFormat, key: Key, limits: Limits | None = None) -> None:
    """Verifies that a key opens an image, also while a VM uses it. limits: for an image of unknown origin.

    Raises FailedPreconditionError (WRONG_KEY, NOT_AN_IMAGE), RunError.
    """
    with _Command(path, key) as command:
        # `info` does not need the key; `map` does, and here reads only the first sector.
        first_sector = ["--start-offset=0", "--max-length=512"]
        opened = ["--image-opts", image_opts(path, disk_format, key)]
        arguments = ["map", "-U", "--output=json", *first_sector, *command.secret, *opened]
        command.run(arguments, limits=limits, expected=(_WRONG_KEY,))


def info(path: Path | NbdExport, disk_format: DiskFormat | SourceFormat) -> ImageInfo:
    """Reads a plain image of unknown origin, with limits on time and memory.

    Raises FailedPreconditionError (NOT_AN_IMAGE).
    """
    command = ["qemu-img", "info", "-U", "--output=json", "--image-opts", image_opts(path, disk_format, None)]
    try:
        return ImageInfo.from_dict(json.loads(run(command, limits=Limits(), timeout_s=60).stdout))
    except RunError as error:
        raise FailedPreconditionError(
            f"cannot read {path.name} as {disk_format}: {error.stderr.strip()}", "NOT_AN_IMAGE"
        ) from error


@contextmanager
def translated(path: Path, source: Path | NbdExport) -> Iterator[None]:
    """Translates what QEMU's programs say when they fail in the block. path: the image that is written."""
    try:
        yield
    except RunError as error:
        for words, kind, reason, message in _FAILURES:
            if words in error.stderr:
                names = {"path": path.name, "source": source.name}
                raise kind(
                    message.format(**names), reason, {"file": names["source" if "{source}" in message else "path"]}
                ) from error
        raise


class _Command:
    """Runs qemu-img on an image, and optionally a source, with up to two keys; translates its failures."""

    def __init__(
        self,
        path: Path,
        key: Key | None,
        source: Path | NbdExport | None = None,
        other_key: Key | None = None,
        more_keys: Mapping[str, Key | None] | None = None,
    ) -> None:
        self._path = path
        self._source = source or path
        self._keys = {_SECRET: key, _OTHER_SECRET: other_key, **(more_keys or {})}
        self._stack = ExitStack()
        self.secret: list[str] = []
        self._fds: list[int] = []

    def __enter__(self) -> _Command:
        for name, key in self._keys.items():
            if key and key.passphrase:
                key_file = self._stack.enter_context(KeyFile(key.passphrase))
                self.secret += ["--object", f"secret,id={name},file={key_file.path}"]
                self._fds.append(key_file.fd)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        on_stdout: Callable[[bytes], None] | None = None,
        cancel: Cancellation | None = None,
        limits: Limits | None = None,
        expected: Collection[str] = (),
    ) -> None:
        with translated(self._path, self._source):
            run(
                ["qemu-img", *arguments],
                pass_fds=self._fds,
                on_stdout=on_stdout,
                cancel=cancel,
                limits=limits,
                expected=expected,
            )

    def run_calibrated(
        self,
        arguments: Sequence[str | Path],
        *,
        on_stdout: Callable[[bytes], None] | None = None,
        cancel: Cancellation | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Runs a command that writes a LUKS header; retries if QEMU could not measure its speed."""
        for left in reversed(range(_CALIBRATION_TRIES)):
            try:
                quiet = (_CALIBRATION,) if left else ()
                self.run(arguments, on_stdout=on_stdout, cancel=cancel, limits=limits, expected=quiet)
                return
            except RunError as error:
                if not left or _CALIBRATION not in error.stderr:
                    raise
                log.debug("qemu-img could not measure its speed; retrying", tries_left=left)


class _PercentReader:
    """Extracts the percentages from the output of `qemu-img -p`, which arrives in arbitrary pieces."""

    def __init__(self, progress: OnPercent) -> None:
        self._progress = progress
        self._rest = b""

    def __call__(self, piece: bytes) -> None:
        self._rest += piece
        found = _PERCENT.findall(self._rest)
        if found:
            self._rest = self._rest[self._rest.rindex(b"%)") + 2 :]
            self._progress(float(found[-1]))


def _driver(disk_format: DiskFormat | SourceFormat, key: Key | None) -> str:
    return "luks" if disk_format == DiskFormat.RAW and key else str(disk_format)


def image_opts(
    path: Path | NbdExport, disk_format: DiskFormat | SourceFormat, key: Key | None, secret: str = _SECRET
) -> str:
    """The --image-opts argument for an image: names the driver, doubles commas. secret: id of the key's object."""
    driver = _driver(disk_format, key)
    options = [f"driver={driver}", path.options if isinstance(path, NbdExport) else _file_options(path)]
    if key:
        options.append(f"key-secret={secret}" if driver == "luks" else f"encrypt.key-secret={secret}")
    return ",".join(options)


def backing_opts(parents: Sequence[Layer], secret_of: Callable[[int], str]) -> list[str]:
    """The options that put images below another one, whatever its header says. secret_of: id of each one's key."""
    options = []
    for number, parent in enumerate(parents):
        prefix = "backing." * (number + 1)
        protocol, filename = _file_options(parent.path).split(",", 1)
        options += [f"{prefix}driver={DiskFormat.QCOW2}", prefix + protocol, prefix + filename]
        if parent.key:
            options += [f"{prefix}encrypt.format=luks", f"{prefix}encrypt.key-secret={secret_of(number)}"]
    return options


def _parent_secret(number: int) -> str:
    return f"parent-key{number}"


def _file_options(path: Path) -> str:
    protocol = "host_device" if is_device(path) else "file"
    return f"file.driver={protocol},file.filename={str(path).replace(',', ',,')}"


def _create_options(path: Path, disk_format: DiskFormat, key: Key | None, provisioning: Provisioning) -> list[str]:
    """The `-o` option for a new image.

    falloc, not full: it allocates the space without writing it. None on a device: QEMU cannot allocate its space, and
    preallocated metadata would expose the device's old content.
    """
    options = []
    if key:
        prefix = "encrypt." if disk_format is DiskFormat.QCOW2 else ""
        options += ["encrypt.format=luks"] if disk_format is DiskFormat.QCOW2 else []
        options += [f"{prefix}key-secret={_SECRET}", f"{prefix}iter-time={key.iter_time_ms}"]
    if provisioning is Provisioning.THICK and not is_device(path):
        options.append("preallocation=falloc")
    elif provisioning is Provisioning.SPARSE and disk_format is DiskFormat.QCOW2 and not is_device(path):
        options.append("preallocation=metadata")
    return ["-o", ",".join(options)] if options else []
