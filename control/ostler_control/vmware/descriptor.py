"""The OVF descriptor of an exported VM, as the server writes it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from ostler_common.errors import FailedPreconditionError
from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.errors import fault_text

log = structlog.get_logger(__name__)

MAX_DESCRIPTOR_BYTES = 2 << 20


def read_descriptor(connection: Connection, ref: str, name: str, files: Sequence[tuple[str, str, int]]) -> bytes:
    """Has the server describe a VM while its lease lasts. name: the VM's, for a clone has another one; files: device
    id, file name and size of each exported disk.

    Raises FailedPreconditionError OVF_REFUSED.
    """
    manager = connection.content.ovfManager
    if manager is None:
        raise FailedPreconditionError(f"{connection.server.name} writes no OVF descriptors", "OVF_REFUSED")
    what = vim.OvfManager.CreateDescriptorParams(
        name=name,
        ovfFiles=[
            vim.OvfManager.OvfFile(deviceId=device_id, path=path, size=size_bytes)
            for device_id, path, size_bytes in files
        ],
        includeImageFiles=False,
    )
    vm = vim.VirtualMachine(ref, connection.stub)
    result = connection.call(lambda: manager.CreateDescriptor(vm, what), repeatable=True)
    problems = [fault_text(fault) for fault in result.error]
    if problems:
        raise FailedPreconditionError(
            f"{connection.server.name} cannot describe VM {name}: {'; '.join(problems[:3])}", "OVF_REFUSED"
        )
    for warning in result.warning:
        log.info("a warning about an OVF descriptor", vm=name, warning=fault_text(warning))
    text = str(result.ovfDescriptor).encode()
    if len(text) > MAX_DESCRIPTOR_BYTES:
        raise FailedPreconditionError(
            f"the OVF descriptor of VM {name} is larger than {MAX_DESCRIPTOR_BYTES >> 20} MiB", "OVF_REFUSED"
        )
    return text
