"""Volumes made of files that callers send, against agents that work in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from google.longrunning import operations_pb2
from ostler.control.v1 import enrollment_pb2
from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control.api.enrollment import HostAgentService
from ostler_control.api.volumes import VolumeService
from ostler_control.caller import Caller
from ostler_control.models import Event, Operation, Passphrase, Volume, VolumeFile, new_id
from ostler_control.operations import Engine
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.trust.authority import Authority

from tests.fakes.working_agent import Fault, File, bytes_of, wait_until
from tests.sites import GIB, MIB, Site, outcome
from tests.unit.control import calls

OPENS = b"opens the caller's file"
OK = ("succeeded", "")
QCOW2, RAW = types_pb2.DISK_FORMAT_QCOW2, types_pb2.DISK_FORMAT_RAW
LOCKED = bytes_of(File(3 * MIB + 512, QCOW2, OPENS))
CONTAINER = bytes_of(File(0, RAW, OPENS))
PLAIN = bytes_of(File(3 * MIB, QCOW2, b""))


@pytest.fixture(scope="module", autouse=True)
def known_files(working: tuple[Site, Engine]) -> None:
    site, _ = working
    for file in (LOCKED, CONTAINER):
        site.fleet.template_keys[hashlib.sha256(file).hexdigest()] = OPENS


@pytest.fixture
def site(site: Site, engine: Engine) -> Iterator[Site]:
    """Every test leaves nothing but volumes, and of their uploads nothing at all."""
    yield site
    wait_until(lambda: not Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS)).exists())
    assert not engine.templates.exists() or list(engine.templates.iterdir()) == []
    assert list(VolumeFile.select()) == []


def uploaded(
    engine: Engine, caller: Caller, file: bytes, passphrase: bytes = b"", **fields: Any
) -> operations_pb2.Operation:
    wanted = {
        "name": "brought",
        "disk_offering": "encrypted",
        "format": QCOW2,
        "passphrase": passphrase,
        "file_size_bytes": len(file),
        "sha256": hashlib.sha256(file).hexdigest(),
        **fields,
    }
    messages = [pb.UploadVolumeRequest(header=pb.UploadVolumeRequest.Header(**wanted))]
    messages += [pb.UploadVolumeRequest(data=file[at : at + 500]) for at in range(0, len(file), 500)]
    service = VolumeService(engine.agents, engine.keys, engine.templates)
    return service.UploadVolume(iter(messages), calls.context(caller))


def ended(engine: Engine, operation: Any) -> tuple[str, str]:
    return outcome(engine, Operation.get_by_id(operation.name.removeprefix("operations/")))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize(("file", "layout"), [(LOCKED, QCOW2), (CONTAINER, RAW)])
def test_an_encrypted_file_becomes_a_volume_under_a_key_of_its_own(
    site: Site, engine: Engine, file: bytes, layout: int
) -> None:
    caller = calls.user(f"alice{layout}", site.account)
    request_id = new_id()
    operation = uploaded(engine, caller, file, OPENS, format=layout, request_id=request_id)
    assert ended(engine, operation) == OK
    volume: Any = Volume.get(Volume.name == "brought")
    assert (volume.state, volume.encrypt_format, volume.size_bytes % MIB) == ("ready", "luks", 0)
    made = site.fleet.pools[volume.pool_id][volume.id]
    assert made.passphrase == site.keys.open(volume).reveal() != OPENS
    assert Passphrase.select().count() == 1
    event: Any = Event.get((Event.type == "volume.key.destroy") & (Event.resource_id == volume.id))
    assert "an upload is gone, and its key destroyed" in event.message
    assert event.operation_id
    again = uploaded(engine, caller, file, OPENS, format=layout, request_id=request_id)
    assert again.name == operation.name
    for path in site.state_dir.rglob("*"):
        assert not path.is_file() or OPENS not in path.read_bytes(), path


def test_a_plain_file_becomes_what_the_offering_says(site: Site, engine: Engine) -> None:
    for kind, found in (("encrypted", "luks"), ("plain", "none")):
        operation = uploaded(engine, site.admin(), PLAIN, name=kind, disk_offering=kind, pool="local1")
        assert ended(engine, operation) == OK
        volume: Any = Volume.get(Volume.name == kind)
        assert (volume.encrypt_format, volume.size_bytes, volume.pool.name) == (found, 3 * MIB, "local1")


def test_hosts_fetch_the_file_while_it_is_needed(site: Site, engine: Engine) -> None:
    hold = threading.Event()
    faults = [fake.fail("CreateVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    operation = uploaded(engine, site.admin(), LOCKED, OPENS)
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    file: Any = VolumeFile.get(VolumeFile.role == "upload")
    assert OPENS not in bytes(Passphrase.get_by_id(file.passphrase_id).sealed)
    hosts = HostAgentService(cast("Authority", None), engine.templates)
    request = enrollment_pb2.DownloadTemplateRequest(template_id=file.id, offset=5)
    context = calls.context(site.admin())
    assert b"".join(answer.data for answer in hosts.DownloadTemplate(request, context)) == LOCKED[5:]
    hold.set()
    assert ended(engine, operation) == OK
    assert refused(lambda: list(hosts.DownloadTemplate(request, context))) == "TEMPLATE_NOT_FOUND"


def test_a_wrong_passphrase_leaves_nothing(site: Site, engine: Engine) -> None:
    assert ended(engine, uploaded(engine, site.admin(), LOCKED, b"not the one")) == ("failed", "WRONG_KEY")
    assert not Volume.select().exists()
    assert (site.fleet.files(), Passphrase.select().count()) == ({}, 0)


@pytest.mark.parametrize(
    ("file", "fields", "reason"),
    [
        (LOCKED, {}, "ENCRYPTED_IMAGE"),
        (PLAIN, {"passphrase": OPENS}, "NOT_ENCRYPTED"),
        (LOCKED, {"passphrase": OPENS, "disk_offering": "plain"}, "ENCRYPTION_MISMATCH"),
        (LOCKED, {"passphrase": b"\xff"}, "INVALID_PASSPHRASE"),
        (PLAIN, {"sha256": "0" * 64}, "DIGEST_MISMATCH"),
        (PLAIN, {"file_size_bytes": 9999}, "SIZE_MISMATCH"),
        (PLAIN, {"file_size_bytes": 0}, "INVALID_SIZE"),
        (PLAIN, {"name": "no good"}, "INVALID_NAME"),
        (PLAIN, {"disk_offering": "none"}, "DISK_OFFERING_NOT_FOUND"),
        (bytes_of(File(2 * GIB, QCOW2, b"")), {"disk_offering": "thick"}, "INVALID_SIZE"),
        (CONTAINER, {"format": RAW}, "FORMAT_MISMATCH"),
        (PLAIN, {"format": RAW}, "FORMAT_MISMATCH"),
    ],
)
def test_what_is_refused_leaves_nothing(
    site: Site, engine: Engine, file: bytes, fields: dict[str, Any], reason: str
) -> None:
    before = Operation.select().count()
    assert refused(lambda: uploaded(engine, site.admin(), file, **fields)) == reason
    assert Operation.select().count() == before
    assert not Volume.select().exists()


def test_members_choose_neither_a_pool_nor_a_name_in_use(site: Site, engine: Engine) -> None:
    caller = calls.user("bob", site.account)
    assert refused(lambda: uploaded(engine, caller, PLAIN, pool="shared")) == "ADMINS_ONLY_FIELD"
    assert ended(engine, uploaded(engine, caller, PLAIN)) == OK
    assert refused(lambda: uploaded(engine, caller, PLAIN)) == "VOLUME_EXISTS"


@pytest.mark.parametrize("before", [True, False])
def test_an_upload_that_fails_on_the_host_leaves_nothing(site: Site, engine: Engine, before: bool) -> None:
    for fake in site.hosts.values():
        fake.fail("CreateVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
    assert ended(engine, uploaded(engine, site.admin(), LOCKED, OPENS)) == ("failed", "NO_WAY")
    assert not Volume.select().exists()
