"""User data from the command line to a guest: merged, on a CD-ROM, through a live migration, and gone with its VM."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest
from ostler.control.v1 import snapshot_pb2, template_pb2, vm_pb2
from ostler.control.v1 import userdata_pb2 as pb

from tests.cloud_init import cloud_init_process
from tests.lab.fleet import PLAIN, SHARED_POOL, Fleet, fresh
from tests.lab.host import Host

pytestmark = pytest.mark.lab

BASE = b"#!/bin/sh\ntouch /run/template\n"
OWN = b"#cloud-config\nruncmd: [touch /run/vm]\n"


def test_the_parts_of_a_template_and_of_a_vm_take_effect_in_its_guest(fleet: Fleet) -> None:
    documents = fleet.api.user_data
    documents.RegisterUserData(pb.RegisterUserDataRequest(request_id=fresh(), name="base", data=BASE))
    link(fleet, "base")
    try:
        request = vm_pb2.CreateVmRequest(request_id=fresh(), name="seeded", template="tiny", service_offering=PLAIN)
        request.user_data.data, request.pool = OWN, SHARED_POOL
        fleet.do(fleet.api.vms.CreateVm(request))
    finally:
        link(fleet, "")
    documents.DeleteUserData(pb.DeleteUserDataRequest(user_data="base"))
    vm = fleet.vm("seeded")
    source, target = fleet.lab.host(vm.host_name), fleet.other_host("seeded")
    files = seed_on(source, vm.id)
    told = hashlib.sha256(files["user-data"]).hexdigest()
    with fleet.console("seeded") as console:
        console.wait("tick 1", 90)
        console.run("seed", f"SEED={told}")
        online = snapshot_pb2.CreateSnapshotRequest(request_id=fresh(), volume=fleet.root_volume("seeded"), name="live")
        fleet.do(fleet.api.snapshots.CreateSnapshot(online))
        fleet.do(fleet.migrate("seeded", target.name))
        assert image(target, vm.id).stat().st_mode & 0o777 == 0o600
        assert seed_on(target, vm.id) == files
        assert not image(source, vm.id).exists()
        console.run("seed", f"SEED={told}")
    with cloud_init_process() as cloud_init:
        booted = cloud_init.boot(files)
    assert booted["instance_id"] == vm.id
    assert booted["hostname"] == "seeded"
    assert list(booted["scripts"].values()) == [BASE]
    assert booted["config"] == {"runcmd": ["touch /run/vm"]}
    gone = snapshot_pb2.DeleteSnapshotRequest(request_id=fresh(), snapshot="live")
    fleet.do(fleet.api.snapshots.DeleteSnapshot(gone))
    fleet.delete_vm("seeded")
    assert not image(target, vm.id).exists()


def link(fleet: Fleet, user_data: str) -> None:
    policy = pb.USER_DATA_POLICY_APPEND if user_data else pb.USER_DATA_POLICY_UNSPECIFIED
    request = template_pb2.UpdateTemplateRequest(template="tiny", user_data=user_data, user_data_policy=policy)
    fleet.api.templates.UpdateTemplate(request)


def image(host: Host, vm_id: str) -> Path:
    return host.outside(f"/var/lib/ostler/seeds/{vm_id}.iso")


def seed_on(host: Host, vm_id: str) -> dict[str, bytes]:
    """The files that the host's image holds."""
    disc, files = pycdlib.PyCdlib(), {}
    disc.open(str(image(host, vm_id)))
    for name in ("meta-data", "network-config", "user-data", "vendor-data"):
        out = BytesIO()
        disc.get_file_from_iso_fp(out, joliet_path=f"/{name}")
        files[name] = out.getvalue()
    disc.close()
    return files
