"""ImportService, called as the server calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import ModuleType

import grpc
import pytest
from ostler.control.v1 import import_pb2 as pb
from ostler_common.errors import OstlerError
from ostler_common.redaction import redacted
from ostler_control.api.authorization import TABLE
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.imports import ImportService
from ostler_control.caller import Role
from ostler_control.imports import kvm_source, sources
from ostler_control.models import (
    Event,
    Host,
    ImportSource,
    Operation,
    Passphrase,
    ServiceOffering,
    Vm,
    VmOrigin,
    new_id,
)
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.remote_kvm import CLIENT_CERTIFICATE, KNOWN_HOSTS, PRIVATE_KEY
from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter, vcenter
from tests.sites import GIB, MIB, Site, outcome, site_at_work
from tests.unit.control import calls
from tests.unit.imports.kvm_site import add_vm
from tests.unit.vmware.conftest import NETWORK, make_vmdk, vm_spec


@dataclasses.dataclass
class Api:
    """The service, its caller, and what is behind it."""

    service: ImportService
    context: grpc.ServicerContext
    site: Site
    engine: Engine
    vcenter: FakeVcenter

    def source_request(self, **changes: object) -> pb.CreateImportSourceRequest:
        request = pb.CreateImportSourceRequest(
            name="vc1",
            type="vmware",
            address=f"{self.vcenter.host}:{self.vcenter.port}",
            username=USER,
            password=PASSWORD.encode(),
            thumbprint=self.vcenter.sha256,
        )
        for field, value in changes.items():
            setattr(request, field, value)
        return request


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("api")
    disk = make_vmdk(directory / "disk.vmdk", 8 * MIB, 1)
    machines = [vm_spec("web 1", [disk]), vm_spec("Web 2", [disk], on=True), vm_spec("db", [disk])]
    (directory / "vc").mkdir()
    with (
        databases.bound(f"sqlite:///{directory}/ostler.sqlite") as url,
        site_at_work(url, directory) as (site, engine),
        vcenter(directory / "vc", machines) as server,
    ):
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB)
        context = calls.context(site.admin())
        yield Api(ImportService(engine.keys, engine.agents), context, site, engine, server)


@pytest.fixture
def source(api: Api) -> Iterator[pb.ImportSource]:
    yield api.service.CreateImportSource(api.source_request(), api.context)
    api.service.DeleteImportSource(pb.DeleteImportSourceRequest(source="vc1"), api.context)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def spec(**changes: object) -> pb.ImportSpec:
    fields: dict[str, object] = {
        "source": "vc1",
        "source_vm": "web 1",
        "service_offering": "two",
        "account": "acme",
        "networks": {NETWORK: "public"},
    }
    return pb.ImportSpec(**(fields | changes))  # type: ignore[arg-type]


def test_a_source_is_created_listed_and_deleted(api: Api) -> None:
    request_id = new_id()
    made = api.service.CreateImportSource(api.source_request(request_id=request_id), api.context)
    again = api.service.CreateImportSource(api.source_request(request_id=request_id), api.context)
    assert made == again
    assert PASSWORD not in str(made)
    assert api.service.GetImportSource(pb.GetImportSourceRequest(source=made.id), api.context) == made
    listed = api.service.ListImportSources(pb.ListImportSourcesRequest(), api.context)
    assert list(listed.sources) == [made]
    assert reason(lambda: api.service.CreateImportSource(api.source_request(), api.context)) == "SOURCE_EXISTS"
    api.service.DeleteImportSource(pb.DeleteImportSourceRequest(source="vc1"), api.context)
    assert ImportSource.select().count() == 0
    told = Event.select().where(Event.resource_type == "import-source").order_by(Event.create_time)
    assert [(event.type, event.outcome) for event in told] == [
        ("import-source.create", "succeeded"),
        ("import-source.delete", "succeeded"),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": "hyperv"}, "INVALID_SOURCE_TYPE"),
        ({"name": "a b"}, "INVALID_NAME"),
        ({"address": "http://vc"}, "INVALID_ADDRESS"),
        ({"username": "x" * 257}, "INVALID_USERNAME"),
        ({"password": b""}, "INVALID_PASSWORD"),
        ({"password": b"x" * 1025}, "INVALID_PASSWORD"),
        ({"password": b"\xff"}, "INVALID_PASSWORD"),
        ({"password": b"wrong"}, "VCENTER_LOGIN_REFUSED"),
        ({"thumbprint": "ab"}, "INVALID_THUMBPRINT"),
        ({"thumbprint": "ab" * 32}, "VCENTER_UNTRUSTED"),
        ({"ca_pem": "no PEM"}, "INVALID_CA"),
    ],
)
def test_a_bad_source_is_refused_and_not_recorded(api: Api, changes: dict[str, object], expected: str) -> None:
    assert reason(lambda: api.service.CreateImportSource(api.source_request(**changes), api.context)) == expected
    assert ImportSource.select().count() == 0


def test_a_source_without_any_trust_is_refused(api: Api) -> None:
    request = api.source_request()
    request.ClearField("trust")
    assert reason(lambda: api.service.CreateImportSource(request, api.context)) == "REQUIRED"


@pytest.mark.usefixtures("source")
def test_a_source_gets_another_password_or_trust(api: Api) -> None:
    before = ImportSource.get()
    update = api.service.UpdateImportSource
    request = pb.UpdateImportSourceRequest(source="vc1", ca_pem=api.vcenter.ca_pem)
    assert update(request, api.context).ca_pem == api.vcenter.ca_pem
    row = ImportSource.get()
    assert (row.thumbprint, row.username) == ("", before.username)
    assert Event.get(Event.type == "import-source.update").resource_id == row.id
    assert api.engine.keys.open(row).reveal() == PASSWORD.encode()
    assert Passphrase.select().where(Passphrase.id == before.passphrase_id).count() == 0
    bad = pb.UpdateImportSourceRequest(source="vc1", password=b"wrong")
    assert reason(lambda: update(bad, api.context)) == "VCENTER_LOGIN_REFUSED"
    assert ImportSource.get().passphrase_id == row.passphrase_id, "a change that does not work is not recorded"


@pytest.mark.parametrize("module", [sources, kvm_source])
def test_of_two_changes_of_a_source_at_once_the_second_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    service, context = api.service, api.context
    if module is sources:
        made = service.CreateImportSource(api.source_request(), context)
        first = pb.UpdateImportSourceRequest(source=made.name, password=PASSWORD.encode())
        second = pb.UpdateImportSourceRequest(source=made.name, ca_pem=api.vcenter.ca_pem)
    else:
        made = service.CreateImportSource(kvm_request(), context)
        first = pb.UpdateImportSourceRequest(source=made.name, username="ada")
        second = pb.UpdateImportSourceRequest(source=made.name, username="eve")
    prove, recorded = module.prove, []

    def change_meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(module, "prove", prove)
        recorded.append(service.UpdateImportSource(first, context))
        prove(*arguments)

    monkeypatch.setattr(module, "prove", change_meanwhile)
    assert reason(lambda: service.UpdateImportSource(second, context)) == "SOURCE_CHANGED_MEANWHILE"
    assert [service.GetImportSource(pb.GetImportSourceRequest(source=made.name), context)] == recorded
    assert [key.id for key in Passphrase.select()] == [ImportSource.get().passphrase_id]
    service.DeleteImportSource(pb.DeleteImportSourceRequest(source=made.name), context)


def test_a_source_may_only_be_checked(api: Api) -> None:
    draft = api.service.CreateImportSource(api.source_request(validate_only=True), api.context)
    assert (draft.name, draft.id) == ("vc1", "")
    assert ImportSource.select().count() == 0


def test_the_password_is_redacted(api: Api) -> None:
    assert PASSWORD not in str(redacted(api.source_request()))


@pytest.mark.usefixtures("source")
def test_vms_are_listed_filtered_and_paged(api: Api) -> None:
    def listed(**fields: object) -> list[str]:
        request = pb.ListSourceVmsRequest(source="vc1", **fields)  # type: ignore[arg-type]
        return [vm.name for vm in api.service.ListSourceVms(request, api.context).vms]

    assert listed() == ["Web 2", "db", "web 1"]
    assert listed(name_contains="WEB") == ["Web 2", "web 1"]
    assert listed(power=pb.SourceVm.OFF) == ["db", "web 1"]
    assert listed(place="DC0_C0") == ["Web 2", "db", "web 1"]
    assert listed(place="elsewhere") == []
    first = api.service.ListSourceVms(pb.ListSourceVmsRequest(source="vc1", page_size=2), api.context)
    request = pb.ListSourceVmsRequest(source="vc1", page_size=2, page_token=first.next_page_token)
    assert [vm.name for vm in api.service.ListSourceVms(request, api.context).vms] == ["web 1"]


@pytest.mark.usefixtures("source")
def test_a_check_answers_go_or_no_go(api: Api) -> None:
    go = api.service.CheckImport(pb.CheckImportRequest(spec=spec()), api.context)
    assert (go.go, list(go.findings), go.download_by, go.staging_pool_name) == (True, [], "control", "shared")
    assert go.conversion_host_name in ("h1", "h2")
    no = api.service.CheckImport(pb.CheckImportRequest(spec=spec(networks={})), api.context)
    assert (no.go, no.findings[0].code, no.findings[0].severity) == (False, "NIC_NOT_MAPPED", pb.ImportFinding.ERROR)
    assert "--network" in no.findings[0].remedy
    warm = api.service.CheckImport(pb.CheckImportRequest(spec=spec(warm=True)), api.context)
    assert (warm.go, warm.findings[0].code, warm.staging_pool_name) == (False, "WARM_VM_OFF", "")


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": "vc9"}, "IMPORT_SOURCE_NOT_FOUND"),
        ({"source_vm": "nobody"}, "SOURCE_VM_NOT_FOUND"),
        ({"source_vm": "vm-99999"}, "SOURCE_VM_NOT_FOUND"),
        ({"source_vm": ""}, "REQUIRED"),
        ({"name": "a b"}, "INVALID_NAME"),
        ({"service_offering": "none"}, "SERVICE_OFFERING_NOT_FOUND"),
        ({"zone": "zone", "cluster": "cluster"}, "CONFLICTING_FIELDS"),
        ({"networks": {str(number): "public" for number in range(65)}}, "TOO_MANY_NETWORKS"),
        ({"networks": {}}, "IMPORT_REFUSED"),
        ({"cut_over": pb.AUTO}, "CONFLICTING_FIELDS"),
        ({"warm": True, "cut_over": 7}, "INVALID_FIELD"),
        ({"warm": True, "shutdown": True}, "CONFLICTING_FIELDS"),
        ({"warm": True, "staging_pool": "shared"}, "CONFLICTING_FIELDS"),
        ({"warm": True}, "IMPORT_REFUSED"),
    ],
)
def test_a_bad_import_is_refused_and_changes_nothing(api: Api, changes: dict[str, object], expected: str) -> None:
    request = pb.ImportVmRequest(spec=spec(**changes))
    assert reason(lambda: api.service.ImportVm(request, api.context)) == expected
    assert Vm.select().count() == Operation.select().where(Operation.verb == "vm.import").count() == 0


@pytest.mark.usefixtures("source")
def test_an_import_is_repeated_by_its_request_id(api: Api) -> None:
    request = pb.ImportVmRequest(request_id=new_id(), spec=spec(stopped=True))
    first = api.service.ImportVm(request, api.context)
    row = Operation.get(Operation.verb == "vm.import")
    assert outcome(api.engine, row) == ("succeeded", "")
    assert api.service.ImportVm(request, api.context).name == first.name
    assert Vm.select().count() == 1
    assert PASSWORD not in row.inputs
    shown = convert_vms.vm(Vm.get(), api.site.admin())
    assert (shown.guest_os, shown.imported_from) == ("ubuntu", f"web 1 ({VmOrigin.get().source_ref}) on vc1")


def test_a_cut_over_needs_a_vm_that_is_imported_warm(api: Api) -> None:
    for vm, expected in (("", "REQUIRED"), ("nobody", "VM_NOT_FOUND")):
        request = pb.CutOverImportRequest(vm=vm)
        assert reason(lambda request=request: api.service.CutOverImport(request, api.context)) == expected  # type: ignore[misc]


def test_only_admins_import() -> None:
    methods = {name: roles for name, roles in TABLE.items() if "ImportService" in name}
    assert len(methods) == 13
    assert set(methods.values()) == {frozenset({Role.ADMIN})}


def kvm_request(**changes: object) -> pb.CreateImportSourceRequest:
    fields: dict[str, object] = {
        "name": "old1",
        "type": "kvm",
        "address": "old1.example.org:2222",
        "username": "root",
        "private_key": PRIVATE_KEY,
        "known_hosts": KNOWN_HOSTS,
    }
    return pb.CreateImportSourceRequest(**(fields | changes))  # type: ignore[arg-type]


def test_a_kvm_host_is_a_source(api: Api) -> None:
    add_vm(api.site, "kvm-web")
    service, context, request_id = api.service, api.context, new_id()
    made = service.CreateImportSource(kvm_request(request_id=request_id), context)
    assert service.CreateImportSource(kvm_request(request_id=request_id), context) == made
    assert (made.type, made.address, made.known_hosts) == ("kvm", "old1.example.org:2222", KNOWN_HOSTS)
    assert "OPENSSH" not in str(made)
    [vm] = service.ListSourceVms(pb.ListSourceVmsRequest(source="old1"), context).vms
    assert [(disk.key, disk.label) for disk in vm.disks] == [(1, "vda"), (2, "vdb")]
    wanted = spec(source="old1", source_vm="kvm-web", networks={"default": "public"}, disk_offering="plain")
    found = service.CheckImport(pb.CheckImportRequest(spec=wanted), context)
    assert (found.go, found.staging_pool_id) == (True, "")
    changed = service.UpdateImportSource(pb.UpdateImportSourceRequest(source="old1", username="ada"), context)
    assert (changed.username, changed.known_hosts) == ("ada", KNOWN_HOSTS)
    for field in ("warm", "shutdown", "force_control_download"):
        other = pb.ImportSpec()
        other.CopyFrom(wanted)
        setattr(other, field, True)
        check = pb.CheckImportRequest(spec=other)
        assert reason(lambda: service.CheckImport(check, context)) == "CONFLICTING_FIELDS"  # noqa: B023
    service.DeleteImportSource(pb.DeleteImportSourceRequest(source="old1"), context)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"private_key": b"another"}, "LOGIN_FAILED"),
        ({"known_hosts": "old1 ssh-ed25519 BBBB\n"}, "HOST_KEY_MISMATCH"),
        ({"private_key": b""}, "INVALID_PRIVATE_KEY"),
        ({"private_key": b"k" * (17 << 10)}, "INVALID_PRIVATE_KEY"),
        ({"known_hosts": ""}, "INVALID_KNOWN_HOSTS"),
        ({"username": "-oProxyCommand=x"}, "INVALID_USERNAME"),
        ({"address": "-oProxyCommand=x"}, "INVALID_ADDRESS"),
        ({"password": b"secret"}, "CONFLICTING_FIELDS"),
        ({"type": "qemu+tcp"}, "INVALID_SOURCE_TYPE"),
        ({"type": "vmware"}, "CONFLICTING_FIELDS"),
    ],
)
def test_a_kvm_host_that_cannot_be_a_source(api: Api, changes: dict[str, object], expected: str) -> None:
    assert reason(lambda: api.service.CreateImportSource(kvm_request(**changes), api.context)) == expected


def tls_request(**changes: object) -> pb.CreateImportSourceRequest:
    fields: dict[str, object] = {"ca_pem": "a CA", "client_certificate": CLIENT_CERTIFICATE, "address": "old2"}
    fields |= {"name": "old2", "username": "", "known_hosts": None}
    return kvm_request(**(fields | changes))


def test_a_kvm_host_that_tls_reaches_is_a_source(api: Api) -> None:
    add_vm(api.site, "tls-web")
    add_vm(api.site, "tls-db", running=True)
    service, context = api.service, api.context
    made = service.CreateImportSource(tls_request(), context)
    assert (made.username, made.ca_pem, made.client_certificate) == ("", "a CA", CLIENT_CERTIFICATE)
    assert (made.known_hosts, "OPENSSH" in str(made)) == ("", False)
    wanted = spec(source="old2", source_vm="tls-web", networks={"default": "public"}, disk_offering="plain")
    assert service.CheckImport(pb.CheckImportRequest(spec=wanted), context).go
    operation = service.ImportVm(pb.ImportVmRequest(spec=wanted), context)
    assert outcome(api.engine, Operation.get_by_id(operation.name.rpartition("/")[2]), 60) == ("succeeded", "")
    (asked,) = [request for request in api.site.fleet.kvm.asked if request.tls.host]
    assert (asked.tls.host, asked.tls.port, asked.tls.ca_pem) == ("old2", 16514, "a CA")
    assert not asked.HasField("server")
    wanted.source_vm = "tls-db"
    assert service.CheckImport(pb.CheckImportRequest(spec=wanted), context).go
    changed = service.UpdateImportSource(pb.UpdateImportSourceRequest(source="old2", ca_pem="another"), context)
    assert (changed.ca_pem, changed.client_certificate) == ("another", CLIENT_CERTIFICATE)
    wrong = pb.UpdateImportSourceRequest(source="old2", known_hosts=KNOWN_HOSTS)
    assert reason(lambda: service.UpdateImportSource(wrong, context)) == "OTHER_TRANSPORT"
    service.DeleteImportSource(pb.DeleteImportSourceRequest(source="old2"), context)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"client_certificate": ""}, "INVALID_CERTIFICATE"),
        ({"client_certificate": "of another"}, "LOGIN_FAILED"),
        ({"username": "root"}, "CONFLICTING_FIELDS"),
        ({"password": b"secret"}, "CONFLICTING_FIELDS"),
        ({"ca_pem": None, "known_hosts": KNOWN_HOSTS}, "CONFLICTING_FIELDS"),
        ({"private_key": b""}, "INVALID_PRIVATE_KEY"),
    ],
)
def test_what_a_tls_source_lacks_is_refused(api: Api, changes: dict[str, object], expected: str) -> None:
    assert reason(lambda: api.service.CreateImportSource(tls_request(**changes), api.context)) == expected
    assert ImportSource.select().where(ImportSource.name == "old2").count() == 0


def test_passphrases_are_for_kvm_hosts_only(api: Api, source: pb.ImportSource) -> None:
    with_passphrase = spec(disks=[pb.ImportDisk(key=1, passphrase=b"secret")])
    check = pb.CheckImportRequest(spec=with_passphrase)
    assert reason(lambda: api.service.CheckImport(check, api.context)) == "CONFLICTING_FIELDS"
    assert b"secret" not in redacted(check).SerializeToString()
