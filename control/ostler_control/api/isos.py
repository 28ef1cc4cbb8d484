"""ostler.control.v1.IsoService."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from ostler.control.v1 import iso_pb2 as pb
from ostler.control.v1 import iso_pb2_grpc

from ostler_control import labels
from ostler_control.api.caller import caller_of
from ostler_control.api.convert.times import timestamp
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.pieces import data_of, first_header
from ostler_control.api.requests import made_earlier, once
from ostler_control.api.resolve import resolve, visible
from ostler_control.database import session
from ostler_control.models import Iso
from ostler_control.templates import isos
from ostler_control.templates import store as template_store


class IsoService(iso_pb2_grpc.IsoServiceServicer):
    """directory: where the files are. An upload lasts, so that handlers open sessions for moments only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def UploadIso(self, request_iterator: Iterator[pb.UploadIsoRequest], context: grpc.ServicerContext) -> pb.Iso:
        caller = caller_of(context)
        header = first_header(request_iterator)
        with session():
            if (earlier := made_earlier(Iso, caller, header)) is not None:
                return _isos([earlier])[0]
            wanted = isos.announced(header.name, header.file_size_bytes, header.sha256)
        with template_store.received_file(wanted, data_of(request_iterator), self._directory) as stored, session():
            return _isos([once(Iso, caller, header, lambda: isos.record(header.name, stored, caller.actor))])[0]

    def GetIso(self, request: pb.GetIsoRequest, context: grpc.ServicerContext) -> pb.Iso:
        with session():
            return _isos([resolve(Iso, request.iso, "iso")])[0]

    def ListIsos(self, request: pb.ListIsosRequest, context: grpc.ServicerContext) -> pb.ListIsosResponse:
        with session():
            found = page(select(visible(Iso, None), Iso, request.selector), Iso, request)
            return pb.ListIsosResponse(isos=_isos(found.rows), next_page_token=found.next_page_token)

    def DeleteIso(self, request: pb.DeleteIsoRequest, context: grpc.ServicerContext) -> pb.DeleteIsoResponse:
        with session():
            isos.delete(resolve(Iso, request.iso, "iso"), caller_of(context).actor, self._directory)
        return pb.DeleteIsoResponse()


def _isos(rows: Sequence[Iso]) -> list[pb.Iso]:
    own = labels.of_objects(Iso, [row.id for row in rows])
    return [
        pb.Iso(
            id=row.id,
            name=row.name,
            file_size_bytes=row.file_size_bytes,
            sha256=row.sha256,
            create_time=timestamp(row.create_time),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]
