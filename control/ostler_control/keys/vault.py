"""The provider `vault`: a key of HashiCorp Vault's transit engine, which never leaves Vault.

Each passphrase is sealed here (AES-256-GCM, bound to its volume's id) under a wrapping key of its own, and the wrapping
key is encrypted by Vault. So a passphrase never travels to Vault; rotating has Vault rewrap wrapping keys, which shows
nobody any of them; the binding does not depend on what the engine supports (rewrapping knows no associated data); and
wrapping keys are encrypted ahead, because passphrases are made inside transactions of the database, which wait for
nobody.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError
from ostler_common.secret import Secret

from ostler_control.keys.providers import Sealed, kek_missing
from ostler_control.keys.vault_client import RefusedError, VaultClient, VaultSettings, refuses_version

log = structlog.get_logger(__name__)

_KEY_BYTES, _NONCE_BYTES = 32, 12
_LOW, _FULL = 16, 64
# Nobody waits longer than about that for wrapping keys: the next minute tries again, and a transaction must not wait.
_HURRY_S = 2.0


class VaultProvider:
    """Versions are the transit key's own: "vault:MOUNT/KEY:v3"."""

    kind = "vault"

    def __init__(self, settings: VaultSettings) -> None:
        """Calls nobody yet. Raises FailedPreconditionError VAULT_CREDENTIAL."""
        self._settings = settings
        self._prefix = f"vault:{settings.mount}/{settings.key}:v"
        self._client = VaultClient(settings)
        self._lock = threading.Lock()
        self._stock: deque[tuple[str, Secret, str]] = deque()
        self._filling = False

    def versions(self) -> list[str]:
        data = self._call("GET", "keys")
        latest, least = int(data["latest_version"]), int(data.get("min_decryption_version") or 1)
        return [f"{self._prefix}{number}" for number in range(latest, max(least, 1) - 1, -1)]

    def held(self) -> list[str]:
        return []

    def prepare(self, kek_id: str) -> None:
        """Makes wrapping keys for what is to be sealed under this version, so that `seal` need not wait."""
        with self._lock:
            count = _FULL - sum(1 for version, _, _ in self._stock if version == kek_id)
        if count > 0:
            made = self._wrapped(kek_id, count, _HURRY_S)
            with self._lock:
                self._stock.extend(made)

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        key, wrapped = self._take(kek_id)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _join(wrapped, nonce + AESGCM(key.reveal()).encrypt(nonce, secret.reveal(), associated))

    def open(self, kek_id: str, data: bytes, associated: bytes) -> Secret:
        self._version(kek_id)
        wrapped, sealed = _split(data)
        try:
            answer = self._call("POST", "decrypt", {"ciphertext": wrapped})
            key = base64.b64decode(answer["plaintext"], validate=True)
            return Secret(AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated))
        except RefusedError as error:
            raise (kek_missing(kek_id, []) if error.version_refused else _broken()) from None
        except (InvalidTag, KeyError, ValueError, binascii.Error):
            raise _broken() from None

    def reseal(self, kek_id: str, items: Sequence[Sealed]) -> list[bytes | OstlerError]:
        number = self._version(kek_id)
        try:
            parts = [_split(item.data) for item in items]
        except OstlerError:
            if len(items) > 1:  # one that was spoilt: each by itself, then
                return [outcome for item in items for outcome in self.reseal(kek_id, [item])]
            return [_broken()]
        batch = [{"ciphertext": wrapped, "key_version": number} for wrapped, _ in parts]
        try:
            results = self._call("POST", "rewrap", {"batch_input": batch})["batch_results"]
        except RefusedError:
            if len(items) > 1:
                return [outcome for item in items for outcome in self.reseal(kek_id, [item])]
            return [_broken()]
        return [
            self._resealed(item, sealed, result, number)
            for item, (_, sealed), result in zip(items, parts, results, strict=True)
        ]

    def add_version(self) -> str:
        self._call("POST", "keys", {}, "/rotate", repeatable=False)
        return self.versions()[0]

    def goes_with(self, kek_id: str, others: Sequence[str]) -> list[str]:
        number = self._version(kek_id)
        older = [other for other in others if other.startswith(self._prefix)]
        return [other for other in older if self._version(other) < number]

    def remove_version(self, kek_id: str) -> bool:
        """Vault lets go of versions from the oldest on; it forbids this one and all before it, and keeps them."""
        number = self._version(kek_id)
        data = self._call("GET", "keys")
        if number >= int(data["latest_version"]):
            return False
        if int(data.get("min_decryption_version") or 1) <= number:
            self._call("POST", "keys", {"min_decryption_version": number + 1}, "/config")
        return True

    def export(self) -> Secret:
        raise FailedPreconditionError(
            "the key is kept in Vault and does not leave it: back Vault up (`vault operator raft snapshot save`, or "
            "its storage's backup) and keep its unseal or recovery keys; docs/keys.md says more",
            "KEK_NOT_EXPORTABLE",
        )

    def _take(self, kek_id: str) -> tuple[Secret, str]:
        with self._lock:
            while self._stock and self._stock[0][0] != kek_id:
                self._stock.popleft()
            taken = self._stock.popleft() if self._stock else None
            fill = len(self._stock) < _LOW and not self._filling
            self._filling = self._filling or fill
        if fill:
            threading.Thread(target=self._fill, args=(kek_id,), name="vault-stock", daemon=True).start()
        version, key, wrapped = taken or self._wrapped(kek_id, 1, _HURRY_S)[0]
        assert version == kek_id
        return key, wrapped

    def _fill(self, kek_id: str) -> None:
        try:
            self.prepare(kek_id)
        except OstlerError as error:
            log.warning("no wrapping keys could be made ahead", reason=error.reason)
        except Exception:
            log.exception("no wrapping keys could be made ahead")
        finally:
            with self._lock:
                self._filling = False

    def _wrapped(self, kek_id: str, count: int, patience_s: float) -> list[tuple[str, Secret, str]]:
        number = self._version(kek_id)
        keys = [Secret(secrets.token_bytes(_KEY_BYTES)) for _ in range(count)]
        batch = [{"plaintext": base64.b64encode(key.reveal()).decode(), "key_version": number} for key in keys]
        try:
            results = self._call("POST", "encrypt", {"batch_input": batch}, patience_s=patience_s)["batch_results"]
            wrapped = [str(result["ciphertext"]) for result in results]
        except (RefusedError, KeyError):
            raise kek_missing(kek_id, []) from None
        if not all(text.startswith(f"vault:v{number}:") for text in wrapped) or len(wrapped) != count:
            raise kek_missing(kek_id, sorted({text.split(":")[1] for text in wrapped}))
        return [(kek_id, key, text) for key, text in zip(keys, wrapped, strict=True)]

    def _resealed(self, item: Sealed, sealed: bytes, result: dict[str, Any], number: int) -> bytes | OstlerError:
        wrapped = str(result.get("ciphertext") or "")
        if wrapped.startswith(f"vault:v{number}:"):
            return _join(wrapped, sealed)
        return kek_missing(item.kek_id, []) if refuses_version(str(result.get("error"))) else _broken()

    def _version(self, kek_id: str) -> int:
        number = kek_id.removeprefix(self._prefix)
        if number == kek_id or not number.isdigit():
            raise kek_missing(kek_id, [f"{self._prefix}*"])
        return int(number)

    def _call(
        self,
        method: str,
        action: str,
        body: Any = None,
        suffix: str = "",
        *,
        repeatable: bool = True,
        patience_s: float | None = None,
    ) -> Any:
        path = f"{self._settings.mount}/{action}/{self._settings.key}{suffix}"
        return self._client.call(method, path, body, repeatable=repeatable, patience_s=patience_s)


def _join(wrapped: str, sealed: bytes) -> bytes:
    return wrapped.encode() + b"\0" + sealed


def _split(data: bytes) -> tuple[str, bytes]:
    wrapped, zero, sealed = data.partition(b"\0")
    if not zero or not wrapped.startswith(b"vault:v") or not wrapped.isascii():
        raise _broken()
    return wrapped.decode(), sealed


def _broken() -> InternalError:
    return InternalError("a sealed passphrase was changed, or belongs to another volume", "SEAL_BROKEN")
