"""A template that a host fetches by itself from an HTTPS server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ostler.control.v1 import setting_pb2, template_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import OstlerError

from tests.fakes.web import Web, serving
from tests.lab.fleet import SECRET, Fleet, fresh, refused
from tests.lab.guest import guest_image

pytestmark = pytest.mark.lab
PRIVATE = "direct.download.allow.private"


def register(web: Web, name: str, sha256: str) -> template_pb2.RegisterTemplateRequest:
    return template_pb2.RegisterTemplateRequest(
        request_id=fresh(),
        name=name,
        url=web.url(),
        format=volume_pb2.DISK_FORMAT_QCOW2,
        sha256=sha256,
        ca_pem=web.ca_pem,
    )


def test_a_vm_boots_from_an_image_that_its_host_fetched(fleet: Fleet, tmp_path: Path) -> None:
    image = guest_image().read_bytes() + os.urandom(1 << 16)  # one that no host has in its cache
    digest = hashlib.sha256(image).hexdigest()
    gateway = fleet.lab.network.gateway
    with serving(tmp_path, gateway, image, listen=gateway) as web:
        wanted = register(web, "fetched", digest)
        assert refused(fleet.api.templates.RegisterTemplate, wanted).reason == "PRIVATE_ADDRESS"
        assert web.asked == []
        fleet.api.settings.UpdateSetting(setting_pb2.UpdateSettingRequest(name=PRIVATE, value="true"))
        try:
            fleet.api.templates.RegisterTemplate(wanted)
            web.breaks = [len(image) // 3]
            fleet.create_vm("web-1", template="fetched")
            looked, *fetched = [wanted for _, wanted, _ in web.asked]
            assert looked == "bytes=0-65535"
            assert len(fetched) == 2, "it broke off once, and went on where it was"
            with fleet.console("web-1") as console:
                console.wait("tick 1", 90)
            fleet.delete_vm("web-1")

            fleet.api.templates.RegisterTemplate(register(web, "changed", "0" * 64))
            with pytest.raises(OstlerError) as failed:
                fleet.create_vm("web-2", SECRET, "changed")
            assert failed.value.reason == "TEMPLATE_CORRUPT"
            for name in ("fetched", "changed"):
                fleet.api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=name))
        finally:
            for host in fleet.lab.hosts:  # they keep it for the next VM; other tests look for what is left
                host.outside(f"/var/lib/ostler/agent/templates/{digest}").unlink(missing_ok=True)
            fleet.api.settings.ResetSetting(setting_pb2.ResetSettingRequest(name=PRIVATE))
