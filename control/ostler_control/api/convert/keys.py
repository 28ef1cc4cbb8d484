"""Versions of the key-encryption key, and what a verification found."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import key_pb2 as pb

from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.keys.versions import Broken, Version, count_passphrases
from ostler_control.models import Kek

_FAILURES = 1000


def key(found: Version) -> pb.Key:
    return pb.Key(
        name=found.id,
        state=to_enum(pb.Key.State, "", found.state),
        passphrases=found.passphrases,
        present=found.present,
        create_time=timestamp(found.create_time),
    )


def key_after(kek_id: str) -> pb.Key:
    """What an operation on a version answers with: after a rotation the current one; the name of one that is gone."""
    row = Kek.get_or_none(Kek.id == kek_id)
    if row is None:
        return pb.Key(name=kek_id)
    current = Kek.get(Kek.current)
    return pb.Key(
        name=current.id,
        state=pb.Key.CURRENT,
        passphrases=count_passphrases().get(current.id, 0),
        present=True,
        create_time=timestamp(current.create_time),
    )


def verified(count: int, broken: Sequence[Broken]) -> pb.VerifyKeysResponse:
    failed = len({one.passphrase_id for one in broken})
    return pb.VerifyKeysResponse(
        passphrases=count,
        opened=count - failed,
        failures=[
            pb.VerifyKeysResponse.Failure(
                passphrase_id=one.passphrase_id,
                type=one.type,
                id=one.id,
                name=one.name,
                key=one.kek_id,
                reason=one.reason,
            )
            for one in broken[:_FAILURES]
        ],
    )
