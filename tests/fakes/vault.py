"""A stand-in for HashiCorp Vault: over real TLS on loopback, the documented calls of the transit engine and of AppRole
that Ostler makes, with real AES-GCM under versioned keys. Faults on demand."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ostler_common.identity import Identity, Kind

from tests.fakes.certificates import ThrowawayCa

TOKEN, ROLE_ID, SECRET_ID = "hvs.token-of-the-tests", "role-of-the-tests", "secret-id-of-the-tests"
Json = Any


class BadError(Exception):
    """HTTP 400 with this text."""


@dataclass
class Key:
    """A transit key: version n is keys[n - 1]."""

    keys: list[bytes] = field(default_factory=lambda: [secrets.token_bytes(32)])
    min_decryption_version: int = 1

    def encrypt(self, item: Json) -> Json:
        version = item.get("key_version") or len(self.keys)
        if not 1 <= version <= len(self.keys):
            raise BadError("cannot encrypt with a version of the key that does not exist")
        nonce = secrets.token_bytes(12)
        plain = base64.b64decode(item["plaintext"], validate=True)
        sealed = nonce + AESGCM(self.keys[version - 1]).encrypt(nonce, plain, None)
        return {"ciphertext": f"vault:v{version}:{base64.b64encode(sealed).decode()}", "key_version": version}

    def decrypt(self, item: Json) -> Json:
        try:
            engine, version_text, text = item["ciphertext"].split(":")
            version, sealed = int(version_text.removeprefix("v")), base64.b64decode(text, validate=True)
            assert engine == "vault"
        except (ValueError, AssertionError):
            raise BadError("invalid ciphertext: could not decode") from None
        if version > len(self.keys):
            raise BadError("invalid ciphertext: version is too new")
        if version < self.min_decryption_version:
            raise BadError("ciphertext or signature version is disallowed by policy (too old)")
        try:
            plain = AESGCM(self.keys[version - 1]).decrypt(sealed[:12], sealed[12:], None)
        except (InvalidTag, ValueError):
            raise BadError("cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plain).decode()}

    def rewrap(self, item: Json) -> Json:
        return self.encrypt({**self.decrypt(item), "key_version": item.get("key_version")})


@dataclass
class Vault:
    """sealed: it answers 503. failures: so many next calls end with HTTP 500. tokens: the good ones. requests: path and
    body of each."""

    url: str = ""
    ca_file: Path = Path()
    keys: dict[str, Key] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    sealed: bool = False
    failures: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str, text: str) -> tuple[int, Json]:
        self.requests.append((f"{method} {path}", text))
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if self.failures:
            self.failures -= 1
            return 500, {"errors": ["internal error"]}
        body = json.loads(text) if text else {}
        if path == "auth/approle/login":
            if (body.get("role_id"), body.get("secret_id")) != (ROLE_ID, SECRET_ID):
                return 400, {"errors": ["invalid role or secret ID"]}
            self.tokens.add(made := f"hvs.{secrets.token_hex(8)}")
            return 200, {"auth": {"client_token": made, "lease_duration": 3600}}
        if token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        try:
            return self._transit(method, path.split("/"), body)
        except BadError as error:
            return 400, {"errors": [str(error)]}

    def _transit(self, method: str, words: list[str], body: Json) -> tuple[int, Json]:
        match method, *words:
            case "GET", "transit", "keys", name if name in self.keys:
                return 200, {"data": self._described(name)}
            case "POST", "transit", "keys", name, "rotate" if name in self.keys:
                self.keys[name].keys.append(secrets.token_bytes(32))
                return 200, {"data": self._described(name)}
            case "POST", "transit", "keys", name, "config" if name in self.keys:
                least = body["min_decryption_version"]
                if not 1 <= least <= len(self.keys[name].keys):
                    raise BadError("cannot set min decryption version greater than latest")
                self.keys[name].min_decryption_version = least
                return 200, {"data": self._described(name)}
            case "POST", "transit", "encrypt" | "decrypt" | "rewrap" as action, name:
                if name not in self.keys:
                    raise BadError("encryption key not found")
                work = getattr(self.keys[name], action)
                if "batch_input" not in body:
                    return 200, {"data": work(body)}
                results = [_tried(work, item) for item in body["batch_input"]]
                status = 400 if any("error" in result for result in results) else 200
                return status, {"data": {"batch_results": results}}
        return 404, {"errors": []}

    def _described(self, name: str) -> Json:
        key = self.keys[name]
        return {
            "name": name,
            "type": "aes256-gcm96",
            "latest_version": len(key.keys),
            "min_decryption_version": key.min_decryption_version,
            "min_encryption_version": 0,
        }


def _tried(work: Any, item: Json) -> Json:
    try:
        return work(item)
    except BadError as error:
        return {"error": str(error)}


@contextlib.contextmanager
def vault(directory: Path, key: str = "ostler") -> Iterator[Vault]:
    """Such a server, unsealed, with one transit key; its certificate is of a CA of its own."""
    issuer = ThrowawayCa(directory, "vault")
    files = issuer.issue(Identity(Kind.CONTROL, "vault"))
    running = Vault(ca_file=issuer.trust, keys={key: Key()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = self.path.removeprefix("/v1/")
            status, answer = running.answer(self.command, path, self.headers.get("X-Vault-Token") or "", text)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
