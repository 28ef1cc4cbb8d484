"""What hosts trust: the fleet CA, without what was revoked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ostler_control.database import session
from ostler_control.trust import certificates
from ostler_control.trust.authority import Authority


@dataclass(frozen=True)
class TrustBundle:
    """Equal bundles revoke the same serials; their lists need not be the same bytes.

    revoked: serials that the list names.
    """

    ca_pem: bytes
    revoked: frozenset[int] = frozenset()
    crl_pem: bytes = field(default=b"", compare=False)


def current(authority: Authority) -> TrustBundle:
    """What hosts are to trust now."""
    with session():
        serials = frozenset(serial for serial, _ in certificates.revoked(certificates.FLEET))
        return TrustBundle(authority.fleet_pem, serials, authority.fleet_crl() if serials else b"")
