"""Reading a volume's file from a host, through broken connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import InternalError, from_rpc_error

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.client import broken, unreachable

_MAX_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2


def read(
    agents: Agents, host: HostAddress, ref: types_pb2.VolumeRef, check: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    """The file's bytes in order, in chunks, each with the size of the whole file.

    check: called before each chunk; it raises to end the transfer. Raises the agent's OstlerError, UnavailableError
    HOST_UNREACHABLE after several attempts without a byte.
    """
    offset, total, failures = 0, -1, 0
    while total < 0 or offset < total:
        before = offset
        call = agents.at(host).volumes.ReadVolume(volume_pb2.ReadVolumeRequest(volume=ref, offset=offset))
        try:
            for answer in call:
                check()
                total = answer.file_size_bytes or total
                offset += len(answer.data)
                if not 0 <= offset <= total:
                    raise InternalError("a host sent more of a file than it announced", "SIZE_MISMATCH")
                if answer.data:
                    yield total, answer.data
            if offset == before and offset != total:
                raise InternalError("a host sent less of a file than it announced", "SIZE_MISMATCH")
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if not broken(error):
                raise error from None
            failures = 1 if offset > before else failures + 1
            if failures == _MAX_ATTEMPTS:
                raise unreachable(host, error) from None
            agents.forget(host)
            time.sleep(_FIRST_PAUSE_S * 2**failures)
            check()
        finally:
            call.cancel()
