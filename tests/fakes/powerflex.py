"""A stand-in for a PowerFlex gateway, as PyPowerFlex speaks to it: HTTPS on loopback, volumes that are loop devices.

    with gateway(tmp_path) as gw:
        spec = PoolSpec(pool_id, "powerflex", options=gw.options())

A volume is a sparse file. Mapping it to an SDC gives it a loop device and the SDC's directory (`Sdc.by_id`, a host's
/dev/disk/by-id) a link to it, as udev would. Two SDCs that have a volume mapped see the same loop device. Needs root.
It behaves like an array where Ostler depends on it: sizes in multiples of 8 GiB, names of at most 31 characters and
unique, no removal while mapped, no shrinking, old bytes in new volumes unless `zero_padding`.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ostler_common.identity import Identity, Kind

from tests.fakes.certificates import ThrowawayCa

GIB = 1 << 30
NAME_LENGTH = 31
# Written over the first and last bytes of a new volume, and here and there between: another tenant's data.
OLD_BYTES = b"what somebody else left here " * 64


@dataclass
class Sdc:
    """A host as the array knows it: by its client's GUID, or its address. by_id: that host's /dev/disk/by-id."""

    by_id: Path
    ip: str = "127.0.0.1"
    guid: str = "3B8C3E56-1F0C-4F6B-9C59-2A1B6C0DE001"
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass
class Volume:
    """A volume of the array. mapped: ids of the SDCs that see it; device: "" while no SDC does."""

    id: str
    name: str
    file: Path
    size_gib: int
    thick: bool
    mapped: set[str] = field(default_factory=set)
    device: str = ""


class _RefusedError(Exception):
    """What the array says no to."""

    def __init__(self, message: str, code: int, status: int = 500) -> None:
        super().__init__(message)
        self.body = {"message": message, "httpStatusCode": status, "errorCode": code}
        self.status = status


class FakeGateway:
    """The array. Its attributes may be changed while it serves; see `gateway`.

    calls: every action asked of it, e.g. "addMappedSdc ost-...". no_devices: a mapped volume's link never appears.
    refuse: by action, what it answers instead of doing it, e.g. {"addMappedSdc": "The MDM is busy"}; stays until
    removed. before: is called with each action's name before it is done (to kill or to wait at that very point).
    step_gib: what sizes are multiples of; a smaller one, with PowerFlex(step_bytes=...), makes tests quick that read
    whole volumes.
    """

    system_id = "4a6f7c3d2e1b0a9f"
    domain_id = "d0a1b2c300000000"
    pool_id = "b1c2d3e400000000"
    domain, pool = "pd1", "sp1"
    username, password = "ostler", "gateway-" + "secret"

    def __init__(self, directory: Path, sdcs: Sequence[Sdc], api_version: str, capacity_bytes: int) -> None:
        self.directory = directory
        self.sdcs = list(sdcs)
        self.api_version = api_version
        self.capacity_bytes = capacity_bytes
        self.step_gib = 8
        self.zero_padding = False
        self.no_devices = False
        self.volumes: dict[str, Volume] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, str] = {}
        self.before: Callable[[str], None] = lambda _: None
        self.address = ""
        self.ca_pem = ""
        self._tokens: set[str] = set()
        self._lock = threading.RLock()
        for sdc in self.sdcs:
            sdc.by_id.mkdir(parents=True, exist_ok=True)

    # -- for tests

    def options(self) -> dict[str, str]:
        """What a PoolSpec needs in its options to reach this gateway."""
        return {
            "gateway": self.address,
            "username": self.username,
            "protection_domain": self.domain,
            "storage_pool": self.pool,
            "ca": self.ca_pem,
        }

    def named(self, name: str) -> Volume | None:
        """The volume of that name."""
        return next((volume for volume in self.volumes.values() if volume.name == name), None)

    def names(self) -> set[str]:
        return {volume.name for volume in self.volumes.values()}

    def mapped(self) -> set[str]:
        """Names of the volumes that an SDC sees."""
        return {volume.name for volume in self.volumes.values() if volume.mapped}

    # -- the array

    def handle(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """What the gateway answers to a call that is logged in."""
        with self._lock:
            if path == "/api/version":
                return self.api_version
            if found := re.fullmatch(r"/api/types/(\w+)/instances", path):
                return self._create(body) if method == "POST" else self._list(found[1])
            if found := re.fullmatch(r"/api/instances/(\w+)::(\w+)/relationships/(\w+)", path):
                return self._related(*found.groups())
            if found := re.fullmatch(r"/api/instances/Volume::(\w+)/action/(\w+)", path):
                return self._act(self._volume(found[1]), found[2], body)
            if found := re.fullmatch(r"/api/instances/(\w+)::(\w+)", path):
                for item in self._list(found[1]):
                    if item["id"] == found[2]:
                        return item
                raise _RefusedError(f"Could not find the {found[1]}", 3)
        raise _RefusedError(f"no such call: {method} {path}", 0, 404)

    def _list(self, kind: str) -> list[dict[str, Any]]:
        match kind:
            case "System":
                return [{"id": self.system_id, "systemVersionName": "DellEMC PowerFlex Version: R4_5.2000.135"}]
            case "ProtectionDomain":
                return [{"id": self.domain_id, "name": self.domain, "systemId": self.system_id}]
            case "StoragePool":
                return [
                    {
                        "id": self.pool_id,
                        "name": self.pool,
                        "protectionDomainId": self.domain_id,
                        "zeroPaddingEnabled": self.zero_padding,
                    }
                ]
            case "Sdc":
                return [{"id": sdc.id, "sdcGuid": sdc.guid, "sdcIp": sdc.ip} for sdc in self.sdcs]
            case "Volume":
                return [self._described(volume) for volume in self.volumes.values()]
        raise _RefusedError(f"no such type: {kind}", 0, 404)

    def _described(self, volume: Volume) -> dict[str, Any]:
        mapped = [{"sdcId": sdc.id, "sdcIp": sdc.ip} for sdc in self.sdcs if sdc.id in volume.mapped]
        return {
            "id": volume.id,
            "name": volume.name,
            "sizeInKb": volume.size_gib << 20,
            "volumeType": "ThickProvisioned" if volume.thick else "ThinProvisioned",
            "storagePoolId": self.pool_id,
            "mappedSdcInfo": mapped or None,  # as the array says "none"
        }

    def _related(self, kind: str, item_id: str, related: str) -> Any:
        match kind, related:
            case "ProtectionDomain", "StoragePool":
                return [pool for pool in self._list("StoragePool") if pool["protectionDomainId"] == item_id]
            case "StoragePool", "Volume":
                return self._list("Volume")
            case "StoragePool", "Statistics":
                used = sum(volume.size_gib * GIB for volume in self.volumes.values())
                return {
                    # Everything is there twice, and a tenth is spare, as on an array.
                    "maxCapacityInKb": self.capacity_bytes * 2 * 10 // 9 >> 10,
                    "spareCapacityInKb": self.capacity_bytes * 2 // 9 >> 10,
                    "capacityAvailableForVolumeAllocationInKb": max(0, self.capacity_bytes - used) >> 10,
                }
            case "Volume", "Statistics":
                blocks = self._volume(item_id).file.stat().st_blocks
                return {"userDataCapacityInKb": blocks >> 1, "netProvisionedAddressesInKb": blocks >> 1}
        raise _RefusedError(f"no such relationship: {kind} {related}", 0, 404)

    def _create(self, body: dict[str, Any]) -> dict[str, str]:
        name = body["name"]
        self._begin("createVolume", name)
        size_gib = -(-int(body["volumeSizeInGb"]) // self.step_gib) * self.step_gib
        if len(name) > NAME_LENGTH:
            raise _RefusedError("The given name is too long", 31)
        if self.named(name):
            raise _RefusedError("Volume name already in use", 6)
        if body["storagePoolId"] != self.pool_id:
            raise _RefusedError("Could not find the Storage Pool", 3)
        self._check_room(size_gib)
        volume_id = secrets.token_hex(8)
        volume = Volume(volume_id, name, self.directory / f"{volume_id}.img", size_gib, "Thick" in body["volumeType"])
        with volume.file.open("wb") as file:
            file.truncate(size_gib * GIB)
        if not self.zero_padding:
            _soil(volume.file, 0, size_gib * GIB)
        self.volumes[volume_id] = volume
        return {"id": volume_id}

    def _act(self, volume: Volume, action: str, body: dict[str, Any]) -> dict[str, str]:
        self._begin(action, volume.name)
        match action:
            case "addMappedSdc":
                self._map(volume, self._sdc(body), body.get("allowMultipleMappings", "False"))
            case "removeMappedSdc":
                self._unmap(volume, self._sdc(body))
            case "setVolumeSize":
                self._resize(volume, int(body["sizeInGB"]))
            case "setVolumeName":
                if self.named(body["newName"]):
                    raise _RefusedError("Volume name already in use", 6)
                volume.name = body["newName"]
            case "removeVolume":
                if volume.mapped:
                    raise _RefusedError("The volume is mapped to an SDC", 94)
                volume.file.unlink()
                del self.volumes[volume.id]
            case _:
                raise _RefusedError(f"no such action: {action}", 0, 404)
        return {}

    def _begin(self, action: str, name: str) -> None:
        self.calls.append(f"{action} {name}")
        self.before(action)
        if action in self.refuse:
            raise _RefusedError(self.refuse[action], 1)

    def _map(self, volume: Volume, sdc: Sdc, multiple: str) -> None:
        if sdc.id in volume.mapped:
            raise _RefusedError("The volume is already mapped to this SDC", 81)
        if volume.mapped and multiple.upper() != "TRUE":
            raise _RefusedError("The volume is mapped to another SDC", 82)
        if not volume.device:
            command = ["losetup", "--find", "--show", str(volume.file)]
            volume.device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        volume.mapped.add(sdc.id)
        if not self.no_devices:
            self._link(volume, sdc).symlink_to(volume.device)

    def _unmap(self, volume: Volume, sdc: Sdc) -> None:
        if sdc.id not in volume.mapped:
            raise _RefusedError("The volume is not mapped to this SDC", 84)
        volume.mapped.remove(sdc.id)
        self._link(volume, sdc).unlink(missing_ok=True)
        if not volume.mapped:
            subprocess.run(["losetup", "--detach", volume.device], check=True)
            volume.device = ""

    def _resize(self, volume: Volume, size_gib: int) -> None:
        if size_gib % self.step_gib or size_gib <= volume.size_gib:
            raise _RefusedError("The volume size can only be increased, to a multiple of its step", 133)
        self._check_room(size_gib - volume.size_gib)
        with volume.file.open("r+b") as file:
            file.truncate(size_gib * GIB)
        if not self.zero_padding:
            _soil(volume.file, volume.size_gib * GIB, size_gib * GIB)
        volume.size_gib = size_gib
        if volume.device:
            subprocess.run(["losetup", "--set-capacity", volume.device], check=True)

    def _check_room(self, more_gib: int) -> None:
        if sum(volume.size_gib for volume in self.volumes.values()) + more_gib > self.capacity_bytes // GIB:
            raise _RefusedError("Not enough capacity in the Storage Pool to allocate the volume", 61)

    def _volume(self, volume_id: str) -> Volume:
        if volume_id not in self.volumes:
            raise _RefusedError("Could not find the volume", 79)
        return self.volumes[volume_id]

    def _sdc(self, body: dict[str, Any]) -> Sdc:
        for sdc in self.sdcs:
            if body.get("sdcId") == sdc.id or body.get("guid") == sdc.guid:
                return sdc
        raise _RefusedError("Could not find the SDC", 3)

    def _link(self, volume: Volume, sdc: Sdc) -> Path:
        return sdc.by_id / f"emc-vol-{self.system_id}-{volume.id}"

    # -- who may call

    def log_in(self, username: str, password: str) -> str | None:
        """A token, or None for the wrong password."""
        if (username, password) != (self.username, self.password):
            return None
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens.add(token)
        return token

    def knows(self, authorization: str) -> bool:
        """Whether a call carries a token of ours: as a bearer's, or as basic authentication's password."""
        kind, _, value = authorization.partition(" ")
        token = base64.b64decode(value).decode().partition(":")[2] if kind == "Basic" else value
        with self._lock:
            return token in self._tokens

    def close(self) -> None:
        for volume in self.volumes.values():
            for sdc in self.sdcs:
                self._link(volume, sdc).unlink(missing_ok=True)
            if volume.device:
                subprocess.run(["losetup", "--detach", volume.device], check=False, capture_output=True)
            volume.file.unlink(missing_ok=True)


def _soil(file: Path, start: int, end: int) -> None:
    with file.open("r+b") as stream:
        step = (end - start) // 8
        for offset in [*range(start, end, step), start + (1 << 20), start + (3 << 20), end - len(OLD_BYTES)]:
            stream.seek(offset)
            stream.write(OLD_BYTES)


def _sweep() -> None:
    """Lets go of loop devices of gateways that were killed: their files are gone."""
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for device in re.findall(r"^(\S+) \S+/[0-9a-f]{16}\.img\S*\(deleted\)$", listed, re.MULTILINE):
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def array(self) -> FakeGateway:
        return self.server.array  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.loads(raw) if raw else {}
        authorization = self.headers.get("authorization", "")
        if self.path == "/api/login":
            user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
            self._answer_login(self.array.log_in(user, password), lambda token: token)
        elif self.path == "/rest/auth/login":
            token = self.array.log_in(body["username"], body["password"])
            self._answer_login(token, lambda token: {"access_token": token, "refresh_token": token})
        elif not self.array.knows(authorization):
            self._answer(401, {"message": "Unauthorized", "httpStatusCode": 401, "errorCode": 0})
        elif self.path == "/rest/auth/logout":
            self._answer(204, None)
        elif self.path == "/api/logout":
            self._answer(200, "")
        else:
            try:
                self._answer(200, self.array.handle(self.command, self.path, body))
            except _RefusedError as error:
                self._answer(error.status, error.body)

    def _answer_login(self, token: str | None, body: Callable[[str], object]) -> None:
        if token is None:
            self._answer(401, {"message": "Unauthorized", "httpStatusCode": 401, "errorCode": 0})
        else:
            self._answer(200, body(token))

    def _answer(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def gateway(
    directory: Path,
    sdcs: Sequence[Sdc] = (),
    *,
    listen: str = "127.0.0.1",
    api_version: str = "4.5",
    capacity_bytes: int = 1 << 40,
) -> Iterator[FakeGateway]:
    """Serves until the block is left; then no loop device and no file of it is left.

    directory: where the volumes' files are. sdcs: the hosts; none given: one, this machine, whose by_id is
    `directory/by-id`. api_version: "3.6" logs in the old way.
    """
    _sweep()
    directory.mkdir(parents=True, exist_ok=True)
    issuer = ThrowawayCa(directory, "gateway")
    files = issuer.issue(Identity(Kind.CONTROL, "gateway"), addresses=(listen, "localhost"))
    array = FakeGateway(directory, sdcs or [Sdc(directory / "by-id")], api_version, capacity_bytes)
    server = ThreadingHTTPServer((listen, 0), _Handler)
    server.daemon_threads = True
    server.array = array  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    array.address = f"{listen}:{server.server_address[1]}"
    array.ca_pem = issuer.trust.read_text()
    thread = threading.Thread(target=server.serve_forever, name="powerflex", daemon=True)
    thread.start()
    try:
        yield array
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        array.close()
