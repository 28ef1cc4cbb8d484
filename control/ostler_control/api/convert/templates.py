"""Templates."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import template_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2

from ostler_control import labels
from ostler_control.api.convert import userdata
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.catalog import driver_details
from ostler_control.hypervisors import rules
from ostler_control.models import Template
from ostler_control.templates import tpms
from ostler_control.userdata import template_link


def templates(rows: Sequence[Template], caller: Caller) -> list[template_pb2.Template]:
    """Members do not see what details tell of the hosts."""
    names = rules.names()
    details = driver_details.of_templates([row.id for row in rows]) if caller.is_admin else {}
    own_labels = labels.of_objects(Template, [row.id for row in rows])
    links = template_link.of_templates(row.id for row in rows)
    with_tpm = tpms.of_templates([row.id for row in rows])
    return [
        template_pb2.Template(
            id=row.id,
            name=row.name,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            virtual_size_bytes=row.virtual_size_bytes,
            file_size_bytes=row.file_size_bytes,
            sha256=row.sha256,
            sha512=row.sha512,
            url=row.url,
            firmware=to_enum(types_vm_pb2.Firmware, "FIRMWARE_", row.firmware),
            create_time=timestamp(row.create_time),
            encrypted=row.passphrase_id is not None,
            hypervisor_type=row.hypervisor_type,
            hypervisor_display_name=names.get(row.hypervisor_type, row.hypervisor_type),
            user_data_name=links[row.id].user_data.name if row.id in links else "",
            user_data_policy=userdata.to_policy(links[row.id].policy if row.id in links else ""),
            details=details.get(row.id, {}),
            labels=own_labels.get(row.id, {}),
            tpm=row.id in with_tpm,
        )
        for row in rows
    ]


def template(row: Template, caller: Caller) -> template_pb2.Template:
    return templates([row], caller)[0]
