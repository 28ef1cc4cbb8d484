"""Volume encryption, tried with throw-away keys on scratch files by the commands that create volumes."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from pathlib import Path

from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import new_passphrase

from ostler_agent import process
from ostler_agent.capabilities.facts import Probe, attempt
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import cryptsetup, qemu_img

_SIZE_BYTES = 1 << 20
_TIMEOUT_S = 30


def probe(scratch: Path) -> list[Probe]:
    """Probes both programs that encrypt volumes. scratch: a working directory, left unchanged."""
    with tempfile.TemporaryDirectory(prefix="probe.", dir=scratch) as directory:
        return [
            attempt("volume-encryption.qemu-img", lambda: _qemu_img(Path(directory, "image"))),
            attempt("volume-encryption.cryptsetup", lambda: _cryptsetup(Path(directory, "container"))),
        ]


def _qemu_img(image: Path) -> str:
    """Creates an encrypted image and verifies that only its key opens it."""
    key = _new_key()
    qemu_img.create(image, DiskFormat.QCOW2, _SIZE_BYTES, key=key)
    _check_keys(image, DiskFormat.QCOW2, key)
    return _version("qemu-img", r"version (\S+)")


def _cryptsetup(container: Path) -> str:
    """Formats a file as a LUKS container and verifies that QEMU opens it with its key only."""
    key = _new_key()
    container.touch(mode=0o600)
    os.truncate(container, 4 * _SIZE_BYTES)  # the header alone takes 2 MiB
    assert key.passphrase
    cryptsetup.luks_format(container, key.passphrase)
    _check_keys(container, DiskFormat.RAW, key)
    return _version("cryptsetup", r"cryptsetup (\S+)")


def _check_keys(path: Path, disk_format: DiskFormat, key: Key) -> None:
    qemu_img.check_key(path, disk_format, key)
    try:
        qemu_img.check_key(path, disk_format, _new_key())
    except FailedPreconditionError as error:
        if error.reason == "WRONG_KEY":
            return
        raise
    raise FailedPreconditionError("an encrypted image opens with a wrong key", "PROBE_FAILED")


def _new_key() -> Key:
    return Key(str(uuid.uuid4()), new_passphrase())


def _version(program: str, pattern: str) -> str:
    match = re.search(pattern, process.run((program, "--version"), timeout_s=_TIMEOUT_S).stdout)
    return match[1].rstrip(",") if match else ""
