"""The versions of the key-encryption key: listing them, what is sealed under each, re-sealing passphrases."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.secret import Secret
from peewee import Expression, fn

from ostler_control.database import erase_deleted, session, transaction
from ostler_control.keys.passphrases import HOLDERS, KeyHolder, owner_column
from ostler_control.keys.providers import KeyProvider, Opener, Sealed
from ostler_control.models import (
    BackupFirmwareState,
    BackupTpm,
    FenceDevice,
    ImportDiskPassphrase,
    Kek,
    Passphrase,
    UserData,
    VmFirmwareState,
    VmSnapshotFirmwareState,
    VmTpm,
    VmUserData,
    VolumeFile,
    now,
)
from ostler_control.models.columns import tuples

# Holders of passphrases whose model is named by more than one word, as people read them.
_TYPE_NAMES: dict[type[KeyHolder], str] = {
    VolumeFile: "volume file",
    UserData: "user data",
    VmUserData: "user data of VM",
    VmTpm: "TPM of VM",
    VmFirmwareState: "firmware state of VM",
    VmSnapshotFirmwareState: "firmware state of VM snapshot",
    BackupFirmwareState: "firmware state of backup",
    BackupTpm: "TPM of backup",
    FenceDevice: "fence device of host",
    ImportDiskPassphrase: "import of disk",
}


@dataclass(frozen=True)
class Version:
    """state: current | old | unused (no passphrase was ever sealed under it here). passphrases: how many are sealed
    under it. present: whether this control plane has it. create_time: None for an unused one."""

    id: str
    state: str
    passphrases: int
    present: bool
    create_time: datetime.datetime | None = None


@dataclass(frozen=True)
class Broken:
    """A passphrase that does not open. type, id, name: what it belongs to; a volume file has its volume's name."""

    passphrase_id: str
    type: str
    id: str
    name: str
    kek_id: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """The result of re-sealing a batch. last_id: where the next one starts, "" when this was the last."""

    last_id: str
    resealed: int
    broken: tuple[Broken, ...]


def versions_of(passphrase_ids: Iterable[str | None]) -> dict[str | None, str]:
    """The version that each of these passphrases is sealed under, read in one query."""
    wanted = {passphrase_id for passphrase_id in passphrase_ids if passphrase_id}
    if not wanted:
        return {}
    sealed = Passphrase.select(Passphrase.id, Passphrase.kek).where(Passphrase.id.in_(wanted))
    return dict(tuples(sealed, tuple[str | None, str]))


def versions(provider: KeyProvider) -> list[Version]:
    """All that the database or the provider knows, the newest first; `present`: as they are stored now."""
    try:
        available = provider.stored_versions()
    except FailedPreconditionError as error:
        if not is_lost(error):
            raise
        available = []
    counts = count_passphrases()
    with session():
        rows = list(Kek.select().order_by(Kek.current.desc(), Kek.create_time.desc(), Kek.id))
    known = {row.id for row in rows}
    unused = [Version(kek_id, "unused", 0, True) for kek_id in available if kek_id not in known]
    return unused + [version(row, available, counts) for row in rows]


def is_lost(error: OstlerError) -> bool:
    """Whether a provider's error says that no key is stored any more."""
    return error.reason in ("KEK_MISSING", "KEK_INVALID")


def version(row: Kek, available: Sequence[str], counts: dict[str, int] | None = None) -> Version:
    """A version that the database knows. available: ids of those that this control plane has."""
    counts = count_passphrases() if counts is None else counts
    return Version(
        row.id, "current" if row.current else "old", counts.get(row.id, 0), row.id in available, row.create_time
    )


def count_passphrases() -> dict[str, int]:
    """How many passphrases are sealed under each version; versions without any are left out."""
    with session():
        query = Passphrase.select(Passphrase.kek, fn.COUNT(Passphrase.id)).group_by(Passphrase.kek)
        return dict(tuples(query, tuple[str, int]))


def check_everywhere(provider: KeyProvider, running: Mapping[str, set[str]]) -> None:
    """Checks that all running control planes have the next version, if their keys are in files.

    running: the versions that each has, by its address. Raises FailedPreconditionError KEK_NOT_EVERYWHERE.
    """
    local = provider.local_versions()
    if len(running) < 2 or provider.kind != "file" or not local:
        return
    newest = local[0]
    known = Kek.get_or_none(Kek.id == newest) is not None
    lacking = sorted(name for name, versions_of in running.items() if newest not in versions_of)
    if not known and not lacking:
        return
    action = "run `ostler-control key-add` on one," if known else f"{', '.join(lacking)} did not have {newest}:"
    raise FailedPreconditionError(
        "several control planes are running, and each needs the new version before anything is sealed under it: "
        f"{action} copy the key file to all, then try again after some seconds",
        "KEK_NOT_EVERYWHERE",
        {"replicas": ",".join(lacking)},
    )


def new_version(provider: KeyProvider) -> str:
    """The version to rotate to: the provider's newest if the database does not know it yet, else a new one.

    So a repetition after a crash uses the version that was created, and one that an operator added is used too. It is
    tested: it opens what it sealed.
    Raises OstlerError: KEK_READ_ONLY, or the provider's.
    """
    newest = next(iter(provider.versions()), "")
    with session():
        known = Kek.get_or_none(Kek.id == newest) is not None
    kek_id = provider.add_version() if known or not newest else newest
    provider.prepare(kek_id)
    proof = Secret(b"proof")
    assert provider.open(kek_id, provider.seal(kek_id, proof, b"proof"), b"proof") == proof
    return kek_id


