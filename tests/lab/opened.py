"""What is in encrypted files, read with the keys that the control plane has for them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.fleet import Fleet


@contextmanager
def key_file(passphrase: bytes) -> Iterator[int]:
    """A descriptor that a child reads the passphrase from: no name, no argument."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, passphrase)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def content(fleet: Fleet, path: Path) -> bytes:
    """What is in an encrypted qcow2 file, opened with the key that the control plane has for it."""
    raw = fleet.lab.directory / "opened.raw"
    with key_file(fleet.watch.key_of(path.name)) as descriptor:
        subprocess.run(
            [
                *("qemu-img", "convert", "--object", f"secret,id=s,file=/proc/self/fd/{descriptor}"),
                *("--image-opts", f"driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename={path}"),
                *("-O", "raw", raw),
            ],
            check=True,
            pass_fds=[descriptor],
        )
    found = raw.read_bytes()
    raw.unlink()
    return found


def digest(fleet: Fleet, path: Path) -> str:
    """SHA-256 of that."""
    return hashlib.sha256(content(fleet, path)).hexdigest()
