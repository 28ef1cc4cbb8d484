"""Keys in libvirt: private, ephemeral secrets, there exactly while a VM uses them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import libvirt
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError

from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.xml import secret
from ostler_agent.spec import Key


class Secrets:
    """Ostler's secrets among libvirt's; a secret that Ostler did not make is never touched.

    The secret's usage says which VM it is for, so that libvirt's own list is all the book-keeping there is.
    """

    def __init__(self, connection: Callable[[], Any]) -> None:
        self._connection = connection

    def hold(self, vm_id: str, keys: Sequence[Key]) -> None:
        """Defines the keys for a VM, each value set anew.

        Raises InvalidArgumentError KEY_MISSING before anything is done when a passphrase is not there, and
        FailedPreconditionError SECRET_ID_TAKEN when a key's UUID is taken. When it raises, none of them stays.
        """
        missing = [key.key_id for key in keys if key.passphrase is None]
        if missing:
            raise InvalidArgumentError(
                f"the passphrase of key {', '.join(missing)} is missing (an encrypted volume needs its key)",
                "KEY_MISSING",
            )
        held = []
        try:
            for key in keys:
                self._hold(vm_id, key)
                held.append(key.key_id)
        except BaseException:
            self.drop(vm_id, held)
            raise

    def drop(self, vm_id: str, key_ids: Collection[str] | None = None) -> None:
        """Removes a VM's secrets: those named, or all; what is not there is a success."""
        for found, key_id, owner in self._ours():
            if owner == vm_id and (key_ids is None or key_id in key_ids):
                self._undefine(found)

    def owners(self) -> set[str]:
        """The VMs that secrets are here for."""
        return {owner for _, _, owner in self._ours()}

    def sweep(self, used: Collection[str]) -> list[str]:
        """Removes all of Ostler's secrets but those whose key ids are used; tells which went."""
        gone = []
        for found, key_id, _ in self._ours():
            if key_id not in used:
                self._undefine(found)
                gone.append(key_id)
        return gone

    def _hold(self, vm_id: str, key: Key) -> None:
        connection = self._connection()
        with translated(f"putting key {key.key_id} in place"):
            self._make_way(connection, vm_id, key.key_id)
            defined = connection.secretDefineXML(secret.secret_xml(vm_id, key.key_id))
            assert key.passphrase is not None
            defined.setValue(key.passphrase.reveal())

    def _make_way(self, connection: Any, vm_id: str, key_id: str) -> None:
        """A secret cannot change its usage: one left over from another VM goes first."""
        try:
            found = connection.secretLookupByUUIDString(key_id)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SECRET):
                return
            raise
        owner = secret.owner(found.usageID())
        if owner is None:
            raise FailedPreconditionError(
                f"libvirt has a secret {key_id} that Ostler did not make (remove it, or use another key)",
                "SECRET_ID_TAKEN",
                {"key": key_id},
            )
        if owner != vm_id:
            self._undefine(found)

    def _ours(self) -> Iterator[tuple[Any, str, str]]:
        with translated("listing libvirt's secrets"):
            for found in self._connection().listAllSecrets():
                owner = secret.owner(found.usageID())
                if owner is not None:
                    yield found, found.UUIDString(), owner

    @staticmethod
    def _undefine(found: Any) -> None:
        try:
            found.undefine()
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_SECRET):
                raise
