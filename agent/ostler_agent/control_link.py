"""The agent's calls to the control plane, with its current credentials."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc
from ostler_common.channel import CONTROL_SERVER_NAME, open_channel
from ostler_common.errors import from_rpc_error

from ostler_agent.credentials import CredentialsStore


class ControlLink:
    """control_address: as configured; empty: the one from the join."""

    def __init__(self, store: CredentialsStore, control_address: str = "") -> None:
        self._store = store
        self._control_address = control_address

    def download_template(self, template_id: str, offset: int) -> Iterator[bytes]:
        """Streams a template's file from `offset` (bytes). Raises OstlerError."""
        address = self._control_address or self._store.load().control_address
        request = enrollment_pb2.DownloadTemplateRequest(template_id=template_id, offset=offset)
        with open_channel(address, self._store.files, CONTROL_SERVER_NAME) as channel:
            try:
                for piece in enrollment_pb2_grpc.HostAgentServiceStub(channel).DownloadTemplate(request):
                    yield piece.data
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
