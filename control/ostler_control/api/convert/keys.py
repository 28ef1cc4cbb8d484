"""Versions of the key-encryption key, and what a verification found."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import key_pb2 as pb

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.keys.versions import Broken, Version, count_passphrases
from ostler_control.models import Kek

_FAILURES = 1000


def keys(found: Sequence[Version]) -> list[pb.Key]:
    own = labels.of_objects(Kek, [version.id for version in found])
    return [
        pb.Key(
            name=version.id,
            state=to_enum(pb.Key.State, "", version.state),
            passphrases=version.passphrases,
            present=version.present,
            create_time=timestamp(version.create_time),
            labels=own.get(version.id, {}),
        )
        for version in found
    ]


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
        labels=labels.of_objects(Kek, [current.id]).get(current.id, {}),
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
