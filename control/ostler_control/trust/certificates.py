"""The table of issued certificates: an allow-list. What is not in it, or is revoked or over, opens nothing."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from ostler_common.identity import Identity, Kind

from ostler_control.models import Certificate, now

FLEET, USERS = "fleet", "users"
# Rows of certificates that ended are of no use but to a curious operator.
_KEEP_ENDED = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Issued:
    """A certificate that is good now."""

    ca: str
    identity: Identity


def record(certificate_pem: bytes, ca: str, identity: Identity) -> None:
    """Puts a certificate on the list. Belongs in the transaction that makes or changes its holder."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    Certificate.delete().where(Certificate.expire_time < now() - _KEEP_ENDED).execute()
    Certificate.create(
        serial=_text(certificate.serial_number),
        ca=ca,
        kind=str(identity.kind),
        name=identity.name,
        expire_time=certificate.not_valid_after_utc.replace(tzinfo=None),
    )


def find_good(serial: int) -> Issued | None:
    """The certificate with this serial, or None when it is unknown, revoked or over."""
    row = (
        Certificate.select(Certificate.ca, Certificate.kind, Certificate.name)
        .where(Certificate.serial == _text(serial), Certificate.revoke_time.is_null(), Certificate.expire_time > now())
        .tuples()
        .first()
    )
    return Issued(row[0], Identity(Kind(row[1]), row[2])) if row else None


def revoke(identity: Identity) -> int:
    """Revokes every certificate of a party that is still good; returns how many there were."""
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
    """Revokes every good certificate of a host, its QEMU's too; returns how many there were."""
    return sum(revoke(Identity(kind, host_id)) for kind in (Kind.HOST, Kind.QEMU))


def expire_times(kind: Kind) -> dict[str, datetime.datetime]:
    """When the newest good certificate of each party of a kind ends (UTC, without zone), by name."""
    rows: Any = Certificate.select(Certificate.name, Certificate.expire_time).where(
        Certificate.kind == str(kind), Certificate.revoke_time.is_null(), Certificate.expire_time > now()
    )
    return dict(rows.order_by(Certificate.expire_time).tuples())


def revoked(ca: str) -> list[tuple[int, datetime.datetime]]:
    """Serials that a CA's revocation list has to name, and since when (UTC): revoked and not yet over."""
    rows: Any = Certificate.select(Certificate.serial, Certificate.revoke_time).where(
        Certificate.ca == ca, Certificate.revoke_time.is_null(False), Certificate.expire_time > now()
    )
    return [
        (int(serial, 16), time.replace(tzinfo=datetime.UTC))
        for serial, time in rows.order_by(Certificate.serial).tuples()
    ]


def _text(serial: int) -> str:
    return f"{serial:x}"
