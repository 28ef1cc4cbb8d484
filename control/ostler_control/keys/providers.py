"""The interface of providers of key-encryption keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.secret import Secret


@dataclass(frozen=True)
class Sealed:
    """A sealed passphrase. kek_id: the version of the key that sealed it; associated: the data it is bound to."""

    kek_id: str
    data: bytes
    associated: bytes


class Opener(Protocol):
    """Opens sealed passphrases."""

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        """The secret that was sealed.

        Raises FailedPreconditionError KEK_MISSING when that version is not available, InternalError SEAL_BROKEN when
        the bytes were modified or are bound to something else.
        """


class KeyProvider(Opener, Protocol):
    """Seals and opens passphrases under versions of a key-encryption key. kind: the prefix of its versions' ids."""

    kind: str

    def versions(self) -> list[str]:
        """Ids of the versions that it has, the newest first. Raises OstlerError when it cannot be asked."""

    def local_versions(self) -> list[str]:
        """Ids of the versions that this process has and another control plane may lack. Never raises."""

    def stored_versions(self) -> list[str]:
        """Like `versions`, but read from where the keys are stored now: what a restart would find.

        Raises OstlerError: KEK_MISSING or KEK_INVALID when there is no key any more, or what `versions` raises.
        """

    def stored(self) -> Opener:
        """Opens with the keys as they are stored now, not as this process may still have them in memory.

        Raises what `stored_versions` raises.
        """

    def prepare(self, kek_id: str) -> None:
        """Does in advance what `seal` under this version would wait for. Raises OstlerError."""

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        """The secret, readable only by `open` with the same `associated` data. Raises what `open` raises."""

    def reseal(self, kek_id: str, items: Sequence[Sealed]) -> list[bytes | OstlerError]:
        """Each item sealed under `kek_id` instead, or the error of that item; call it outside of transactions.

        Raises OstlerError when none can be.
        """

    def add_version(self) -> str:
        """Creates a new version and returns its id. Raises FailedPreconditionError KEK_READ_ONLY."""

    def removed_together(self, kek_id: str, others: Sequence[str]) -> list[str]:
        """Which of the others the provider removes together with this version."""

    def remove_version(self, kek_id: str) -> bool:
        """Removes a version under which nothing is sealed, and those of `removed_together`.

        False when the control plane cannot do that itself.
        """

    def export(self) -> Secret:
        """All versions as a key file's content. Raises FailedPreconditionError KEK_NOT_EXPORTABLE."""


def kek_missing(kek_id: str, has: Sequence[str]) -> FailedPreconditionError:
    """The error for a version that this control plane does not have."""
    return FailedPreconditionError(
        f"the passphrase is sealed under the key {kek_id}, but this control plane has {', '.join(has) or 'none'}; "
        "restore that key (with several control planes: give each the same keys)",
        "KEK_MISSING",
        {"kek_id": kek_id},
    )
