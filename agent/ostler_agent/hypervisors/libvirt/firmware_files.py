"""The files in which libvirt keeps UEFI variables and swtpm the state of TPMs, by the VM's UUID.

swtpm runs as a user of its own, which owns the directory of a TPM's state: nothing there is followed, and a copy is
made beside it and renamed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, ResourceExhaustedError

from ostler_agent.files import fsync_directory
from ostler_agent.spec import MAX_TPM_BYTES, MAX_VARIABLES_BYTES, FirmwareCopy, FirmwareState

# The whole state of a TPM; what else swtpm has beside it is made anew at each start.
_TPM_FILE = "tpm2-00.permall"
_DEFAULT_USER = "tss"
_USER = re.compile(r"^\s*swtpm_user\s*=\s*\"([^\"]+)\"", re.MULTILINE)


@dataclass(frozen=True)
class FirmwareFiles:
    """root: of libvirt's own files; config: qemu.conf, which names the user that swtpm runs as."""

    root: Path = Path("/var/lib/libvirt")
    config: Path = Path("/etc/libvirt/qemu.conf")

    def read(self, vm_id: str) -> FirmwareState:
        """See `FirmwareStates.read_firmware_state`."""
        return FirmwareState(
            _read(self._variables(vm_id), MAX_VARIABLES_BYTES),
            _read(self._tpm(vm_id) / _TPM_FILE, MAX_TPM_BYTES),
        )

    def place(self, vm_id: str, copy: FirmwareCopy) -> None:
        """See `FirmwareStates.place_firmware_state`. The caller holds the VM's lock, and the VM does not run."""
        marker = self._tpm(vm_id).parent / "ostler-copy"
        placed_before = _read(marker, 64) == copy.copy_id.encode()
        replace = copy.replace and not placed_before
        if copy.state.variables and (replace or not self._variables(vm_id).exists()):
            self._place_variables(vm_id, copy.state.variables)
        if copy.state.tpm and (replace or not (self._tpm(vm_id) / _TPM_FILE).exists()):
            self._place_tpm(vm_id, copy.state.tpm)
            _write(marker, copy.copy_id.encode(), 0, 0)

    def delete(self, vm_id: str) -> None:
        """Deletes all that libvirt leaves of a VM that was never defined here. Idempotent."""
        self._variables(vm_id).unlink(missing_ok=True)
        shutil.rmtree(self._tpm(vm_id).parent, ignore_errors=True)

    def _variables(self, vm_id: str) -> Path:
        return self.root / "qemu" / "nvram" / f"{vm_id}_VARS.fd"

    def _tpm(self, vm_id: str) -> Path:
        return self.root / "swtpm" / vm_id / "tpm2"

    def _place_variables(self, vm_id: str, data: bytes) -> None:
        path = self._variables(vm_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = path.parent.stat()  # libvirt gives the file to QEMU when it starts
        part = path.with_name(f".{path.name}.part")
        _write(part, data, owner.st_uid, owner.st_gid)
        part.rename(path)
        fsync_directory(path.parent)

    def _place_tpm(self, vm_id: str, data: bytes) -> None:
        directory = self._tpm(vm_id)
        new, old = (directory.with_name(f".tpm2.{suffix}") for suffix in ("new", "old"))
        user = self._user()
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for parent in (directory.parent.parent, directory.parent):  # libvirt makes them so
            parent.mkdir(parents=True, exist_ok=True)
            parent.chmod(0o711)
        new.mkdir(mode=0o700)
        _write(new / _TPM_FILE, data, user.pw_uid, user.pw_gid)
        os.chown(new, user.pw_uid, user.pw_gid)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
        fsync_directory(directory.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _user(self) -> pwd.struct_passwd:
        """The user that swtpm runs as."""
        text = self.config.read_text() if self.config.exists() else ""
        found = _USER.search(text)
        name = found[1] if found else _DEFAULT_USER
        try:
            return pwd.getpwuid(int(name.removeprefix("+"))) if name.strip("+").isdigit() else pwd.getpwnam(name)
        except KeyError:
            raise FailedPreconditionError(
                f"swtpm is to run as user {name}, which this host lacks (swtpm_user in {self.config})", "TPM_MISSING"
            ) from None


def _read(path: Path, max_bytes: int) -> bytes:
    """b"" for a file that does not exist, and for anything that is not a plain file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b""
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ResourceExhaustedError(
            f"the firmware of a VM keeps more than {max_bytes} bytes in {path}", "FIRMWARE_STATE_SIZE"
        )
    return data


def _write(path: Path, data: bytes, uid: int, gid: int) -> None:
    """A new file for that user only, never through a link that somebody left."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchown(file, uid, gid)
        os.fdatasync(file)
