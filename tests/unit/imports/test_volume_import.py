"""Images that lie in a pool become volumes, from request to end, on agents that work in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from ostler.control.v1 import import_pb2 as pb
from ostler.types.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_control.api.imports import ImportService
from ostler_control.models import Operation, Passphrase, Pool, Volume, new_id
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import Fault, File
from tests.sites import MIB, Site, outcome, site_at_work
from tests.unit.control import calls

NAME = "old.qcow2"
OK = ("succeeded", "")


@dataclass
class Api:
    """The service, its caller, and what is behind it."""

    service: ImportService
    context: grpc.ServicerContext
    site: Site
    engine: Engine

    @property
    def files(self) -> dict[str, File]:
        """Those of the shared pool."""
        return self.site.fleet.pools.setdefault(Pool.get(Pool.name == "shared").id, {})

    def put(self, name: str = NAME, passphrase: bytes = b"") -> None:
        self.files[name] = File(4 * MIB, volume_pb2.DISK_FORMAT_QCOW2, passphrase)

    def begin(self, **changes: Any) -> Any:
        fields = {"pool": "shared", "file_name": NAME, "name": "data", "account": "acme", "format": "qcow2"}
        found = self.service.ImportVolume(pb.ImportVolumeRequest(**(fields | changes)), self.context)
        return None if changes.get("validate_only") else Operation.get_by_id(found.name.rpartition("/")[2])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with (
        databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url,
        site_at_work(url, tmp_path) as (site, engine),
    ):
        api = Api(ImportService(engine.keys, engine.agents), calls.context(site.admin()), site, engine)
        api.put()
        yield api


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_file_becomes_a_volume(api: Api) -> None:
    assert outcome(api.engine, api.begin()) == OK
    volume = Volume.get()
    assert (volume.name, volume.state, volume.size_bytes, volume.encrypt_format) == ("data", "ready", 4 * MIB, "none")
    assert set(api.files) == {volume.file_id}


def test_a_repeated_request_gets_the_operation_of_the_first(api: Api) -> None:
    request_id = new_id()
    first = api.begin(request_id=request_id)
    assert outcome(api.engine, first) == OK
    assert NAME not in api.files
    assert api.begin(request_id=request_id).id == first.id
    assert reason(lambda: api.begin(request_id=request_id, name="other")) == "REQUEST_ID_REUSED"
    assert Volume.select().count() == 1


def test_an_encrypted_file_keeps_its_passphrase_as_the_volumes(api: Api) -> None:
    api.put("secret.qcow2", b"open sesame")
    assert outcome(api.engine, api.begin(file_name="secret.qcow2", passphrase=b"open sesame")) == OK
    volume = Volume.get()
    assert (volume.encrypt_format, api.engine.keys.open(volume).reveal()) == ("luks", b"open sesame")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"disk_offering": "raw"}, "FORMAT_MISMATCH"),
        ({"disk_offering": "thick"}, "INVALID_SIZE"),
        ({"file_name": "../x"}, "INVALID_NAME"),
        ({"file_name": "missing.qcow2"}, "VOLUME_NOT_FOUND"),
        ({"format": "vmdk"}, "INVALID_FORMAT"),
        ({"name": "a b"}, "INVALID_NAME"),
        ({"pool": "nowhere"}, "POOL_NOT_FOUND"),
        ({"disk_offering": "encrypted"}, "ENCRYPTION_MISMATCH"),
        ({"passphrase": b"wrong"}, "WRONG_KEY"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_the_file_stays(api: Api, changes: dict[str, Any], expected: str) -> None:
    assert reason(lambda: api.begin(**changes)) == expected
    assert set(api.files) == {NAME}
    assert Volume.select().count() == Operation.select().count() == Passphrase.select().count() == 0


def test_a_file_of_a_volume_is_refused(api: Api) -> None:
    assert outcome(api.engine, api.begin()) == OK
    assert reason(lambda: api.begin(file_name=Volume.get().file_id, name="again")) == "VOLUME_KNOWN"
    api.put()
    assert reason(lambda: api.begin()) == "VOLUME_EXISTS"


def test_a_dry_run_changes_nothing(api: Api) -> None:
    api.begin(validate_only=True)
    assert (set(api.files), Volume.select().count()) == ({NAME}, 0)


@pytest.mark.parametrize("before", [True, False])
def test_a_failure_gives_the_file_its_name_back(api: Api, before: bool) -> None:
    for fake in api.site.hosts.values():
        fake.fail("AdoptVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=before, times=1))
    assert outcome(api.engine, api.begin()) == ("failed", "NO_WAY")
    assert (set(api.files), Volume.select().count()) == ({NAME}, 0)


def test_a_volume_whose_file_may_have_its_name_stays_as_failed(api: Api) -> None:
    for fake in api.site.hosts.values():
        fake.fail("AdoptVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=1))
        fake.fail("ReleaseVolume", Fault(UnavailableError("gone", "GONE"), before=True, times=1))
    assert outcome(api.engine, api.begin()) == ("failed", "NO_WAY")
    assert Volume.get().state == "failed"
    assert Volume.get().file_id in Volume.get().state_reason
