"""The key providers that the configuration names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.secret import Secret

from ostler_control.keys.file import FileProvider
from ostler_control.keys.providers import KeyProvider, Opener, Sealed, kek_missing
from ostler_control.state_dir import StateDir

if TYPE_CHECKING:
    from ostler_control.keys.vault_client import VaultSettings


def open_provider(state_dir: Path, vault: VaultSettings | None = None, kind: str = "file") -> KeyProvider:
    """The provider that new versions come from (`kind`), together with the other one, if configured, for passphrases
    that are still sealed under its keys.

    `file`: systemd's credential `ostler-kek` if there is one, else `kek` in the state directory.
    Raises FailedPreconditionError (KEK_MISSING, KEK_INVALID, VAULT_CREDENTIAL).
    """
    path = StateDir(state_dir).kek
    providers: list[KeyProvider] = []
    if kind == "file" or path.exists():
        providers.append(FileProvider(path, writable=path.parent == state_dir))
    if vault is not None:
        from ostler_control.keys.vault import VaultProvider

        providers.append(VaultProvider(vault))
    if len(providers) == 1:
        return providers[0]
    return Providers(kind, {provider.kind: provider for provider in providers})


class Providers:
    """Several providers: new versions come from one, and each opens what was sealed under its own."""

    def __init__(self, kind: str, providers: Mapping[str, KeyProvider]) -> None:
        self.kind = kind
        self._main = providers[kind]
        self._all = providers

    def versions(self) -> list[str]:
        found = self._main.versions()
        for provider in self._all.values():
            if provider is not self._main:
                try:
                    found += provider.versions()
                except (UnavailableError, FailedPreconditionError):
                    continue  # unknown for now, and no new version comes from it
        return found

    def local_versions(self) -> list[str]:
        return [kek_id for provider in self._all.values() for kek_id in provider.local_versions()]

    def stored_versions(self) -> list[str]:
        found: list[str] = []
        failure: OstlerError | None = None
        for provider in self._all.values():
            try:
                found += provider.stored_versions()
            except (UnavailableError, FailedPreconditionError) as error:
                failure = failure or error
        if failure is not None and not found:
            raise failure
        return found

    def stored(self) -> Opener:
        openers: dict[str, Opener] = {}
        for kind, provider in self._all.items():
            with contextlib.suppress(FailedPreconditionError):  # what it sealed is then reported as KEK_MISSING
                openers[kind] = provider.stored()
        return _StoredKeys(openers)

    def prepare(self, kek_id: str) -> None:
        self._of(kek_id).prepare(kek_id)

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        return self._of(kek_id).seal(kek_id, secret, associated)

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        return self._of(kek_id).open(kek_id, data, associated)

    def reseal(self, kek_id: str, items: Sequence[Sealed]) -> list[bytes | OstlerError]:
        target = self._of(kek_id)
        own = [item for item in items if self._all.get(_kind(item.kek_id)) is target]
        outcomes = dict(zip(map(id, own), target.reseal(kek_id, own), strict=True)) if own else {}
        return [outcomes[id(item)] if id(item) in outcomes else self._move(kek_id, item) for item in items]

    def add_version(self) -> str:
        return self._main.add_version()

    def removed_together(self, kek_id: str, others: Sequence[str]) -> list[str]:
        return self._of(kek_id).removed_together(kek_id, others)

    def remove_version(self, kek_id: str) -> bool:
        return self._of(kek_id).remove_version(kek_id)

    def export(self) -> Secret:
        return self._main.export()

    def _move(self, kek_id: str, item: Sealed) -> bytes | OstlerError:
        """From one provider to another: this process opens the passphrase."""
        try:
            return self.seal(kek_id, self.open(item.kek_id, item.data, item.associated), item.associated)
        except UnavailableError:
            raise
        except OstlerError as error:
            return error

    def _of(self, kek_id: str) -> KeyProvider:
        provider = self._all.get(_kind(kek_id))
        if provider is None:
            raise kek_missing(kek_id, [f"{kind}:*" for kind in self._all])
        return provider


class _StoredKeys:
    """The stored keys of several providers."""

    def __init__(self, openers: Mapping[str, Opener]) -> None:
        self._openers = openers

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        opener = self._openers.get(_kind(kek_id))
        if opener is None:
            raise kek_missing(kek_id, [f"{kind}:*" for kind in self._openers])
        return opener.open(kek_id, data, associated)


def _kind(kek_id: str) -> str:
    return kek_id.partition(":")[0]
