"""The encryption of exported content, from the wire."""

from __future__ import annotations

from ostler.control.v1 import volume_pb2 as pb

from ostler_control.volumes.export_encryption import ExportEncryption, check_new_passphrase


def export_encryption(message: pb.ExportEncryption) -> ExportEncryption:
    """Raises InvalidArgumentError INVALID_PASSPHRASE."""
    return ExportEncryption(message.decrypt, check_new_passphrase("encryption.passphrase", message.passphrase))
