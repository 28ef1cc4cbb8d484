"""HashiCorp Vault's HTTP API: what the transit engine needs."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.secret import Secret

_CONNECT_TIMEOUT_S, _TIMEOUT_S = 3.0, 10.0
_RETRY_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0

# What a JSON document holds is checked where it is used.
Json = Any

for _name in ("httpx", "httpcore"):  # they log every request
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class VaultSettings:
    """url: "https://..."; mount, key: of the transit engine; ca_file: None for the system's CAs. Either token_file, or
    role_id and secret_id_file (AppRole, mounted at approle_mount)."""

    url: str
    mount: str = "transit"
    key: str = "ostler"
    ca_file: Path | None = None
    token_file: Path | None = None
    approle_mount: str = "approle"
    role_id: str = ""
    secret_id_file: Path | None = None


class RefusedError(FailedPreconditionError):
    """Vault says that the request is bad (400). Its text is checked but not passed on: it may quote the request."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        super().__init__("Vault refused a request as invalid; its audit log says which", "VAULT_REFUSED")
        self.version_refused = any(refuses_version(text) for text in texts)


def refuses_version(text: str) -> bool:
    """Whether Vault's text says that the key's version is disallowed or missing."""
    return "too old" in text or "too new" in text


class VaultClient:
    """Calls with timeouts, and retries where that may help. Its errors say nothing of what was sent."""

    def __init__(self, settings: VaultSettings) -> None:
        """Raises FailedPreconditionError VAULT_CREDENTIAL when the CA's, token's or secret id's file cannot be read."""
        self._settings = settings
        self._lock = threading.Lock()
        self._login: Secret | None = None
        self._credential()
        try:
            context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        except (OSError, ssl.SSLError):
            raise _unreadable("CA", settings.ca_file) from None
        self._http = httpx.Client(
            base_url=f"{settings.url.rstrip('/')}/v1/",
            verify=context,
            trust_env=False,  # a proxy in the environment would see the token
        )

    def call(
        self, method: str, path: str, body: Json = None, *, timeout_s: float | None = None, idempotent: bool = True
    ) -> Mapping[str, Json]:
        """The answer's `data`.

        timeout_s: for how long transient failures are retried, None for the default; idempotent: retry also when Vault
        may have executed the request.

        Raises UnavailableError (VAULT_UNREACHABLE, VAULT_SEALED), FailedPreconditionError (VAULT_DENIED,
        VAULT_KEY_MISSING, and RefusedError).
        """
        timeout_s = _RETRY_TIMEOUT_S if timeout_s is None else timeout_s
        end, pause_s, logged_in = time.monotonic() + timeout_s, _FIRST_PAUSE_S, False
        while True:
            try:
                return self._once(method, path, body, max(min(_TIMEOUT_S, timeout_s), 0.5))
            except FailedPreconditionError as error:
                # The token may have expired, or its file may have been replaced.
                if error.reason != "VAULT_DENIED" or logged_in:
                    raise
                logged_in = True
                self._login = None
            except UnavailableError as error:
                uncertain = error.metadata.get("sent") == "yes"
                if time.monotonic() + pause_s > end or (uncertain and not idempotent):
                    raise
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    def _once(self, method: str, path: str, body: Json, timeout_s: float) -> Mapping[str, Json]:
        headers = {"X-Vault-Token": self._token().reveal().decode()}
        return self._data(self._send(method, path, body, headers, timeout_s)).get("data") or {}

    def _send(
        self, method: str, path: str, body: Json, headers: Mapping[str, str], timeout_s: float = _TIMEOUT_S
    ) -> httpx.Response:
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        try:
            return self._http.request(
                method, path, json=body, headers={"X-Vault-Request": "true", **headers}, timeout=timeout
            )
        except httpx.ConnectError as error:
            why = (
                "its certificate is not trusted (set vault_ca_file)" if "CERTIFICATE" in str(error) else "no connection"
            )
            raise self._unreachable(why, sent=False) from None
        except httpx.TransportError as error:
            raise self._unreachable(type(error).__name__, sent=True) from None

    def _data(self, response: httpx.Response) -> Mapping[str, Json]:
        try:
            parsed: Json = response.json() if response.content else {}
        except ValueError:
            parsed = {}
        answer: Mapping[str, Json] = parsed if isinstance(parsed, dict) else {}
        texts = [str(text) for text in answer.get("errors") or []]
        match response.status_code:
            case 200 | 204:
                return answer
            case 400 if "batch_results" in (answer.get("data") or {}):
                return answer  # each item has its own result
            case 400 if any("key not found" in text for text in texts):
                raise self._key_missing()
            case 400:
                raise RefusedError(texts)
            case 403:
                raise FailedPreconditionError(
                    f"Vault at {self._settings.url} forbids the control plane to use the key "
                    f"{self._settings.mount}/{self._settings.key}: check the token and its policy (docs/keys.md)",
                    "VAULT_DENIED",
                )
            case 404:
                raise self._key_missing()
            case 503:
                raise UnavailableError(
                    f"Vault at {self._settings.url} is sealed: encrypted volumes open once it is unsealed",
                    "VAULT_SEALED",
                )
            case status:
                raise self._unreachable(f"it answered with HTTP status {status}", sent=True)

    def _key_missing(self) -> FailedPreconditionError:
        mount, key = self._settings.mount, self._settings.key
        return FailedPreconditionError(
            f"Vault at {self._settings.url} has no key {key} in {mount}/ "
            f"(create it: vault write -f {mount}/keys/{key})",
            "VAULT_KEY_MISSING",
        )

    def _unreachable(self, why: str, *, sent: bool) -> UnavailableError:
        return UnavailableError(
            f"Vault at {self._settings.url} cannot be used: {why}",
            "VAULT_UNREACHABLE",
            {"sent": "yes" if sent else "no"},
        )

    def _token(self) -> Secret:
        if not self._settings.role_id:
            return self._credential()
        with self._lock:
            if self._login is None:
                secret_id = self._credential().reveal().decode()
                body = {"role_id": self._settings.role_id, "secret_id": secret_id}
                self._login = Secret(self._log_in(body).encode())
            return self._login

    def _log_in(self, body: Json) -> str:
        try:
            answer = self._data(self._send("POST", f"auth/{self._settings.approle_mount}/login", body, {}))
            return str(answer["auth"]["client_token"])
        except (RefusedError, KeyError, TypeError):
            raise FailedPreconditionError(
                f"Vault at {self._settings.url} does not accept the role id and the secret id", "VAULT_DENIED"
            ) from None

    def _credential(self) -> Secret:
        """The token or the secret id, read from its file now."""
        settings = self._settings
        what, path = ("secret id", settings.secret_id_file) if settings.role_id else ("token", settings.token_file)
        try:
            text = path.read_text().strip() if path else ""
        except (OSError, UnicodeDecodeError):
            text = ""
        if not text or not text.isascii():
            raise _unreadable(what, path)
        return Secret(text.encode())


def _unreadable(what: str, path: Path | None) -> OstlerError:
    return FailedPreconditionError(f"the file with Vault's {what}, {path}, cannot be used", "VAULT_CREDENTIAL")
