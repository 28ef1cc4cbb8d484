"""How content leaves, as callers say it."""

from __future__ import annotations

from ostler.control.v1 import volume_pb2 as pb

from ostler_control.volumes.leaving import Leaving, chosen_passphrase


def leaving(message: pb.Leaving) -> Leaving:
    """Raises InvalidArgumentError INVALID_PASSPHRASE."""
    return Leaving(message.decrypt, chosen_passphrase("leaving.passphrase", message.passphrase))
