"""Join tokens: what a host needs for its first, verified contact with the control plane."""

from __future__ import annotations

import binascii
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from ostler_common.errors import InvalidArgumentError

_PREFIX = "ostler1."


@dataclass(frozen=True, repr=False)
class JoinToken:
    """secret: what the control plane knows the token by; ca_sha256: the fleet CA's fingerprint (hex), so that the host
    knows whom it speaks to; enroll_address: "host:port" of the enrollment port, when the control plane knows it."""

    secret: str
    ca_sha256: str
    enroll_address: str | None = None

    def encode(self) -> str:
        """ "ostler1." and base64url without padding."""
        body = {"secret": self.secret, "ca_sha256": self.ca_sha256}
        if self.enroll_address:
            body["enroll_address"] = self.enroll_address
        return _PREFIX + urlsafe_b64encode(json.dumps(body, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Raises InvalidArgumentError (BAD_TOKEN) when it is not one; the message never holds the token."""
        bad = InvalidArgumentError("not a join token (copy everything that `ostler host token` printed)", "BAD_TOKEN")
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise bad
        encoded = text.removeprefix(_PREFIX)
        try:
            body = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except (binascii.Error, ValueError):
            raise bad from None
        if not isinstance(body, dict):
            raise bad
        secret, digest, address = body.get("secret"), body.get("ca_sha256"), body.get("enroll_address")
        if not isinstance(secret, str) or not secret or not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise bad
        if address is not None and not isinstance(address, str):
            raise bad
        return cls(secret, str(digest), address)