def make_current(kek_id: str, operation_id: str) -> None:
    """Makes every control plane seal passphrases under this version, and claims it for the operation."""
    with transaction():
        if Kek.get_or_none((Kek.id == kek_id) & Kek.current) is not None:
            return
        Kek.update(current=False).where(Kek.current).execute()
        values = {"current": True, "operation_id": operation_id, "create_time": now()}
        if Kek.update(**values).where(Kek.id == kek_id).execute() == 0:
            Kek.create(id=kek_id, name=kek_id, **values)


def reseal(provider: KeyProvider, after_id: str, limit: int) -> Batch:
    """Seals up to `limit` passphrases that follow `after_id` under the current version instead of an old one.

    Each can be opened at every moment, under the version that its row names. Raises OstlerError when the provider
    cannot be asked.
    """
    with session():
        current = Kek.get(Kek.current).id
        query = Passphrase.select().where((Passphrase.kek != current) & (Passphrase.id > after_id))
        rows = list(query.order_by(Passphrase.id).limit(limit))
    if not rows:
        return Batch("", 0, ())
    outcomes = provider.reseal(current, [_sealed(row) for row in rows])
    broken = [(row, found) for row, found in zip(rows, outcomes, strict=True) if isinstance(found, OstlerError)]
    resealed = 0
    with transaction():
        for row, found in zip(rows, outcomes, strict=True):
            if isinstance(found, bytes):
                same = (Passphrase.id == row.id) & (Passphrase.kek == row.kek_id)
                resealed += Passphrase.update(kek=current, sealed=found).where(same).execute()
    return Batch(rows[-1].id, resealed, _broken(broken))


def verify(opener: Opener, limit: int = 500) -> tuple[int, list[Broken]]:
    """Opens every passphrase; returns how many there are, and those that do not open.

    Raises OstlerError when the provider cannot be asked.
    """
    last_id, count = "", 0
    broken: list[Broken] = []
    while True:
        with session():
            query = Passphrase.select().where(Passphrase.id > last_id).order_by(Passphrase.id).limit(limit)
            rows = list(query)
        if not rows:
            return count, broken + _misplaced()
        outcomes = [(row, _opening_error(opener, row)) for row in rows]
        broken += _broken([(row, error) for row, error in outcomes if error])
        count, last_id = count + len(rows), rows[-1].id


def forget(*kek_ids: str) -> None:
    """Deletes versions from the database. Raises FailedPreconditionError: KEY_IN_USE."""
    with transaction():
        for kek_id in kek_ids:
            check_unused(kek_id)
        Kek.delete().where(Kek.id.in_(kek_ids)).execute()  # the foreign key refuses if something was sealed just now
        erase_deleted()  # what was sealed under it


def check_unused(kek_id: str) -> None:
    """Raises FailedPreconditionError KEY_IN_USE while the version is current or anything is sealed under it."""
    count = Passphrase.select().where(Passphrase.kek == kek_id).count()
    if count:
        raise in_use(kek_id, f"{count} passphrase{'s are' if count > 1 else ' is'} sealed under it", count)
    if Kek.get_or_none((Kek.id == kek_id) & Kek.current) is not None:
        raise in_use(kek_id, "new passphrases are sealed under it", 0)


def in_use(kek_id: str, why: str, count: int) -> FailedPreconditionError:
    """The error for a version that is in use."""
    return FailedPreconditionError(
        f"key {kek_id} is in use: {why} (`ostler key rotate` seals passphrases under another)",
        "KEY_IN_USE",
        {"key": kek_id, "passphrases": str(count)},
    )


def _sealed(row: Passphrase) -> Sealed:
    return Sealed(row.kek_id, bytes(row.sealed), row.bound_id.encode())


def _opening_error(opener: Opener, row: Passphrase) -> OstlerError | None:
    try:
        opener.open(row.kek_id, bytes(row.sealed), row.bound_id.encode())
    except OstlerError as error:
        if error.retryable:
            raise
        return error
    return None


def _broken(found: Sequence[tuple[Passphrase, OstlerError]]) -> tuple[Broken, ...]:
    holders = {
        one.passphrase_id: one for one in _holders(lambda model: Passphrase.id.in_([row.id for row, _ in found]))
    }
    return tuple(
        replace(holders.get(row.id, Broken(row.id, "", "", "", row.kek_id, "")), reason=error.reason)
        for row, error in found
    )


def _misplaced() -> list[Broken]:
    """Volumes and others whose passphrase is bound to something else, so that they would not open either."""
    return [replace(one, reason="SEAL_BROKEN") for one in _holders(lambda m: owner_column(m) != Passphrase.bound_id)]


def _holders(condition: Callable[[type[KeyHolder]], Expression]) -> list[Broken]:
    """The rows with a passphrase for which the condition on a model of `HOLDERS` is true."""
    found = []
    with session():
        for model in HOLDERS:
            query = model.select(model, Passphrase).join(Passphrase).where(condition(model))
            for row in query:
                type_name = _TYPE_NAMES.get(model, model.__name__.lower())
                assert row.passphrase is not None
                found.append(Broken(row.passphrase.id, type_name, row.id, row.name, row.passphrase.kek_id, ""))
    return found
