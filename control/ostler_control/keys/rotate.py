"""Operations on the key-encryption key: rotating it, deleting a version that nothing needs any more.

Every passphrase can be opened at every moment of a rotation: its row names the version that sealed it, and changes
together with the sealed bytes. Old versions stay until they are deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypedDict

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session
from ostler_control.keys import versions
from ostler_control.keys.passphrases import Keyring
from ostler_control.models import Kek, Operation, Passphrase
from ostler_control.operations import Run, record_operation, replicas, workflow

PASSPHRASES_PER_TRANSACTION = 100
_MAX_NAMED = 10


class _BatchResult(TypedDict):
    """What a step records. broken: owner, KEK version and reason of each passphrase that could not be re-sealed."""

    last_id: str
    resealed: int
    broken: list[list[str]]


@dataclass(frozen=True)
class DeleteInputs:
    """also: ids of the versions that are deleted too."""

    also: tuple[str, ...]


def rotate(keys: Keyring, user: str) -> Operation:
    """Records the rotation to a new version, within the caller's transaction.

    Raises AbortedError RESOURCE_BUSY while another operation works on keys, FailedPreconditionError KEK_NOT_EVERYWHERE.
    """
    versions.check_everywhere(keys.provider, replicas.keys_of_living())
    current = Kek.get_by_id(keys.current())
    others = Kek.select().where(Kek.id != current.id)
    return record_operation("key.rotate", current, user, {}, also=others)


def delete(keys: Keyring, kek: Kek, user: str) -> Operation:
    """Records the deletion of a version and of those that go with it, within the caller's transaction.

    Raises FailedPreconditionError KEY_IN_USE, AbortedError RESOURCE_BUSY.
    """
    others = {row.id: row for row in Kek.select().where(Kek.id != kek.id)}
    also = keys.provider.removed_together(kek.id, list(others))
    for kek_id in (kek.id, *also):
        versions.check_unused(kek_id)
    return record_operation(
        "key.delete", kek, user, DeleteInputs(tuple(also)), also=[others[kek_id] for kek_id in also]
    )


@workflow("key.rotate")
def _rotate(run: Run) -> None:
    provider = run.keys.provider
    kek_id: str = run.step("version", lambda: versions.new_version(provider))
    # No step from here on can be cancelled: that would only leave passphrases under two versions.
    run.always("current", lambda: versions.make_current(kek_id, run.id))
    last_id, batch, done, broken = "", 0, 0, []
    while True:
        batch += 1
        found = run.always(f"reseal-{batch}", partial(_batch, run, last_id, done))
        done += found["resealed"]
        broken += found["broken"]
        last_id = found["last_id"]
        if not last_id:
            break
    if broken:
        raise _incomplete(broken, done)


def _batch(run: Run, after_id: str, done: int) -> _BatchResult:
    run.pause(0)  # another replica may have taken over
    with session():
        left = Passphrase.select().where(Passphrase.kek.not_in(Kek.select(Kek.id).where(Kek.current))).count()
    run.phase(f"re-sealing, {left} passphrase{'' if left == 1 else 's'} left", 99 * done // max(done + left, 1))
    found = versions.reseal(run.keys.provider, after_id, PASSPHRASES_PER_TRANSACTION)
    broken = [[f"{one.type} {one.name or one.id}".strip(), one.kek_id, one.reason] for one in found.broken]
    return {"last_id": found.last_id, "resealed": found.resealed, "broken": broken}


def _incomplete(broken: list[list[str]], done: int) -> FailedPreconditionError:
    names = ", ".join(name for name, _, _ in broken[:_MAX_NAMED]) + (", ..." if len(broken) > _MAX_NAMED else "")
    return FailedPreconditionError(
        f"{done} passphrases were re-sealed; {len(broken)} could not be and are unchanged: those of {names} "
        f"({', '.join(sorted({reason for _, _, reason in broken}))}). `ostler key verify` shows details, and another "
        "`ostler key rotate` retries them",
        "RESEAL_INCOMPLETE",
        {"resealed": str(done), "left": str(len(broken))},
    )


@workflow("key.delete")
def _delete(run: Run) -> None:
    kek_id = run.resource_id
    # The database first: it knows whether the key is in use, and nothing is sealed under a key that it does not list.
    run.step("forget", lambda: versions.forget(kek_id, *run.read(DeleteInputs).also))
    run.always("remove", lambda: run.keys.provider.remove_version(kek_id))
