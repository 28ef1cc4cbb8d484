"""`ostler import`."""

from __future__ import annotations

import json
from pathlib import Path

from ostler.control.v1 import import_pb2 as pb

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler
from tests.unit.cli.import_calls import asked

ADD = ("import", "source", "add", "vmware", "vc1", "--vcenter", "vc.example.org", "--username", "import")
VM = ("vc1", "web 1", "--offering", "medium")


def test_a_source_is_added_with_its_password_from_a_file(control: Control, ostler: Ostler) -> None:
    done = ostler(*ADD, "--thumbprint", "ab" * 32, "--password-file", "-", input="vc-secret\nmore\n")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.CreateImportSourceRequest)
    assert (request.name, request.type, request.address, request.username) == (
        "vc1",
        "vmware",
        "vc.example.org",
        "import",
    )
    assert (request.password, request.thumbprint) == (b"vc-secret", "ab" * 32)
    assert "vc-secret" not in done.output


def test_a_source_is_verified_in_exactly_one_way(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    for trust in ((), ("--ca-file", str(ca), "--thumbprint", "ab" * 32)):
        refused = ostler(*ADD, *trust, "--password-file", "-", input="vc-secret\n")
        assert refused.exit_code == 2
        assert "exactly one" in refused.output
    assert not control.asked
    assert ostler(*ADD, "--ca-file", str(ca), "--password-file", "-", input="s\n").exit_code == 0
    assert asked(control, pb.CreateImportSourceRequest).ca_pem == ca.read_text()


def test_a_source_is_updated(control: Control, ostler: Ostler) -> None:
    update = ("import", "source", "update", "vc1")
    assert ostler(*update).exit_code == 2
    done = ostler(*update, "--thumbprint", "ab" * 32, "--password-file", "-", input="new-secret\n")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.UpdateImportSourceRequest)
    assert (request.source, request.password, request.thumbprint) == ("vc1", b"new-secret", "ab" * 32)
    assert "new-secret" not in done.output


def test_nobody_is_there_to_type_the_password(control: Control, ostler: Ostler) -> None:
    refused = ostler(*ADD, "--thumbprint", "ab" * 32)
    assert refused.exit_code == 2
    assert "--password-file" in refused.output
    assert not control.asked


def test_the_vms_of_a_source_are_listed(control: Control, ostler: Ostler) -> None:
    done = ostler("import", "list-vms", "vc1", "--power", "off", "--name", "web")
    assert done.exit_code == 0, done.output
    assert "web 1" in done.output
    assert "vm-7" in done.output
    request = asked(control, pb.ListSourceVmsRequest)
    assert (request.source, request.name_contains, request.power) == ("vc1", "web", pb.SourceVm.OFF)


def test_a_check_tells_every_finding_and_fails_on_a_no_go(control: Control, ostler: Ostler) -> None:
    refused = ostler("import", "check", *VM)
    assert refused.exit_code == 1
    assert refused.output.splitlines() == [
        "ERROR    NIC_NOT_MAPPED: Network adapter 1 is mapped to no network",
        "         Add --network.",
        "WARNING  SNAPSHOTS: it has snapshots",
        "no-go: fix the errors first",
    ]
    go = ostler("import", "check", *VM, "--network", "a=b=br0")
    assert go.exit_code == 0, go.output
    assert "go: conversion on host h1, files in pool nfs1" in go.output
    assert "the control plane; it may take about 10 min" in go.output
    assert dict(asked(control, pb.CheckImportRequest).spec.networks) == {"a=b": "br0"}
    as_json = json.loads(ostler("import", "check", *VM, "-o", "json").output)
    assert [finding["code"] for finding in as_json["findings"]] == ["SNAPSHOTS", "NIC_NOT_MAPPED"]


def test_a_vm_is_imported(control: Control, ostler: Ostler) -> None:
    options = ("--network", "VM Network=br0", "--pool", "fast", "--shutdown", "--stopped", "--force-control-download")
    done = ostler("import", "vm", *VM, *options, "--no-wait")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.ImportVmRequest)
    spec = request.spec
    assert (spec.source, spec.source_vm, spec.service_offering, spec.pool) == ("vc1", "web 1", "medium", "fast")
    assert (spec.shutdown, spec.stopped, spec.force_control_download) == (True, True, True)
    assert request.request_id


