"""Certificates, revocation lists and files that change whole."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ostler_common import pki
from ostler_common.identity import Identity, Kind

HOST = Identity(Kind.HOST, "h1")
CA = pki.CertificateAuthority.create("test")


def issue(identity: Identity, lifetime: timedelta = timedelta(days=3), addresses: tuple[str, ...] = ()) -> bytes:
    return CA.sign(pki.new_key_and_csr(identity)[1], identity, lifetime, addresses)


def test_host_certificate_names_what_libvirt_and_grpc_check() -> None:
    certificate = x509.load_pem_x509_certificate(issue(HOST, addresses=("10.0.0.1", "kvm1.example", "10.0.0.1")))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["h1.host.ostler.internal", "kvm1.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "Ostler hosts"
    pki.check_issued(issue(HOST), CA.certificate_pem)


def test_qemus_certificate_serves_under_a_name_of_its_own() -> None:
    """Neither libvirt nor a gRPC client of ours ever asks for that name, so its holder can pose as none of them."""
    certificate = x509.load_pem_x509_certificate(issue(Identity(Kind.QEMU, "h1")))
    assert certificate.subject.rfc4514_string() == "CN=h1,O=Ostler qemu"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["ostler://qemu/h1", "h1.qemu.ostler.internal"]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


@pytest.mark.parametrize("name", ["control.ostler.internal", "Control.OSTLER.internal", "h2.host.ostler.internal"])
def test_host_cannot_be_named_as_another_party(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the address"):
        issue(HOST, addresses=("10.0.0.1", name))


def test_user_certificate_cannot_serve() -> None:
    certificate = x509.load_pem_x509_certificate(issue(Identity(Kind.USER, "ann")))
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("kind", list(Kind))
def test_identity_survives(kind: Kind) -> None:
    identity = Identity(kind, "some-name")
    assert pki.identity_and_serial(issue(identity))[0] == identity


def test_csr_decides_nothing_but_the_key() -> None:
    _, csr = pki.new_key_and_csr(Identity(Kind.CONTROL, "wishes-to-be-control"))
    assert pki.identity_and_serial(CA.sign(csr, HOST, timedelta(days=1)))[0] == HOST


def test_other_keys_than_p256_are_not_signed() -> None:
    key = rsa.generate_private_key(65537, 2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(ValueError, match="P-256"):
        CA.sign(csr.public_bytes(serialization.Encoding.PEM), HOST, timedelta(days=1))


def test_two_identities_are_none() -> None:
    _, csr = pki.new_key_and_csr(HOST)
    names = [x509.UniformResourceIdentifier(f"ostler://{name}") for name in ("host/h1", "control/c1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(CA.certificate.subject)
        .public_key(x509.load_pem_x509_csr(csr).public_key())
        .serial_number(7)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(CA.key, hashes.SHA256())
    )
    assert pki.identity_and_serial(certificate.public_bytes(serialization.Encoding.PEM)) == (None, 7)


def test_renewal_is_due_when_a_third_is_left() -> None:
    certificate = issue(HOST, timedelta(hours=3))
    assert pki.expires(certificate) - pki.renew_at(certificate) == timedelta(hours=1)


def test_check_issued_refuses_another_ca_and_another_time() -> None:
    certificate = issue(HOST, timedelta(days=1))
    with pytest.raises(ValueError, match="not signed"):
        pki.check_issued(certificate, pki.CertificateAuthority.create("test").certificate_pem)
    with pytest.raises(ValueError, match="not valid now"):
        pki.check_issued(certificate, CA.certificate_pem, datetime.now(UTC) + timedelta(days=2))


def test_crl_names_the_revoked() -> None:
    serial = pki.identity_and_serial(issue(HOST))[1]
    assert serial is not None
    assert pki.revoked_serials(CA.crl([(serial, datetime.now(UTC))], 1)) == {serial}
    assert pki.revoked_serials(b"") == frozenset()


def test_authority_is_loaded_only_with_its_own_key() -> None:
    assert pki.CertificateAuthority.load(CA.certificate_pem, CA.key_pem).certificate == CA.certificate
    with pytest.raises(ValueError, match="does not belong"):
        pki.CertificateAuthority.load(CA.certificate_pem, pki.CertificateAuthority.create("x").key_pem)


def test_private_file_is_replaced_whole_and_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    old_umask = os.umask(0)
    try:
        pki.write_private(path, b"old")
        pki.write_private(path, b"new")
    finally:
        os.umask(old_umask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_bundle_is_split_into_certificates_without_keys() -> None:
    key, csr = pki.new_key_and_csr(HOST)
    certificate = CA.sign(csr, HOST, timedelta(days=1))
    assert pki.split_pem(certificate + key + CA.certificate_pem) == [certificate, CA.certificate_pem]
