"""The provider `vault`: a key of HashiCorp Vault's transit engine, which never leaves Vault.

Each passphrase is sealed here (AES-256-GCM, bound to its volume's id) under its own wrapping key, and Vault encrypts
the wrapping key:

- A passphrase never travels to Vault.
- A rotation makes Vault rewrap the wrapping keys, which reveals none of them.
- The binding does not depend on the engine, whose rewrapping knows no associated data.
- Wrapping keys are created in advance, because passphrases are created inside database transactions, which must not
  wait for the network.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections import deque
from collections.abc import Sequence

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError
from ostler_common.secret import Secret

from ostler_control.keys.providers import Opener, Sealed, kek_missing
from ostler_control.keys.vault_client import Json, RefusedError, VaultClient, VaultSettings, refuses_version

log = structlog.get_logger(__name__)

_KEY_BYTES, _NONCE_BYTES = 32, 12
# Wrapping keys in stock: refilled below the first number, up to the second.
_MIN_STOCK, _MAX_STOCK = 16, 64
# How long to wait for wrapping keys: a transaction must not wait longer, and there is another attempt every minute.
_WRAP_TIMEOUT_S = 2.0


class VaultProvider:
    """Versions are the transit key's own: "vault:MOUNT/KEY:v3"."""

    kind = "vault"

    def __init__(self, settings: VaultSettings) -> None:
        """Does not connect yet. Raises FailedPreconditionError VAULT_CREDENTIAL."""
        self._settings = settings
        self._prefix = f"vault:{settings.mount}/{settings.key}:v"
        self._client = VaultClient(settings)
        self._lock = threading.Lock()
        self._stock: deque[tuple[str, Secret, str]] = deque()
        self._is_refilling = False

    def versions(self) -> list[str]:
        data = self._call("GET", "keys")
        latest, oldest = int(data["latest_version"]), int(data.get("min_decryption_version") or 1)
        return [f"{self._prefix}{number}" for number in range(latest, max(oldest, 1) - 1, -1)]

    def local_versions(self) -> list[str]:
        return []

    def stored_versions(self) -> list[str]:
        return self.versions()

    def stored(self) -> Opener:
        return self

    def prepare(self, kek_id: str) -> None:
        """Creates wrapping keys in advance for this version, so that `seal` need not wait."""
        with self._lock:
            count = _MAX_STOCK - sum(1 for version, _, _ in self._stock if version == kek_id)
        if count > 0:
            created = self._create_wrapping_keys(kek_id, count, _WRAP_TIMEOUT_S)
            with self._lock:
                self._stock.extend(created)

    def seal(self, kek_id: str, secret: Secret, associated: bytes) -> bytes:
        key, wrapped = self._next_wrapping_key(kek_id)
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
            if len(items) > 1:  # one is broken: find it by re-sealing each by itself
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
        self._call("POST", "keys", {}, "/rotate", idempotent=False)
        return self.versions()[0]

    def removed_together(self, kek_id: str, others: Sequence[str]) -> list[str]:
        number = self._version(kek_id)
        older = [other for other in others if other.startswith(self._prefix)]
        return [other for other in older if self._version(other) < number]

    def remove_version(self, kek_id: str) -> bool:
        """Vault retires versions from the oldest on: it disallows this one and all before it, and keeps them."""
        number = self._version(kek_id)
        data = self._call("GET", "keys")
        if number >= int(data["latest_version"]):
            return False
        if int(data.get("min_decryption_version") or 1) <= number:
            self._call("POST", "keys", {"min_decryption_version": number + 1}, "/config")
        return True

    def export(self) -> Secret:
        raise FailedPreconditionError(
            "the key never leaves Vault: back up Vault (`vault operator raft snapshot save`, or a backup of its "
            "storage) and keep its unseal or recovery keys; see docs/keys.md",
            "KEK_NOT_EXPORTABLE",
        )

    def _next_wrapping_key(self, kek_id: str) -> tuple[Secret, str]:
        with self._lock:
            while self._stock and self._stock[0][0] != kek_id:
                self._stock.popleft()
            from_stock = self._stock.popleft() if self._stock else None
            refill = len(self._stock) < _MIN_STOCK and not self._is_refilling
            self._is_refilling = self._is_refilling or refill
        if refill:
            threading.Thread(target=self._refill, args=(kek_id,), name="vault-stock", daemon=True).start()
        version, key, wrapped = from_stock or self._create_wrapping_keys(kek_id, 1, _WRAP_TIMEOUT_S)[0]
        assert version == kek_id
        return key, wrapped

    def _refill(self, kek_id: str) -> None:
        try:
            self.prepare(kek_id)
        except OstlerError as error:
            log.warning("creating wrapping keys in advance failed", reason=error.reason)
        except Exception:
            log.exception("creating wrapping keys in advance failed")
        finally:
            with self._lock:
                self._is_refilling = False

    def _create_wrapping_keys(self, kek_id: str, count: int, timeout_s: float) -> list[tuple[str, Secret, str]]:
        number = self._version(kek_id)
        keys = [Secret(secrets.token_bytes(_KEY_BYTES)) for _ in range(count)]
        batch = [{"plaintext": base64.b64encode(key.reveal()).decode(), "key_version": number} for key in keys]
        try:
            results = self._call("POST", "encrypt", {"batch_input": batch}, timeout_s=timeout_s)["batch_results"]
            wrapped = [str(result["ciphertext"]) for result in results]
        except (RefusedError, KeyError):
            raise kek_missing(kek_id, []) from None
        if not all(text.startswith(f"vault:v{number}:") for text in wrapped) or len(wrapped) != count:
            raise kek_missing(kek_id, sorted({text.split(":")[1] for text in wrapped}))
        return [(kek_id, key, text) for key, text in zip(keys, wrapped, strict=True)]

    def _resealed(self, item: Sealed, sealed: bytes, result: Json, number: int) -> bytes | OstlerError:
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
        body: Json = None,
        suffix: str = "",
        *,
        idempotent: bool = True,
        timeout_s: float | None = None,
    ) -> Json:
        path = f"{self._settings.mount}/{action}/{self._settings.key}{suffix}"
        return self._client.call(method, path, body, idempotent=idempotent, timeout_s=timeout_s)


def _join(wrapped: str, sealed: bytes) -> bytes:
    return wrapped.encode() + b"\0" + sealed


def _split(data: bytes) -> tuple[str, bytes]:
    wrapped, zero, sealed = data.partition(b"\0")
    if not zero or not wrapped.startswith(b"vault:v") or not wrapped.isascii():
        raise _broken()
    return wrapped.decode(), sealed


def _broken() -> InternalError:
    return InternalError("a sealed passphrase was modified, or belongs to another volume", "SEAL_BROKEN")
