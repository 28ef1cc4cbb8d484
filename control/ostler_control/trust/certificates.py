"""The table of issued certificates: an allow-list, so that one not in it is refused like one revoked or expired."""

from __future__ import annotations

import datetime

from cryptography import x509
from ostler_common.errors import ResourceExhaustedError, UnauthenticatedError
from ostler_common.identity import Identity, Kind
from peewee import ColumnBase

from ostler_control.models import Certificate, now, tuples

FLEET, USERS = "fleet", "users"
MAX_VALID = 100
# How long rows of expired certificates are kept, for operators.
_KEEP_ENDED = datetime.timedelta(days=30)


def record(certificate_pem: bytes, ca: str, identity: Identity) -> None:
    """Records an issued certificate. Call it in the transaction that creates or changes its holder."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    Certificate.delete().where(Certificate.expire_time < now() - _KEEP_ENDED).execute()
    Certificate.create(
        serial=text_of(certificate.serial_number),
        ca=ca,
        kind=str(identity.kind),
        name=identity.name,
        expire_time=certificate.not_valid_after_utc.replace(tzinfo=None),
    )


def good(serial: object, at: object) -> ColumnBase:
    """The condition on `Certificate` that it has this serial, as `text_of` has it, and is good at this time."""
    found: ColumnBase = (Certificate.serial == serial) & Certificate.revoke_time.is_null()
    return found & (Certificate.expire_time > at)


def check_good(serial: int) -> None:
    """Raises UnauthenticatedError CERTIFICATE_REVOKED unless the certificate with this serial is good now.

    A call is authorized when it arrives. Whoever issues a certificate asks again inside the transaction, after it has
    locked the holder's row: else a renewal that began before a revocation would outlive it.
    """
    if not Certificate.select().where(good(text_of(serial), now())).exists():
        raise UnauthenticatedError("the client certificate was revoked during the call", "CERTIFICATE_REVOKED")


def check_few(identity: Identity) -> None:
    """Raises ResourceExhaustedError TOO_MANY_CERTIFICATES when the identity has as many valid ones as it may.

    Renewals leave earlier certificates valid: a holder who renews in a loop would fill the table.
    """
    query = Certificate.select().where(
        Certificate.kind == str(identity.kind),
        Certificate.name == identity.name,
        Certificate.revoke_time.is_null(),
        Certificate.expire_time > now(),
    )
    if query.count() >= MAX_VALID:
        raise ResourceExhaustedError(
            f"there are {MAX_VALID} valid certificates of this {identity.kind}, the most there may be; have an admin "
            "revoke them, and find out who renews them",
            "TOO_MANY_CERTIFICATES",
        )


def revoke(identity: Identity) -> int:
    """Revokes every valid certificate of an identity; returns how many there were."""
    count: int = (
        Certificate.update(revoke_time=now())
        .where(
            Certificate.kind == str(identity.kind),
            Certificate.name == identity.name,
            Certificate.revoke_time.is_null(),
            Certificate.expire_time > now(),
        )
        .execute()
    )
    return count


def revoke_host(host_id: str) -> int:
    """Revokes every valid certificate of a host, its QEMU's too; returns how many there were."""
    return sum(revoke(Identity(kind, host_id)) for kind in (Kind.HOST, Kind.QEMU))


def expire_times(kind: Kind) -> dict[str, datetime.datetime]:
    """When the newest valid certificate of each identity of a kind expires (UTC, without zone), by name."""
    query = Certificate.select(Certificate.name, Certificate.expire_time).where(
        Certificate.kind == str(kind), Certificate.revoke_time.is_null(), Certificate.expire_time > now()
    )
    return dict(tuples(query.order_by(Certificate.expire_time), tuple[str, datetime.datetime]))


def revoked(ca: str) -> list[tuple[int, datetime.datetime]]:
    """Serials that a CA's revocation list has to name, and since when (UTC): revoked and not yet expired."""
    query = Certificate.select(Certificate.serial, Certificate.revoke_time).where(
        Certificate.ca == ca, Certificate.revoke_time.is_null(False), Certificate.expire_time > now()
    )
    rows = tuples(query.order_by(Certificate.serial), tuple[str, datetime.datetime])
    return [(int(serial, 16), time.replace(tzinfo=datetime.UTC)) for serial, time in rows]


def text_of(serial: int) -> str:
    """A serial as the table has it."""
    return f"{serial:x}"
