"""What a provider of key-encryption keys is, and which ones this control plane has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.secret import Secret


@dataclass(frozen=True)
class Sealed:
    """A sealed passphrase: the version of the key it is sealed under, the bytes, and what they are bound to."""

    kek_id: str
    data: bytes
    associated: bytes


class Opener(Protocol):
    """Opens what was sealed."""

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        """What was sealed.

        Raises FailedPreconditionError KEK_MISSING when that version is not there, InternalError SEAL_BROKEN when the
        bytes were changed or belong to something else.
        """


class KeyProvider(Opener, Protocol):
    """Seals and opens passphrases under versions of a key-encryption key; `kind` begins its versions' ids."""

    kind: str

    def versions(self) -> list[str]:
        """Ids of the versions that it has, the newest first. Raises OstlerError when it cannot tell."""

    def held(self) -> list[str]:
        """Ids of the versions that this process itself has and another control plane may lack. Never raises."""

    def prepare(self, kek_id: str) -> None:
        """Does ahead what `seal` under this version would wait for. Raises OstlerError."""

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        """The secret, readable only by `open` with the same `associated` data. Raises what `open` raises."""

    def reseal(self, kek_id: str, items: Sequence[Sealed]) -> list[bytes | OstlerError]:
        """Each item sealed under `kek_id` instead, or why it cannot be; waits for no lock of the database.

        Raises OstlerError when none can be.
        """

    def add_version(self) -> str:
        """Makes a new version and returns its id. Raises FailedPreconditionError KEK_READ_ONLY."""

    def goes_with(self, kek_id: str, others: Sequence[str]) -> list[str]:
        """Which of the others cannot stay when this version goes."""

    def remove_version(self, kek_id: str) -> bool:
        """Lets go of a version that nothing is sealed under, and of those that go with it; False when that is not for
        the control plane to do."""

    def export(self) -> Secret:
        """All versions as a key file's content. Raises FailedPreconditionError KEK_NOT_EXPORTABLE."""


def kek_missing(kek_id: str, has: Sequence[str]) -> FailedPreconditionError:
    """The error for a version that this control plane does not have."""
    return FailedPreconditionError(
        f"the passphrase is sealed under the key {kek_id}, and this control plane has {', '.join(has) or 'none'}; "
        "put that key back (with several control planes: give each the same keys)",
        "KEK_MISSING",
        {"kek_id": kek_id},
    )