def test_a_disk_may_be_other_than_the_rest(control: Control, ostler: Ostler) -> None:
    disks = ("--disk", "2000,pool=fast", "--disk", "2001,offering=secret,pool=slow")
    assert ostler("import", "vm", *VM, *disks, "--test-boot", "--no-wait").exit_code == 0
    spec = asked(control, pb.ImportVmRequest).spec
    assert [(disk.key, disk.disk_offering, disk.pool) for disk in spec.disks] == [
        (2000, "", "fast"),
        (2001, "secret", "slow"),
    ]
    assert spec.test_boot
    for bad in ("x,pool=fast", "2000", "2000,size=5"):
        assert ostler("import", "vm", *VM, "--disk", bad).exit_code == 2


def test_a_network_needs_its_bridge(control: Control, ostler: Ostler) -> None:
    for network in ("VM Network", "=br0", "VM Network="):
        assert ostler("import", "vm", *VM, "--network", network).exit_code == 2
    assert not control.asked


def test_a_vm_is_imported_warm_and_cut_over(control: Control, ostler: Ostler) -> None:
    done = ostler("import", "vm", *VM, "--warm", "--cut-over", "auto", "--no-wait")
    assert done.exit_code == 0, done.output
    spec = asked(control, pb.ImportVmRequest).spec
    assert (spec.warm, spec.cut_over) == (True, pb.AUTO)
    done = ostler("import", "cut-over", "web-1", "--yes")
    assert (done.exit_code, asked(control, pb.CutOverImportRequest).vm) == (0, "web-1")


ADD_KVM = ("import", "source", "add", "kvm", "old1")


def test_a_kvm_host_is_added_with_its_key_and_a_private_key_from_standard_input(
    control: Control, ostler: Ostler, tmp_path: Path
) -> None:
    key = tmp_path / "host.pub"
    key.write_text("ssh-ed25519 AAAA root@old1\n")
    for address, name in (("old1.example.org", "old1.example.org"), ("[fd00::5]:2222", "[fd00::5]:2222")):
        arguments = (*ADD_KVM, "--host", address, "--host-key", str(key), "--private-key-file", "-")
        done = ostler(*arguments, input="PRIVATE\nKEY\n")
        assert done.exit_code == 0, done.output
        request = asked(control, pb.CreateImportSourceRequest)
        assert (request.type, request.address, request.username) == ("kvm", address, "root")
        assert request.known_hosts == f"{name} ssh-ed25519 AAAA\n"
        assert request.private_key == b"PRIVATE\nKEY\n"
        assert "PRIVATE" not in done.output


def test_a_kvm_host_needs_a_known_host_key(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("old1 ssh-ed25519 AAAA\n")
    key = ("--private-key-file", "-")
    refused = ostler(*ADD_KVM, "--host", "old1", *key, input="K\n")
    assert refused.exit_code == 2
    assert "exactly one" in refused.output
    assert not control.asked
    assert ostler(*ADD_KVM, "--host", "old1", "--known-hosts", str(known_hosts), *key, input="K\n").exit_code == 0
    assert asked(control, pb.CreateImportSourceRequest).known_hosts == known_hosts.read_text()


def test_a_kvm_host_is_added_with_certificates(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    ca, certificate = tmp_path / "ca.pem", tmp_path / "cert.pem"
    ca.write_text("the CA")
    certificate.write_text("the certificate")
    files = ("--ca-file", str(ca), "--client-cert-file", str(certificate), "--private-key-file", "-")
    done = ostler(*ADD_KVM, "--host", "old1", *files, input="K\n")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.CreateImportSourceRequest)
    assert (request.username, request.ca_pem, request.client_certificate) == ("", "the CA", "the certificate")
    for wrong in (files[2:], files[:2] + files[4:], (*files, "--username", "ada"), (*files, "--known-hosts", str(ca))):
        refused = ostler(*ADD_KVM, "--host", "old1", *wrong, input="K\n")
        assert refused.exit_code == 2, refused.output


def test_a_vm_of_a_kvm_host_is_imported_with_passphrases(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    passphrase = tmp_path / "vault.txt"
    passphrase.write_text("sesame\n")
    arguments = ("old1", "vault", "--offering", "medium", "--network", "default=public", "--no-wait")
    disks = ("--disk", "2,pool=nfs1", "--passphrase-file", f"1={passphrase}", "--passphrase-file", f"2={passphrase}")
    done = ostler("import", "kvm", *arguments, *disks)
    assert done.exit_code == 0, done.output
    found = asked(control, pb.ImportVmRequest).spec
    assert (found.source, found.source_vm, dict(found.networks)) == ("old1", "vault", {"default": "public"})
    assert sorted((disk.key, disk.pool, disk.passphrase) for disk in found.disks) == [
        (1, "", b"sesame"),
        (2, "nfs1", b"sesame"),
    ]
    assert "sesame" not in done.output
    assert ostler("import", "kvm", *arguments, "--passphrase-file", "x").exit_code == 2
