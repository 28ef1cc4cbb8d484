"""How a VMware server proves who it is: by an authority that the operator names, or by its certificate's thumbprint.

There is no third way: nothing here connects without verification.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, UnavailableError, bad_field

MAX_CA_BYTES = 256 << 10
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


@dataclass(frozen=True)
class Trust:
    """What a server's certificate is verified against. Exactly one is set.

    ca_pem: certificates of authorities; sha256: the server certificate's own digest, 64 lower-case hex digits.
    """

    ca_pem: str = ""
    sha256: str = ""


def trust_ca(pem: str) -> Trust:
    """Trusts the servers that these authorities vouch for. InvalidArgumentError INVALID_CA when it is no PEM."""
    if len(pem) > MAX_CA_BYTES:
        raise bad_field("ca_pem", f"must be at most {MAX_CA_BYTES >> 10} KiB", "INVALID_CA")
    try:
        _context().load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise bad_field("ca_pem", "must hold certificates in PEM form", "INVALID_CA") from None
    return Trust(ca_pem=pem)


def trust_thumbprint(text: str) -> Trust:
    """Trusts one certificate, named by its SHA-256 thumbprint, with or without colons.

    Raises InvalidArgumentError INVALID_THUMBPRINT.
    """
    digits = text.strip().replace(":", "").lower()
    if len(digits) != 64 or not _HEX.fullmatch(digits):
        raise bad_field("thumbprint", "must be a SHA-256 thumbprint: 64 hex digits", "INVALID_THUMBPRINT")
    return Trust(sha256=digits)


def context_for(trust: Trust, host: str, port: int, timeout_s: float) -> ssl.SSLContext:
    """The context for connections to a server.

    Raises FailedPreconditionError VCENTER_UNTRUSTED when it shows another certificate than the pinned one,
    UnavailableError VCENTER_UNREACHABLE.
    """
    if trust.sha256:
        return pinned(host, port, "sha256", trust.sha256, timeout_s)
    context = _context()
    context.load_verify_locations(cadata=trust.ca_pem)
    return context


def pinned(host: str, port: int, algorithm: str, digest: str, timeout_s: float) -> ssl.SSLContext:
    """The context that accepts only the certificate with this digest (hex, colons allowed): errors as `context_for`.

    algorithm: "sha256"; "sha1" only where a verified server names an ESXi host's certificate, for it gives no other.
    """
    certificate = _shown_certificate(host, port, timeout_s)
    shown = hashlib.new(algorithm, certificate).hexdigest()
    if not hmac.compare_digest(shown, digest.replace(":", "").lower()):
        raise FailedPreconditionError(
            f"{host}:{port} shows a certificate with {algorithm.upper()} thumbprint {shown}, which is not the expected"
            " one; if the certificate was renewed, trust the new one (ostler import source update --thumbprint)",
            "VCENTER_UNTRUSTED",
            {"host": host, "thumbprint": shown},
        )
    context = _context()
    # The certificate itself is the name that counts; it is its own anchor, also when an authority signed it.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def shown_sha256(context: ssl.SSLContext, host: str, port: int, timeout_s: float = 10.0) -> str:
    """SHA-256 thumbprint, hex pairs with colons, of the certificate of a server that `context` accepts.

    For tools that want a thumbprint. Raises UnavailableError VCENTER_UNREACHABLE, FailedPreconditionError
    VCENTER_UNTRUSTED.
    """
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        raise FailedPreconditionError(
            f"{host}:{port} is not trusted: {error.verify_message}", "VCENTER_UNTRUSTED", {"host": host}
        ) from None
    except OSError as error:
        raise _unreachable(host, port, error) from None
    return hashlib.sha256(certificate).digest().hex(":").upper()


def _unreachable(host: str, port: int, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"cannot connect to {host}:{port}: {error}; check the address and the network",
        "VCENTER_UNREACHABLE",
        {"host": host},
    )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _shown_certificate(host: str, port: int, timeout_s: float) -> bytes:
    """The certificate (DER) that a server shows. Nothing is sent to it but the handshake, so it need not be trusted."""
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert(binary_form=True)
    except OSError as error:
        raise _unreachable(host, port, error) from None
    if not certificate:
        raise UnavailableError(f"{host}:{port} shows no certificate", "VCENTER_UNREACHABLE", {"host": host})
    return certificate
