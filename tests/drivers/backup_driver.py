"""The driver of `process_driver` with backups: what a disk was at a backup is kept beside the VM, and compared with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ostler_agent.hypervisors.base import DiskCopy, Progress
from ostler_agent.spec import Freeze
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from tests.drivers.process_driver import SOUND, ProcessDriver, ProcessHypervisor

INFO = replace(SOUND.info, functions=SOUND.info.functions | {Function.ONLINE_BACKUP, Function.INCREMENTAL_BACKUP})
BLOCK = 64 << 10
NOT_FROZEN = Freeze(False, "the VM has no guest")


class BackupHypervisor(ProcessHypervisor):
    """`base.IncrementalBackup` for raw files that nobody writes meanwhile."""

    def copy_disks(self, vm_id: str, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        for copy in copies:
            shutil.copyfile(self.source(vm_id, copy), copy.path)
        return NOT_FROZEN

    def end_copies(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        pass

    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        reasons = {}
        for copy in copies:
            now = self.source(vm_id, copy).read_bytes()
            record = self.record(vm_id, copy, copy.since)
            then = record.read_bytes() if copy.since and record.exists() else None
            reasons[copy.volume_id] = "" if then is not None else "there is no record"
            self.write_copy(copy.path, now, then)
            for old in record.parent.glob(f"{copy.volume_id}.*"):
                if old != record:
                    old.unlink()
            self.record(vm_id, copy, backup_id).write_bytes(now)
        return NOT_FROZEN, reasons

    def source(self, vm_id: str, copy: DiskCopy) -> Path:
        self.need(vm_id)
        definition = self.read(vm_id)
        if definition is None or not self.running(vm_id):
            raise FailedPreconditionError(f"VM {vm_id} is not running", "VM_NOT_RUNNING")
        return Path(definition.paths[definition.volume_ids.index(copy.volume_id)])

    def record(self, vm_id: str, copy: DiskCopy, backup_id: str) -> Path:
        return self.directory(vm_id) / f"{copy.volume_id}.{backup_id}"

    # -- the piece that broken drivers replace

    def write_copy(self, path: Path, now: bytes, then: bytes | None) -> None:
        """then: what the disk was at the backup to build on, None for a full copy."""
        path.write_bytes(now if then is None else b"".join(_changed(now, then)))


def _changed(now: bytes, then: bytes) -> list[bytes]:
    blocks = [(now[place : place + BLOCK], then[place : place + BLOCK]) for place in range(0, len(now), BLOCK)]
    return [block if block != old else bytes(len(block)) for block, old in blocks]


class CopiesAll(BackupHypervisor):
    """Calls everything an increment."""

    def write_copy(self, path: Path, now: bytes, then: bytes | None) -> None:
        path.write_bytes(now)


class LosesWrites(BackupHypervisor):
    """An increment is empty."""

    def write_copy(self, path: Path, now: bytes, then: bytes | None) -> None:
        path.write_bytes(now if then is None else bytes(len(now)))


class KeepsNoRecord(BackupHypervisor):
    """Every backup is a full one."""

    def record(self, vm_id: str, copy: DiskCopy, backup_id: str) -> Path:
        return super().record(vm_id, copy, "none" if backup_id == copy.since else backup_id)


class BuildsOnAny(BackupHypervisor):
    """Takes another record for that of a backup of which it has none."""

    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        found = [replace(copy, since=self.nearest(vm_id, copy)) for copy in copies]
        return super().copy_increments(vm_id, found, backup_id, progress)

    def nearest(self, vm_id: str, copy: DiskCopy) -> str:
        others = [path.suffix[1:] for path in self.directory(vm_id).glob(f"{copy.volume_id}.*")]
        return copy.since if not others or copy.since in ("", *others) else others[0]


class TellsNoReason(BackupHypervisor):
    def copy_increments(
        self, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
    ) -> tuple[Freeze, Mapping[str, str]]:
        freeze, reasons = super().copy_increments(vm_id, copies, backup_id, progress)
        return freeze, dict.fromkeys(reasons, "")


SOUND_BACKUP = ProcessDriver(BackupHypervisor, INFO)
__all__ = ["INFO", "SOUND_BACKUP"]
