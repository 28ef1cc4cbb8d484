"""PowerFlex: calls an array's gateway through PyPowerFlex.

PyPowerFlex logs in before every call and out after it, so that no session stays open. It is imported at the first call:
hosts without an array do not need it.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ostler_common.address import split_address
from ostler_common.errors import (
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)
from ostler_common.secret import Secret

T = TypeVar("T")

GIB = 1 << 30
CALL_TIMEOUT_S = 60
_DEFAULT_PORT = 443


@dataclass(frozen=True)
class StoragePool:
    """A storage pool of the array. zero_padding: whether unwritten space of a volume reads as zeros."""

    id: str
    system_id: str
    zero_padding: bool


@dataclass(frozen=True)
class ArrayVolume:
    """A volume of the array. mapped: ids of the SDCs (hosts) that it is mapped to."""

    id: str
    name: str
    size_bytes: int
    mapped: frozenset[str]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ArrayVolume:
        return cls(
            id=data["id"],
            name=data["name"],
            size_bytes=int(data["sizeInKb"]) << 10,
            mapped=frozenset(sdc["sdcId"] for sdc in data.get("mappedSdcInfo") or ()),
        )


class Gateway:
    """An array's gateway. Thread-safe: one call at a time.

    address: host or host:port. ca_pem: the CA that signs its certificate ("": the system's CAs). Every call raises
    UnavailableError POWERFLEX_UNREACHABLE; FailedPreconditionError POWERFLEX_UNTRUSTED (its certificate),
    POWERFLEX_LOGIN_REFUSED, POWERFLEX_REFUSED (by the array), POWERFLEX_VERSION, POWERFLEX_CLIENT_MISSING;
    ResourceExhaustedError POOL_FULL.
    """

    def __init__(self, address: str, username: str, password: Secret, ca_pem: str = "") -> None:
        self._address = address
        self._username = username
        self._password = password
        self._ca_pem = ca_pem
        self._client: Any = None
        self._lock = threading.Lock()

    def storage_pool(self, domain: str, name: str) -> StoragePool:
        """Raises NotFoundError POWERFLEX_POOL_NOT_FOUND."""

        def find(client: Any) -> StoragePool:
            for found in client.protection_domain.get(filter_fields={"name": domain}):
                for pool in client.protection_domain.get_storage_pools(found["id"], filter_fields={"name": name}):
                    return StoragePool(pool["id"], client.system.get()[0]["id"], bool(pool.get("zeroPaddingEnabled")))
            raise NotFoundError(
                f"the array {self._address} has no storage pool {name} in a protection domain {domain}",
                "POWERFLEX_POOL_NOT_FOUND",
                {"protection_domain": domain, "storage_pool": name},
            )

        return self._call(find)

    def capacity(self, pool_id: str) -> tuple[int, int]:
        """Total and allocatable space of a storage pool, bytes."""
        found = self._call(lambda client: client.storage_pool.get_statistics(pool_id))
        # The array stores every byte twice and reserves the spare capacity for the failure of a node.
        size_kib = (int(found["maxCapacityInKb"]) - int(found["spareCapacityInKb"])) // 2
        free_kib = int(found["capacityAvailableForVolumeAllocationInKb"])
        return size_kib << 10, min(size_kib, free_kib) << 10

    def sdcs(self) -> list[tuple[str, str, str]]:
        """All SDCs (hosts) of the array: id, GUID, address."""
        found = self._call(lambda client: client.sdc.get())
        return [(sdc["id"], sdc.get("sdcGuid") or "", sdc.get("sdcIp") or "") for sdc in found]

    def find(self, name: str) -> ArrayVolume | None:
        """Returns the volume with that name, if any."""
        found = self._call(lambda client: client.volume.get(filter_fields={"name": name}))
        return ArrayVolume.from_dict(found[0]) if found else None

    def get(self, volume_id: str) -> ArrayVolume:
        """Returns a volume's current state."""
        return ArrayVolume.from_dict(self._call(lambda client: client.volume.get(entity_id=volume_id)))

    def volumes(self, pool_id: str) -> list[ArrayVolume]:
        """All volumes of a storage pool."""
        return [ArrayVolume.from_dict(data) for data in self._call(lambda c: c.storage_pool.get_volumes(pool_id))]

    def used_bytes(self, volume_id: str) -> int:
        """Space that a volume uses, bytes."""
        found = self._call(lambda client: client.volume.get_statistics(volume_id))
        return int(found.get("userDataCapacityInKb") or 0) << 10

    def create(self, pool_id: str, name: str, size_bytes: int, *, thick: bool) -> ArrayVolume:
        """Creates a volume. Of concurrent calls with one name, one succeeds and the others raise."""
        kind = "ThickProvisioned" if thick else "ThinProvisioned"
        made = self._call(lambda c: c.volume.create(pool_id, size_bytes // GIB, name=name, volume_type=kind))
        return ArrayVolume.from_dict(made)

    def rename(self, volume_id: str, name: str) -> None:
        """Renames a volume. Raises FailedPreconditionError POWERFLEX_REFUSED if another volume has that name."""
        self._call(lambda client: client.volume.rename(volume_id, name))

    def resize(self, volume_id: str, size_bytes: int) -> None:
        """Grows a volume."""
        self._call(lambda client: client.volume.extend(volume_id, size_bytes // GIB))

    def remove(self, volume_id: str) -> None:
        """Deletes a volume that is not mapped to any host."""
        self._call(lambda client: client.volume.delete(volume_id, "ONLY_ME"))

    def map(self, volume_id: str, sdc_id: str) -> None:
        """Maps a volume to a host, also if it is mapped to another one (during a migration)."""
        self._call(lambda client: client.volume.add_mapped_sdc(volume_id, sdc_id=sdc_id, allow_multiple_mappings=True))

    def unmap(self, volume_id: str, sdc_id: str) -> None:
        """Unmaps a volume from a host."""
        self._call(lambda client: client.volume.remove_mapped_sdc(volume_id, sdc_id=sdc_id))

    def _call(self, work: Callable[[Any], T]) -> T:
        with self._lock, _failures(self._address), self._trust() as ca_path:
            if self._client is None:
                self._client = self._open(ca_path)
            self._client.configuration.certificate_path = ca_path
            return work(self._client)

    def _open(self, ca_path: str) -> Any:
        try:
            from PyPowerFlex import PowerFlexClient
        except ImportError:
            raise FailedPreconditionError(
                "PyPowerFlex is not installed on this host (install it beside the agent, then restart the agent)",
                "POWERFLEX_CLIENT_MISSING",
            ) from None
        host, port = split_address(self._address, "gateway", _DEFAULT_PORT)
        client = PowerFlexClient(
            host,
            port,
            self._username,
            self._password.reveal().decode(),
            certificate_path=ca_path,
            timeout=CALL_TIMEOUT_S,
        )
        with _own_logging():
            client.initialize()
            if not hasattr(client.volume, "add_mapped_sdc"):
                raise FailedPreconditionError(
                    f"the array {self._address} is PowerFlex 5 or later; Ostler supports 3.x and 4.x",
                    "POWERFLEX_VERSION",
                )
        return client

    @contextmanager
    def _trust(self) -> Iterator[str]:
        """Yields the path of a file with the CAs; a CA of its own is in a file without a name."""
        if not self._ca_pem:
            known = ssl.get_default_verify_paths()
            yield known.cafile or known.capath or ""
            return
        file = os.memfd_create("powerflex-ca", os.MFD_CLOEXEC)
        try:
            os.write(file, self._ca_pem.encode())
            yield str(Path(f"/proc/self/fd/{file}"))
        finally:
            os.close(file)


@contextmanager
def _own_logging() -> Iterator[None]:
    """Undoes PyPowerFlex's changes of the process-wide logging; its errors are exceptions anyway."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.getLogger("PyPowerFlex").addHandler(logging.NullHandler())
    logging.getLogger("PyPowerFlex").propagate = False
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)


@contextmanager
def _failures(address: str) -> Iterator[None]:
    """Translates PyPowerFlex's exceptions to Ostler's."""
    try:
        yield
    except OstlerError:
        raise
    except Exception as error:
        # Without the cause: it contains the request, which at a login includes the password.
        raise _translated(address, error) from None


def _translated(address: str, error: Exception) -> OstlerError:
    import requests

    # A failed login is a bare Exception with the cause attached.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    facts = {"gateway": address}
    if isinstance(cause, requests.exceptions.SSLError):
        return FailedPreconditionError(
            f"the certificate of the gateway {address} is not trusted: {cause} (pass the CA that signed it)",
            "POWERFLEX_UNTRUSTED",
            facts,
        )
    if isinstance(cause, requests.exceptions.HTTPError) and cause.response is not None:
        if cause.response.status_code in (401, 403):
            return FailedPreconditionError(
                f"the gateway {address} refuses the user or the password", "POWERFLEX_LOGIN_REFUSED", facts
            )
    elif isinstance(cause, requests.exceptions.RequestException):
        return UnavailableError(f"the gateway {address} does not answer: {cause}", "POWERFLEX_UNREACHABLE", facts)
    if "capacity" in str(error).lower():
        return ResourceExhaustedError(f"the array has no space left: {error}", "POOL_FULL", facts)
    return FailedPreconditionError(f"the array refuses: {error}", "POWERFLEX_REFUSED", facts)
