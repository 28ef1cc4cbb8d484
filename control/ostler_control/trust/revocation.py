"""What hosts trust: the fleet CA, without what was revoked; and where the control plane is."""

from __future__ import annotations

from dataclasses import dataclass, field

from ostler_control.database import session
from ostler_control.trust import certificates
from ostler_control.trust.authority import Authority


@dataclass(frozen=True)
class TrustBundle:
    """Equal bundles revoke the same serials; their lists need not be the same bytes.

    revoked: serials that the list names; control_address: those of all replicas, separated by commas.
    """

    ca_pem: bytes
    revoked: frozenset[int] = frozenset()
    crl_pem: bytes = field(default=b"", compare=False)
    control_address: str = ""

    @property
    def is_news(self) -> bool:
        """Whether it says more than a host learns when it joins a fleet with one control plane."""
        return bool(self.revoked) or "," in self.control_address


def current(authority: Authority, control_address: str = "") -> TrustBundle:
    """What hosts are to trust now. control_address: of all replicas."""
    with session():
        serials = frozenset(serial for serial, _ in certificates.revoked(certificates.FLEET))
        return TrustBundle(authority.fleet_pem, serials, authority.fleet_crl() if serials else b"", control_address)
