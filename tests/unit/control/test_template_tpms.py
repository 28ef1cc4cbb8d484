"""Whether a template gives its VMs a TPM can be changed."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import template_pb2 as pb
from ostler_common.errors import InvalidArgumentError, NotFoundError
from ostler_control.api.templates import TemplateService
from ostler_control.models import Event, Template, TemplateDetail
from ostler_control.operations import Engine
from ostler_control.templates import tpms

from tests.sites import Site
from tests.unit.control.calls import context


def test_it_is_changed_and_recorded_and_nothing_else_is(site: Site, engine: Engine) -> None:
    service = TemplateService(site.state_dir / "templates", engine.agents, site.keys)
    template = Template.get(Template.name == "tiny")

    def update(tpm: bool, *fields: str) -> pb.Template:
        request = pb.UpdateTemplateRequest(template="tiny", tpm=tpm, update_mask=FieldMask(paths=fields))
        return service.UpdateTemplate(request, context(site.admin()))

    for tpm in (True, True, False, False):
        assert update(tpm, "tpm").tpm is tpm
        assert tpms.of_templates([template.id]) == ({template.id} if tpm else set())
    events = Event.select().where((Event.resource_id == template.id) & (Event.type == "template.update"))
    assert events.count() == 4
    assert {event.actor for event in events} == {site.admin().actor}
    assert not update(True).tpm, "without a mask, it is the user data that is changed"
    with pytest.raises(InvalidArgumentError):
        update(True, "firmware")


def test_changes_that_cannot_all_be_made_change_nothing(site: Site, engine: Engine) -> None:
    service = TemplateService(site.state_dir / "templates", engine.agents, site.keys)
    template = Template.get(Template.name == "tiny")
    request = pb.UpdateTemplateRequest(
        template="tiny",
        details={"driver.kernel": "/vmlinux"},
        user_data="nobody-has-it",
        update_mask=FieldMask(paths=["details", "user_data"]),
    )
    with pytest.raises(NotFoundError):
        service.UpdateTemplate(request, context(site.admin()))
    assert TemplateDetail.select().where(TemplateDetail.template == template.id).count() == 0
