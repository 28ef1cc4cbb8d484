"""ostler.control.v1.TemplateService."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import template_pb2 as pb
from ostler.control.v1 import template_pb2_grpc
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common.errors import bad_field
from ostler_common.hypervisors import Function

from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import templates as convert_templates
from ostler_control.api.convert import userdata
from ostler_control.api.convert.enums import from_enum, to_enum
from ostler_control.api.export_encryption import export_encryption
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.pieces import data_of, first_header
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.start_operation import start_operation
from ostler_control.caller import Caller
from ostler_control.catalog import driver_details
from ostler_control.database import session, transaction
from ostler_control.hypervisors import rules
from ostler_control.hypervisors.supported import format_not_supported
from ostler_control.keys import Keyring
from ostler_control.models import Snapshot, Template, UserData, Volume
from ostler_control.templates import direct as direct_templates
from ostler_control.templates import store as template_store
from ostler_control.templates import tpms
from ostler_control.templates.received import Announced
from ostler_control.userdata import template_link
from ostler_control.userdata.merging import Policy
from ostler_control.volumes import make_template
from ostler_control.volumes.sources import one_of


class TemplateService(template_pb2_grpc.TemplateServiceServicer):
    """directory: where the files are. An upload lasts, so that handlers open sessions for moments only."""

    def __init__(self, directory: Path, agents: Agents, keys: Keyring) -> None:
        self._directory = directory
        self._agents = agents
        self._keys = keys

    def UploadTemplate(
        self, request_iterator: Iterator[pb.UploadTemplateRequest], context: grpc.ServicerContext
    ) -> pb.Template:
        caller = caller_of(context)
        header = first_header(request_iterator)
        with session():
            driver_details.check_given(header.details)
            wanted, linked = _wanted(header), _link(header, caller)

        def make() -> Template:
            template = template_store.record(upload, caller.actor)
            template_link.link(template, *linked)
            driver_details.add_to_template(template, header.details)
            return template

        if not header.request_id:
            with session():
                if Template.get_or_none(Template.name == wanted.name) is not None:
                    raise template_store.name_taken(wanted.name)
        with template_store.receive(wanted, data_of(request_iterator), self._directory) as upload, session():
            return convert_templates.template(once(Template, caller, header, make), caller)

    def GetTemplate(self, request: pb.GetTemplateRequest, context: grpc.ServicerContext) -> pb.Template:
        with session():
            return convert_templates.template(resolve(Template, request.template, "template"), caller_of(context))

    def ListTemplates(
        self, request: pb.ListTemplatesRequest, context: grpc.ServicerContext
    ) -> pb.ListTemplatesResponse:
        with session():
            found = page(select(visible(Template, None), Template, request.selector), Template, request)
            rows = convert_templates.templates(found.rows, caller_of(context))
            return pb.ListTemplatesResponse(templates=rows, next_page_token=found.next_page_token)

    def DeleteTemplate(
        self, request: pb.DeleteTemplateRequest, context: grpc.ServicerContext
    ) -> pb.DeleteTemplateResponse:
        with session():
            template = resolve(Template, request.template, "template")
            template_store.delete(template, caller_of(context).actor, self._directory)
        return pb.DeleteTemplateResponse()

    def RegisterTemplate(self, request: pb.RegisterTemplateRequest, context: grpc.ServicerContext) -> pb.Template:
        caller = caller_of(context)
        with session():
            driver_details.check_given(request.details)
            wanted, linked = _registered(request), _link(request, caller)

        def make() -> Template:
            template = direct_templates.record(wanted, inspected, caller.actor)
            template_link.link(template, *linked)
            driver_details.add_to_template(template, request.details)
            return template

        with session():
            direct_templates.check(wanted)
            if not request.request_id:
                direct_templates.check_free(wanted.name)
            inspected = direct_templates.inspect(wanted, self._agents)
            if request.validate_only:
                return _would_be(request, wanted, inspected.image.virtual_size_bytes, linked)
            return convert_templates.template(once(Template, caller, request, make), caller)

    def UpdateTemplate(self, request: pb.UpdateTemplateRequest, context: grpc.ServicerContext) -> pb.Template:
        caller = caller_of(context)
        with transaction():  # all of the changes, or none
            template = resolve(Template, request.template, "template")
            mask = request.update_mask if request.update_mask.paths else FieldMask(paths=["user_data"])
            fields = paths(mask, ("user_data", "details", "tpm"))
            if "details" in fields:
                driver_details.replace_of_template(template, dict(request.details), caller.actor)
            if "user_data" in fields:
                template_link.update(template, *_link(request, caller), caller.actor)
            if "tpm" in fields:
                tpms.update(template, request.tpm, caller.actor)
            return convert_templates.template(template, caller)

    def CreateTemplate(self, request: pb.CreateTemplateRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        with session():
            volume = optional(Volume, request.volume, "volume", caller=caller)
            snapshot = optional(Snapshot, request.snapshot, "snapshot", caller=caller)
            wanted = make_template.NewTemplateFromVolume(
                name=request.name,
                firmware=_firmware(request.firmware, "firmware"),
                tpm=request.tpm,
                source=one_of(volume, snapshot),
                encryption=export_encryption(request.encryption),
            )
            return start_operation(caller, request, lambda: make_template.create(wanted, caller.actor, self._keys))


def _would_be(
    request: pb.RegisterTemplateRequest,
    wanted: direct_templates.NewDirectTemplate,
    virtual_size_bytes: int,
    linked: tuple[UserData | None, Policy | None],
) -> pb.Template:
    """The template that a request would have recorded, as far as it is known."""
    user_data, policy = linked
    return pb.Template(
        name=wanted.name,
        url=wanted.url,
        virtual_size_bytes=virtual_size_bytes,
        format=request.format,
        firmware=to_enum(vm_pb2.Firmware, "FIRMWARE_", wanted.firmware),
        tpm=wanted.tpm,
        hypervisor_type=wanted.hypervisor_type,
        hypervisor_display_name=rules.name_of(wanted.hypervisor_type),
        sha256=wanted.sha256,
        sha512=wanted.sha512,
        user_data_name=user_data.name if user_data else "",
        user_data_policy=userdata.to_policy((policy or Policy.ALLOW_OVERRIDE) if user_data else ""),
        details=request.details,
    )


def _link(
    request: pb.UploadTemplateRequest.Header | pb.RegisterTemplateRequest | pb.UpdateTemplateRequest, caller: Caller
) -> tuple[UserData | None, Policy | None]:
    """What the template is to link. Raises InvalidArgumentError, NotFoundError USER_DATA_NOT_FOUND."""
    policy = userdata.policy(request.user_data_policy)
    if policy is not None and not request.user_data:
        raise bad_field("user_data", "is required with a policy: an id or a name", "REQUIRED")
    return optional(UserData, request.user_data, "user_data", caller=caller), policy


def _wanted(header: pb.UploadTemplateRequest.Header) -> template_store.NewTemplate:
    disk_format = from_enum(volume_pb2.DiskFormat, "DISK_FORMAT_", header.format, "header.format")
    return template_store.NewTemplate(
        name=header.name,
        firmware=_firmware(header.firmware, "header.firmware"),
        tpm=header.tpm,
        announced=Announced(
            format=disk_format,
            file_size_bytes=header.file_size_bytes,
            sha256=header.sha256,
        ),
        hypervisor_type=_hypervisor_type(header.hypervisor_type, disk_format, "header.hypervisor_type"),
    )


def _registered(request: pb.RegisterTemplateRequest) -> direct_templates.NewDirectTemplate:
    disk_format = from_enum(volume_pb2.DiskFormat, "DISK_FORMAT_", request.format, "format")
    return direct_templates.NewDirectTemplate(
        name=request.name,
        url=request.url,
        format=disk_format,
        hypervisor_type=_hypervisor_type(request.hypervisor_type, disk_format, "hypervisor_type", direct=True),
        firmware=_firmware(request.firmware, "firmware"),
        tpm=request.tpm,
        sha256=request.sha256.lower(),
        sha512=request.sha512.lower(),
        ca_pem=request.ca_pem.decode("ascii", "replace"),
    )


def _hypervisor_type(name: str, disk_format: str, field: str, *, direct: bool = False) -> str:
    """Raises InvalidArgumentError UNKNOWN_HYPERVISOR_TYPE; FailedPreconditionError HYPERVISOR_NOT_ALLOWED,
    FORMAT_NOT_SUPPORTED, FUNCTION_NOT_SUPPORTED."""
    if not name:
        return ""
    found = rules.find(name, field)
    rules.check_allowed(found.type)
    if found.reported and disk_format not in found.template_formats:
        raise format_not_supported("the file", disk_format, found.display_name)
    if direct:
        rules.need_of_type(Function.DIRECT_DOWNLOAD, found.type)
    return found.type


def _firmware(value: int, field: str) -> str:
    return from_enum(vm_pb2.Firmware, "FIRMWARE_", value, field, default="bios")
