"""The versions of the key-encryption key: which there are, what is sealed under each, re-sealing passphrases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.secret import Secret
from peewee import fn

from ostler_control.database import session, transaction
from ostler_control.keys.passphrases import HOLDERS, owner_column
from ostler_control.keys.providers import KeyProvider, Opener, Sealed
from ostler_control.models import Kek, Passphrase, Volume, VolumeFile, now


@dataclass(frozen=True)
class Version:
    """state: current | old | unused (no passphrase was ever sealed under it here). passphrases: how many are sealed
    under it. present: whether this control plane has it."""

    id: str
    state: str
    passphrases: int
    present: bool
    create_time: Any = None


@dataclass(frozen=True)
class Broken:
    """A passphrase that does not open. type, id, name: what it belongs to (a volume, volume file, snapshot, template;
    a volume file has its volume's name)."""

    passphrase_id: str
    type: str
    id: str
    name: str
    kek_id: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """What a batch of re-sealing came to. last_id: where the next one begins, "" when there is none."""

    last_id: str
    resealed: int
    broken: tuple[Broken, ...]


def versions(provider: KeyProvider) -> list[Version]:
    """All that the database or the provider knows, the newest first."""
    has = provider.versions()
    counts = counted()
    with session():
        rows = list(Kek.select().order_by(Kek.current.desc(), Kek.create_time.desc(), Kek.id))
    known = {row.id for row in rows}
    unused = [Version(kek_id, "unused", 0, True) for kek_id in has if kek_id not in known]
    return unused + [version(row, has, counts) for row in rows]


def version(row: Any, has: Sequence[str], counts: dict[str, int] | None = None) -> Version:
    """One that the database knows."""
    counts = counted() if counts is None else counts
    return Version(row.id, "current" if row.current else "old", counts.get(row.id, 0), row.id in has, row.create_time)


def counted() -> dict[str, int]:
    """How many passphrases are sealed under each version; one without any is not there."""
    with session():
        query: Any = Passphrase.select(Passphrase.kek, fn.COUNT(Passphrase.id)).group_by(Passphrase.kek)
        return dict(query.tuples())


def check_everywhere(provider: KeyProvider, living: Mapping[str, set[str]]) -> None:
    """With several living control planes that each have their keys in a file: that the next version is in all of them.

    living: which versions each has. Raises FailedPreconditionError KEK_NOT_EVERYWHERE.
    """
    held = provider.held()
    if len(living) < 2 or provider.kind != "file" or not held:
        return
    newest = held[0]
    known = Kek.get_or_none(Kek.id == newest) is not None
    lacking = sorted(name for name, has in living.items() if newest not in has)
    if not known and not lacking:
        return
    todo = "run `ostler-control key-add` on one and" if known else f"{', '.join(lacking)} did not have {newest}:"
    raise FailedPreconditionError(
        "several control planes run, and each needs the new version before anything is sealed under it: "
        f"{todo} copy the key file to all, then try again some seconds later",
        "KEK_NOT_EVERYWHERE",
        {"replicas": ",".join(lacking)},
    )


def new_version(provider: KeyProvider) -> str:
    """The version that a rotation goes to: the provider's newest if the database does not know it yet, else a new one.

    So a repeat after a crash takes what was made, and a version that an operator has put there is taken. It has been
    proved to open what it seals.
    Raises OstlerError: KEK_READ_ONLY, or what the provider cannot do.
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
    """From now on passphrases are sealed under this version, by every control plane. It is held by the operation."""
    with transaction():
        if Kek.get_or_none((Kek.id == kek_id) & Kek.current) is not None:
            return
        Kek.update(current=False).where(Kek.current).execute()
        values = {"current": True, "operation_id": operation_id, "create_time": now()}
        if Kek.update(**values).where(Kek.id == kek_id).execute() == 0:
            Kek.create(id=kek_id, name=kek_id, **values)


def reseal(provider: KeyProvider, after_id: str, limit: int) -> Batch:
    """Seals up to `limit` passphrases that follow `after_id` under the current version instead of an old one.

    Each of them opens at every moment, under the version that its row names. Raises OstlerError when the provider
    cannot be asked.
    """
    with session():
        current = Kek.get(Kek.current).id
        query = Passphrase.select().where((Passphrase.kek != current) & (Passphrase.id > after_id))
        rows: list[Any] = list(query.order_by(Passphrase.id).limit(limit))
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
    """Opens every passphrase that there is; how many there are, and those that do not open.

    Raises OstlerError when the provider cannot be asked.
    """
    last_id, count = "", 0
    broken: list[Broken] = []
    while True:
        with session():
            query = Passphrase.select().where(Passphrase.id > last_id).order_by(Passphrase.id).limit(limit)
            rows: list[Any] = list(query)
        if not rows:
            return count, broken + _misplaced()
        outcomes = [(row, _why_not(opener, row)) for row in rows]
        broken += _broken([(row, error) for row, error in outcomes if error])
        count, last_id = count + len(rows), rows[-1].id


def forget(*kek_ids: str) -> None:
    """Takes versions out of the database. Raises FailedPreconditionError: KEY_IN_USE."""
    with transaction():
        for kek_id in kek_ids:
            check_unused(kek_id)
        Kek.delete().where(Kek.id.in_(kek_ids)).execute()  # the foreign key refuses what was sealed this moment


def check_unused(kek_id: str) -> None:
    """Raises FailedPreconditionError KEY_IN_USE while the version is current or anything is sealed under it."""
    count = Passphrase.select().where(Passphrase.kek == kek_id).count()
    if count:
        raise in_use(kek_id, f"{count} passphrase{'s are' if count > 1 else ' is'} sealed under it", count)
    if Kek.get_or_none((Kek.id == kek_id) & Kek.current) is not None:
        raise in_use(kek_id, "new passphrases are sealed under it", 0)


def in_use(kek_id: str, why: str, count: int) -> FailedPreconditionError:
    """The error for a version that is needed."""
    return FailedPreconditionError(
        f"key {kek_id} is in use: {why} (`ostler key rotate` seals them under another)",
        "KEY_IN_USE",
        {"key": kek_id, "passphrases": str(count)},
    )


def _sealed(row: Any) -> Sealed:
    return Sealed(row.kek_id, bytes(row.sealed), row.bound_id.encode())


def _why_not(opener: Opener, row: Any) -> OstlerError | None:
    try:
        opener.open(row.kek_id, bytes(row.sealed), row.bound_id.encode())
    except OstlerError as error:
        if error.retryable:
            raise
        return error
    return None


def _broken(found: Sequence[tuple[Any, OstlerError]]) -> tuple[Broken, ...]:
    holders = {one.passphrase_id: one for one in _held(lambda model: Passphrase.id.in_([row.id for row, _ in found]))}
    return tuple(
        replace(holders.get(row.id, Broken(row.id, "", "", "", row.kek_id, "")), reason=error.reason)
        for row, error in found
    )


def _misplaced() -> list[Broken]:
    """Volumes and others whose passphrase is bound to something else: they would not open either."""
    return [replace(one, reason="SEAL_BROKEN") for one in _held(lambda m: owner_column(m) != Passphrase.bound_id)]


def _held(condition: Callable[[Any], Any]) -> list[Broken]:
    """What has a passphrase for which the condition on a model of `HOLDERS` holds."""
    found = []
    with session():
        for model in HOLDERS:
            query = model.select(model, Passphrase).join(Passphrase).where(condition(model))
            for row in query:
                name = getattr(row, "name", None)
                if name is None:
                    volume: Any = Volume.get_or_none(Volume.id == row.volume_id)
                    name = volume.name if volume else ""
                word = "volume file" if model is VolumeFile else model.__name__.lower()
                found.append(Broken(row.passphrase_id, word, row.id, name, row.passphrase.kek_id, ""))
    return found
