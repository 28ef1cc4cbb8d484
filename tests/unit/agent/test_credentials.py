"""HostCredentials on disk: whole sets, whatever happens in between."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ostler_agent.credentials import CredentialsStore, HostCredentials
from ostler_common import pki
from ostler_common.errors import FailedPreconditionError
from ostler_common.identity import Identity, Kind

CA = pki.CertificateAuthority.create("fleet")


def issue(
    host: str = "h1", lifetime: timedelta = timedelta(days=1), ca: pki.CertificateAuthority = CA, kind: Kind = Kind.HOST
) -> HostCredentials:
    key, csr = pki.new_key_and_csr(None)
    qemu_key, qemu_csr = pki.new_key_and_csr(None)
    certificate = ca.sign(csr, Identity(kind, host), lifetime)
    qemu = ca.sign(qemu_csr, Identity(Kind.QEMU, host), lifetime)
    return HostCredentials(certificate, key, qemu, qemu_key, ca.certificate_pem, b"", "control:8440", "h1:8442")


def with_qemu_of(other: HostCredentials) -> HostCredentials:
    return replace(issue(), qemu_certificate_pem=other.qemu_certificate_pem, qemu_key_pem=other.qemu_key_pem)


def same(one: HostCredentials, other: HostCredentials) -> bool:
    return vars(one) == vars(other)


def test_papers_survive(tmp_path: Path) -> None:
    store, credentials = CredentialsStore(tmp_path / "state"), issue()
    store.save(credentials)
    assert same(CredentialsStore(tmp_path / "state").load(), credentials)
    assert credentials.host_id == "h1"
    for name in ("host.pem", "qemu.pem"):
        assert (tmp_path / "state/credentials" / name).stat().st_mode & 0o077 == 0


def test_host_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="ostler host token") as caught:
        CredentialsStore(tmp_path).load()
    assert caught.value.reason == "NOT_JOINED"


@pytest.mark.parametrize("step", ["write_private", "write_public", "replace"])
def test_set_cut_off_in_the_middle_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store, first = CredentialsStore(tmp_path), issue()
    store.save(first)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "replace" else pki, step, die)
        with pytest.raises(KeyboardInterrupt):
            store.save(issue())
    assert same(store.load(), first)
    second = issue()
    store.save(second)
    assert same(store.load(), second)
    assert len(list(tmp_path.iterdir())) == 2  # the set and the link to it


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        (replace(issue(), key_pem=issue().key_pem), "key does not belong"),
        (replace(issue(), ca_pem=pki.CertificateAuthority.create("fleet").certificate_pem), "not signed"),
        (issue(kind=Kind.CONTROL), "not a host's"),
        (replace(issue(), qemu_key_pem=issue().qemu_key_pem), "key does not belong"),
        (with_qemu_of(issue(ca=pki.CertificateAuthority.create("fleet"))), "not signed"),
        (with_qemu_of(issue("h2")), "does not belong to this host's QEMU"),
        (replace(issue(), qemu_certificate_pem=b"", qemu_key_pem=b""), "not usable"),
    ],
)
def test_set_that_does_not_belong_together_is_not_kept(tmp_path: Path, credentials: HostCredentials, said: str) -> None:
    with pytest.raises(FailedPreconditionError, match=said):
        CredentialsStore(tmp_path).save(credentials)
    assert not CredentialsStore(tmp_path).joined


def test_several_authorities_are_fine_while_one_takes_over_from_another(tmp_path: Path) -> None:
    other = pki.CertificateAuthority.create("next")
    store = CredentialsStore(tmp_path)
    store.save(replace(issue(), ca_pem=other.certificate_pem + CA.certificate_pem))
    assert len(pki.split_pem(store.load().ca_pem)) == 2


def test_expiry(tmp_path: Path) -> None:
    credentials = issue(lifetime=timedelta(minutes=1))  # began five minutes ago
    assert credentials.expired()
    CredentialsStore(tmp_path).save(credentials)  # it is still a whole set
    assert not issue().expired()


def test_files_lead_to_the_current_set(tmp_path: Path) -> None:
    store = CredentialsStore(tmp_path)
    store.save(issue())
    version = store.files.version()
    store.save(issue())
    assert store.files.version() != version
    assert os.path.islink(tmp_path / "credentials")
