"""Files of volumes and snapshots against their rows: is it there, is it what the row says, does its key open it?"""

from __future__ import annotations

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents import Agents, HostAddress
from ostler_control.check.findings import RESTORE, Finding, Reason
from ostler_control.check.rows import FileRow
from ostler_control.database import session
from ostler_control.keys import Keyring
from ostler_control.models import BackupDisk, Passphrase, Snapshot, VmSnapshotMemory, Volume
from ostler_control.volumes import wire

_DEADLINE_S = 60.0


def check_file(row: FileRow, host: HostAddress, agents: Agents, keys: Keyring) -> list[Finding]:
    """Asks one host about one file. Raises the OstlerError of a host that could not look at it."""
    name = describe(row)
    ref = wire.plain_ref(row)
    findings: list[Finding] = []
    if row.passphrase_id:
        try:
            ref.key.passphrase = keys.open(row).reveal()
        except OstlerError as error:
            if error.code == "UNAVAILABLE":  # Vault is away: nothing is known
                raise
            findings.append(
                Finding(
                    Reason.SEAL_NOT_OPENED,
                    name,
                    f"its passphrase cannot be unsealed: {error.message}",
                    "ostler-control key-restore BACKUP",
                )
            )
    try:
        info = _ask(ref, host, agents)
    except OstlerError as error:
        if error.reason == "VOLUME_NOT_FOUND":
            noun = _noun(row)
            message = f"host {host.name} has no file of it: put the file back, or give the {noun} up"
            return [
                *findings,
                Finding(Reason.FILE_MISSING, name, message, f"ostler {noun} delete {name.removeprefix(noun).lstrip()}"),
            ]
        if error.reason == "WRONG_KEY":
            return [*findings, _wrong_key(row, ref, host, agents, keys)]
        if error.reason in ("NOT_ENCRYPTED", "NOT_AN_IMAGE", "BACKING_FILE_REFUSED"):
            return [*findings, _header_differs(row, error.message)]
        raise
    expected = (wire.FORMATS[row.format], wire.ENCRYPT_FORMATS["luks" if row.passphrase_id else "none"])
    if (info.format, info.encrypt_format) != expected:
        return [*findings, _header_differs(row, f"host {host.name} finds another format or encryption in its header")]
    if info.virtual_size_bytes > row.size_bytes and isinstance(row, Volume):
        message = f"its file has {info.virtual_size_bytes} bytes, recorded are {row.size_bytes}"
        command = f"ostler volume grow {row.name} {info.virtual_size_bytes}"
        findings.append(Finding(Reason.SIZE_DIFFERS, name, message, command))
    return findings


def _noun(row: FileRow) -> str:
    if isinstance(row, VmSnapshotMemory):
        return "vm snapshot"
    return "backup" if isinstance(row, BackupDisk) else type(row).__name__.lower()


def describe(row: FileRow) -> str:
    """ "volume data-1"."""
    if isinstance(row, VmSnapshotMemory):
        return f"{_noun(row)} {row.vm_snapshot.name}"
    return f"{_noun(row)} {row.backup.name if isinstance(row, BackupDisk) else row.name}"


def _ask(ref: volume_pb2.VolumeRef, host: HostAddress, agents: Agents) -> volume_pb2.VolumeInfo:
    request = agent_pb2.GetVolumeRequest(volume=ref)
    return agents.call(host, lambda agent: agent.volumes.GetVolume, request, _DEADLINE_S)


def _wrong_key(row: FileRow, ref: volume_pb2.VolumeRef, host: HostAddress, agents: Agents, keys: Keyring) -> Finding:
    """Tries every other passphrase that belongs to the same volume: a change of the key may have broken off."""
    bound_id = row.volume_id if isinstance(row, Snapshot) else row.id
    with session():
        others = list(
            Passphrase.select().where((Passphrase.bound_id == bound_id) & (Passphrase.id != row.passphrase_id))
        )
    for other in others:
        try:
            ref.key.passphrase = keys.provider.open(other.kek_id, bytes(other.sealed), bound_id.encode()).reveal()
            _ask(ref, host, agents)
        except OstlerError:
            continue
        return Finding(
            Reason.KEY_OF_ANOTHER_ROW,
            describe(row),
            f"key {other.id} opens it, which the database keeps for another file of the volume: a change of its key "
            "broke off; a start of the control plane ends it",
            "systemctl restart ostler-control",
        )
    return Finding(
        Reason.KEY_UNKNOWN,
        describe(row),
        "no passphrase in the database opens its file: its key was changed after the backup; restore one that was "
        "made after that",
        RESTORE,
    )


def _header_differs(row: FileRow, why: str) -> Finding:
    message = f"{why}: the file was replaced, is damaged, or was changed after the backup"
    return Finding(Reason.HEADER_DIFFERS, describe(row), message, RESTORE)
