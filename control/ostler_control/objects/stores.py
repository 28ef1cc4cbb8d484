"""The buckets of backup stores as rows, with the secret access key sealed like a passphrase."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ostler.types.v1 import volume_pb2
from ostler_common import object_store
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control.database import session
from ostler_control.keys import Keyring
from ostler_control.models import BackupDisk, Pool, StoreBucket, new_id
from ostler_control.objects.bucket import Bucket

TYPE = "s3"
DEFAULT_REGION = "us-east-1"
MAX_SECRET_BYTES = 256
# A URL holds for this long, and for as long as a slow network needs for what comes before and with it.
_LIFE_S, _SLOW_BYTES_PER_S = 3600, 5_000_000
_ENDPOINT = re.compile(r"https://(\[[0-9a-f:]{2,45}\]|[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)(:[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_ACCESS_KEY = re.compile(r"[A-Za-z0-9._+=@:~-]{1,128}")
_MAX_PREFIX = 200


def check(bucket: Bucket) -> None:
    """Raises InvalidArgumentError: INVALID_FIELD, INVALID_CERTIFICATE."""
    if not _ENDPOINT.fullmatch(bucket.endpoint):
        raise bad_field("s3.endpoint", 'must be like "https://s3.example.org:9000", in lower case and without a path')
    if not _BUCKET.fullmatch(bucket.name):
        raise bad_field("s3.bucket", "must be 3 to 63 of a-z 0-9 . _ -, and begin and end with a letter or digit")
    if bucket.prefix and (len(bucket.prefix) > _MAX_PREFIX or not _PREFIX.fullmatch(bucket.prefix)):
        raise bad_field("s3.prefix", f'must be like "ostler/berlin", at most {_MAX_PREFIX} of A-Z a-z 0-9 . _ - /')
    if not _REGION.fullmatch(bucket.region):
        raise bad_field("s3.region", "must be 1 to 64 of a-z 0-9 -")
    check_key(bucket.access_key, bucket.secret_key, "s3.")
    object_store.trust(bucket.ca_pem.encode())


def check_key(access_key: str, secret_key: Secret, path: str = "") -> None:
    """path: of the message with the two fields, for the error. Raises InvalidArgumentError INVALID_FIELD."""
    if not _ACCESS_KEY.fullmatch(access_key):
        raise bad_field(f"{path}access_key", "must be 1 to 128 letters, digits and . _ + = @ : ~ -")
    secret = secret_key.reveal()
    if not 1 <= len(secret) <= MAX_SECRET_BYTES or not all(0x21 <= byte <= 0x7E for byte in secret):
        problem = f"must be 1 to {MAX_SECRET_BYTES} printable ASCII characters without spaces"
        raise bad_field(f"{path}secret_key", problem)


def create(pool: Pool, bucket: Bucket, keys: Keyring) -> None:
    """Records the bucket of a new store: within the caller's transaction."""
    row_id = new_id()
    StoreBucket.create(
        id=row_id,
        pool=pool,
        endpoint=bucket.endpoint,
        bucket=bucket.name,
        prefix=bucket.prefix,
        region=bucket.region,
        access_key=bucket.access_key,
        ca_pem=bucket.ca_pem,
        passphrase=keys.store(bucket.secret_key, row_id),
    )


def passphrase_of(pool_id: str) -> str | None:
    """Id of the passphrase that is a bucket's secret key; None for a store without a bucket."""
    row = StoreBucket.get_or_none(StoreBucket.pool == pool_id)
    return row.passphrase_id if row is not None else None


def has_bucket(pool_id: str) -> bool:
    """Whether a store keeps its files in a bucket."""
    with session():
        return StoreBucket.select().where(StoreBucket.pool == pool_id).exists()


def bucket_of(pool_id: str, keys: Keyring) -> Bucket | None:
    """A store's bucket with its keys; None for a store of files."""
    with session():
        row = StoreBucket.get_or_none(StoreBucket.pool == pool_id)
    if row is None:
        return None
    return Bucket(row.endpoint, row.bucket, row.prefix, row.region, row.access_key, keys.open(row), row.ca_pem)


def key_of(disk: BackupDisk) -> str:
    """The name of the object that has the file of a backup's disk, without the prefix."""
    return f"{disk.id}.qcow2"


def life_s(size_bytes: int) -> int:
    """How long a URL must hold with which this much is sent or got."""
    return _LIFE_S + size_bytes // _SLOW_BYTES_PER_S


def name_remote(refs: Sequence[volume_pb2.VolumeRef], disks: Sequence[BackupDisk], keys: Keyring) -> None:
    """Adds to what a host is told of complete files where to get them, if that is a bucket.

    refs: one for each disk, only to be sent to an agent; the disks are of one store.
    """
    bucket = bucket_of(disks[0].pool_id, keys)
    if bucket is None:
        return
    held_s = life_s(sum(disk.file_size_bytes for disk in disks))
    for ref, disk in zip(refs, disks, strict=True):
        ref.remote.url = bucket.get_url(key_of(disk), held_s)
        ref.remote.ca_pem = bucket.ca_pem.encode()
        ref.remote.size_bytes, ref.remote.sha256 = disk.file_size_bytes, disk.sha256
