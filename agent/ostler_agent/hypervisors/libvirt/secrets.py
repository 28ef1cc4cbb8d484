"""Keys in libvirt: private, ephemeral secrets that exist only while a VM uses them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import libvirt
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError

from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.xml import secret
from ostler_agent.spec import Key


class Secrets:
    """Ostler's secrets in libvirt. Never touches a secret that Ostler did not create.

    A secret's usage names the VM that it is for, so that libvirt's list of secrets is the only record.
    """

    def __init__(self, connection: Callable[[], Any]) -> None:
        self._connection = connection

    def install(self, vm_id: str, keys: Sequence[Key]) -> None:
        """Defines a secret for each key of a VM and sets its value. If it raises, it leaves none of them behind.

        Raises InvalidArgumentError KEY_MISSING (before any change) if a passphrase is missing, FailedPreconditionError
        SECRET_ID_TAKEN if another program's secret has a key's UUID.
        """
        missing = [key.key_id for key in keys if key.passphrase is None]
        if missing:
            raise InvalidArgumentError(
                f"the passphrase of key {', '.join(missing)} is missing (an encrypted volume needs its key)",
                "KEY_MISSING",
            )
        installed = []
        try:
            for key in keys:
                self._install(vm_id, key)
                installed.append(key.key_id)
        except BaseException:
            self.remove(vm_id, installed)
            raise

    def remove(self, vm_id: str, key_ids: Collection[str] | None = None) -> None:
        """Removes a VM's secrets: those of key_ids, or all. Idempotent."""
        for found, key_id, owner in self._own_secrets():
            if owner == vm_id and (key_ids is None or key_id in key_ids):
                self._undefine(found)

    def owners(self) -> set[str]:
        """The VMs that have secrets."""
        return {owner for _, _, owner in self._own_secrets()}

    def remove_unused(self, used: Collection[str]) -> list[str]:
        """Removes Ostler's secrets whose key ids are not in `used`; returns the ids of those removed."""
        removed = []
        for found, key_id, _ in self._own_secrets():
            if key_id not in used:
                self._undefine(found)
                removed.append(key_id)
        return removed

    def _install(self, vm_id: str, key: Key) -> None:
        connection = self._connection()
        with translated(f"installing key {key.key_id}"):
            self._remove_stale(connection, vm_id, key.key_id)
            defined = connection.secretDefineXML(secret.secret_xml(vm_id, key.key_id, key.use))
            assert key.passphrase is not None
            defined.setValue(key.passphrase.reveal())

    def _remove_stale(self, connection: Any, vm_id: str, key_id: str) -> None:
        """Removes a secret left over from another VM: the usage of a secret cannot change."""
        try:
            found = connection.secretLookupByUUIDString(key_id)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SECRET):
                return
            raise
        owner = secret.owner(found.usageID())
        if owner is None:
            raise FailedPreconditionError(
                f"libvirt has a secret {key_id} that Ostler did not create (remove it, or use another key)",
                "SECRET_ID_TAKEN",
                {"key": key_id},
            )
        if owner != vm_id:
            self._undefine(found)

    def _own_secrets(self) -> Iterator[tuple[Any, str, str]]:
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
