"""Changes the access key with which the control plane reaches a bucket."""

from __future__ import annotations

from dataclasses import replace

from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Pool, StoreBucket
from ostler_control.objects import stores


def set_access_key(pool: Pool, access_key: str, secret_key: Secret, actor: str, keys: Keyring) -> Pool:
    """Changes it once the bucket was tried with it. What hosts send or get meanwhile goes on: URLs that were signed
    with the old key hold until they expire, or until the store forgets that key.

    Raises FailedPreconditionError NO_BUCKET, InvalidArgumentError INVALID_FIELD, and what `Bucket.probe` raises.
    """
    stores.check_key(access_key, secret_key)
    old = stores.bucket_of(pool.id, keys)
    if old is None:
        raise FailedPreconditionError(
            f"store {pool.name} keeps its backups in files, not in a bucket", "NO_BUCKET", {"pool": pool.name}
        )
    new = replace(old, access_key=access_key, secret_key=secret_key)
    new.probe()
    with transaction():
        row = StoreBucket.get(StoreBucket.pool == pool.id)
        old_id = row.passphrase_id
        StoreBucket.update(access_key=access_key, passphrase=keys.store(secret_key, row.id)).where(
            StoreBucket.id == row.id
        ).execute()
        delete_passphrase(old_id)
        events.done("pool.set-access-key", actor, pool)
        return pool
