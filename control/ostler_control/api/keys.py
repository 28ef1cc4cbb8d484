"""ostler.control.v1.KeyService."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import key_pb2 as pb
from ostler.control.v1 import key_pb2_grpc
from ostler_common.key_backup import Stretching
from ostler_common.secret import Secret

from ostler_control import labels
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import keys as convert
from ostler_control.api.paging import list_page
from ostler_control.api.resolve import resolve
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import start_operation
from ostler_control.keys import Keyring, backup, rotate, versions
from ostler_control.models import Kek


@with_sessions
class KeyService(key_pb2_grpc.KeyServiceServicer):
    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def ListKeys(self, request: pb.ListKeysRequest, context: grpc.ServicerContext) -> pb.ListKeysResponse:
        all_keys = convert.keys(versions.versions(self._keys.provider))
        wanted = labels.parse(request.selector)
        found = list_page([key for key in all_keys if labels.matches(wanted, key.labels)], request)
        return pb.ListKeysResponse(keys=found.rows, next_page_token=found.next_page_token)

    def RotateKey(self, request: pb.RotateKeyRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        return start_operation(caller, request, lambda: rotate.rotate(self._keys, caller.actor))

    def DeleteKey(self, request: pb.DeleteKeyRequest, context: grpc.ServicerContext) -> LongRunning:
        caller, kek = caller_of(context), resolve(Kek, request.key, "key")
        return start_operation(caller, request, lambda: rotate.delete(self._keys, kek, caller.actor))

    def VerifyKeys(self, request: pb.VerifyKeysRequest, context: grpc.ServicerContext) -> pb.VerifyKeysResponse:
        opener = (
            backup.read_keys(request.backup, Secret(request.wrapping_key))
            if request.backup
            else self._keys.provider.stored()
        )
        return convert.verified(*versions.verify(opener))

    def BackupKeys(self, request: pb.BackupKeysRequest, context: grpc.ServicerContext) -> pb.BackupKeysResponse:
        stretching = Stretching(request.salt, request.n, request.r, request.p)
        made = backup.create(self._keys, Secret(request.wrapping_key), stretching, caller_of(context).actor)
        return pb.BackupKeysResponse(backup=made.text(), keys=made.keys)
