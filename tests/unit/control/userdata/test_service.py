"""User data from the API to the host: registered, linked, given to VMs, sent with them, and never seen elsewhere."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import template_pb2, vm_pb2
from ostler.control.v1 import userdata_pb2 as pb
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, OstlerError
from ostler_common.hypervisors import Function
from ostler_control import vms
from ostler_control.api.templates import TemplateService
from ostler_control.api.userdata import UserDataService
from ostler_control.api.vms import VmService
from ostler_control.keys import versions
from ostler_control.models import (
    Account,
    Event,
    Host,
    HypervisorType,
    Operation,
    Passphrase,
    Request,
    Template,
    TemplateUserData,
    UserData,
    Vm,
    VmUserData,
)
from ostler_control.operations import Engine
from ostler_control.userdata import mime

from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome
from tests.unit.control.calls import context, user
from tests.unit.control.copies import OK, reload

CONFIG = b"#cloud-config\npackages: [nginx]\n"
SECRET = b"#!/bin/sh\necho hunter22 >/etc/secret\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@desk"


@pytest.fixture
def api(site: Site, engine: Engine) -> Any:
    """The services, and every call as an administrator. What was registered goes at the end."""
    yield Api(site, engine)
    TemplateUserData.delete().execute()
    for row in list(UserData.select()):
        UserData.delete().where(UserData.id == row.id).execute()
        Passphrase.delete().where(Passphrase.id == row.passphrase_id).execute()


class Api:
    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        self.user_data = UserDataService(site.keys)
        self.vms = VmService(engine.agents, site.keys)
        self.templates = TemplateService(site.state_dir / "templates", engine.agents, site.keys)
        self.context = context(site.admin())

    def register(self, name: str, data: bytes = CONFIG, *variables: str) -> pb.UserData:
        request = pb.RegisterUserDataRequest(name=name, data=data, variables=variables)
        return self.user_data.RegisterUserData(request, self.context)

    def link(self, user_data: str, policy: pb.UserDataPolicy.ValueType) -> template_pb2.Template:
        request = template_pb2.UpdateTemplateRequest(template="tiny", user_data=user_data, user_data_policy=policy)
        return self.templates.UpdateTemplate(request, self.context)

    def create(self, name: str, given: pb.VmUserData | None = None, **fields: Any) -> Any:
        request = vm_pb2.CreateVmRequest(
            request_id=str(uuid.uuid4()),
            name=name,
            template="tiny",
            service_offering="plain",
            account="acme",
            user_data=given,
            **fields,
        )
        operation = self.vms.CreateVm(request, self.context)
        if request.validate_only:
            return None
        assert outcome(self.engine, Operation.get_by_id(operation.name.rpartition("/")[2])) == OK
        return Vm.get(Vm.name == name)

    def stop(self, vm: Any) -> Any:
        assert outcome(self.engine, self.site.record(lambda: vms.stop(reload(vm), "alice"))) == OK
        return reload(vm)

    def start(self, vm: Any) -> Any:
        assert outcome(self.engine, self.site.record(lambda: vms.start(reload(vm), "alice"))) == OK
        return reload(vm)

    def seed(self, vm: Any) -> dict[str, bytes]:
        """What the VM's host was sent."""
        return self.site.at(reload(vm).host_id).seeds.get(vm.id, {})

    def update(self, vm: Any, given: pb.VmUserData) -> None:
        mask = FieldMask(paths=["user_data"])
        self.vms.UpdateVm(vm_pb2.UpdateVmRequest(vm=vm.id, user_data=given, update_mask=mask), self.context)

    def reinstall(self, vm: Any, given: pb.VmUserData | None = None) -> tuple[str, str]:
        request = vm_pb2.ReinstallVmRequest(request_id=str(uuid.uuid4()), vm=vm.id, user_data=given)
        operation = self.vms.ReinstallVm(request, self.context)
        return outcome(self.engine, Operation.get_by_id(operation.name.rpartition("/")[2]))

    def render(self, **fields: Any) -> dict[str, bytes]:
        answer = self.user_data.RenderUserData(pb.RenderUserDataRequest(**fields), self.context)
        return {file.name: file.content for file in answer.files}


def contents(user_data: bytes) -> list[bytes]:
    return [part.content for part in mime.read(user_data, "merged")]


# -- registered documents


def test_a_document_is_kept_decoded_and_listed_without_its_content(api: Api) -> None:
    made = api.register("web", base64.b64encode(CONFIG), "role")
    assert (made.format, made.size_bytes, list(made.variables)) == ("cloud-config", len(CONFIG), ["role"])
    shown = api.user_data.GetUserData(pb.GetUserDataRequest(user_data="web"), api.context)
    assert shown.data == CONFIG
    [listed] = api.user_data.ListUserData(pb.ListUserDataRequest(), api.context).user_data
    assert (listed.name, listed.data) == ("web", b"")
    api.user_data.DeleteUserData(pb.DeleteUserDataRequest(user_data="web"), api.context)
    assert (UserData.select().count(), Passphrase.select().count()) == (0, 0)


@pytest.mark.parametrize(
    ("name", "data", "variables", "reason"),
    [
        ("web", b"nginx\n", (), "USERDATA_UNRECOGNIZED"),
        ("web", b"#cloud-config\n#" + b"x" * 40_000, (), "USERDATA_TOO_LARGE"),
        ("web/1", CONFIG, (), "INVALID_NAME"),
        ("web", CONFIG, ("A",), "INVALID_VARIABLE"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    api: Api, name: str, data: bytes, variables: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        api.register(name, data, *variables)
    assert caught.value.reason == reason
    assert (UserData.select().count(), Passphrase.select().count()) == (0, 0)


def test_a_name_is_one_documents_in_its_account(api: Api) -> None:
    api.register("web")
    with pytest.raises(OstlerError) as caught:
        api.register("web")
    assert caught.value.reason == "USERDATA_EXISTS"
    other = user("mallory", Account.create(name=f"other-{uuid.uuid4()}"))
    request = pb.RegisterUserDataRequest(name="web", data=CONFIG)
    assert api.user_data.RegisterUserData(request, context(other)).name == "web"


def test_another_accounts_document_is_not_there(api: Api, site: Site) -> None:
    api.user_data.RegisterUserData(
        pb.RegisterUserDataRequest(name="web", data=SECRET, account=site.account.name), api.context
    )
    stranger = context(user(f"eve-{uuid.uuid4()}", Account.create(name=f"other-{uuid.uuid4()}")))
    assert list(api.user_data.ListUserData(pb.ListUserDataRequest(), stranger).user_data) == []
    given = pb.VmUserData(user_data="web")
    for call in (
        lambda: api.user_data.GetUserData(pb.GetUserDataRequest(user_data="web"), stranger),
        lambda: api.user_data.DeleteUserData(pb.DeleteUserDataRequest(user_data="web"), stranger),
        lambda: api.user_data.RenderUserData(pb.RenderUserDataRequest(template="tiny", user_data=given), stranger),
        lambda: api.vms.CreateVm(
            vm_pb2.CreateVmRequest(name="v", template="tiny", service_offering="plain", user_data=given), stranger
        ),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.reason == "USER_DATA_NOT_FOUND"
    vm = api.create("web-1", pb.VmUserData(data=SECRET))
    with pytest.raises(NotFoundError):
        api.user_data.RenderUserData(pb.RenderUserDataRequest(vm=vm.id), stranger)


# -- what a VM is given


def test_a_guest_gets_its_user_data_at_every_start_and_wherever_it_moves(api: Api, site: Site) -> None:
    given = pb.VmUserData(data=CONFIG, ssh_keys=[KEY], variables=["role"], values={"role": "db"})
    vm = api.create("web-1", given, nics=[vm_pb2.VmNic(network="public", mac="52:54:00:00:00:09")])
    seed = api.seed(vm)
    assert seed["user-data"] == CONFIG
    assert yaml.safe_load(seed["meta-data"]) == {
        "role": "db",
        "instance-id": vm.id,
        "local-hostname": "web-1",
        "public-keys": [KEY],
    }
    assert "52:54:00:00:00:09" in seed["network-config"].decode()
    source = reload(vm).host_id
    assert outcome(api.engine, site.record(lambda: vms.migrate(reload(vm), "alice"))) == OK
    assert reload(vm).host_id != source
    assert api.seed(vm) == seed
    assert site.at(source).seeds == {}
    api.stop(vm)
    api.start(vm)
    assert api.seed(vm) == seed


def test_a_vm_that_is_given_nothing_has_no_seed(api: Api) -> None:
    vm = api.create("web-1")
    assert api.seed(vm) == {}
    assert VmUserData.select().count() == 0
    assert api.render(vm=vm.id) == {}


def test_a_template_and_a_vm_are_merged_by_the_policy(api: Api) -> None:
    api.register("base", SECRET)
    assert api.link("base", pb.USER_DATA_POLICY_APPEND).user_data_name == "base"
    given = pb.VmUserData(data=CONFIG)
    assert contents(api.seed(api.create("both", given))["user-data"]) == [SECRET, CONFIG]
    assert api.seed(api.create("alone"))["user-data"] == SECRET
    api.link("base", pb.USER_DATA_POLICY_UNSPECIFIED)
    assert api.seed(api.create("own", given))["user-data"] == CONFIG
    api.link("base", pb.USER_DATA_POLICY_DENYOVERRIDE)
    with pytest.raises(FailedPreconditionError) as caught:
        api.create("denied", given)
    assert caught.value.reason == "USERDATA_DENIED"
    assert Vm.get_or_none(Vm.name == "denied") is None


def test_a_vm_keeps_what_it_was_given_whatever_becomes_of_its_source(api: Api) -> None:
    api.register("base", SECRET)
    own = api.user_data.RegisterUserData(
        pb.RegisterUserDataRequest(name="own", data=CONFIG, account="acme"), api.context
    )
    api.link("base", pb.USER_DATA_POLICY_APPEND)
    with pytest.raises(FailedPreconditionError) as caught:
        api.user_data.DeleteUserData(pb.DeleteUserDataRequest(user_data="base"), api.context)
    assert caught.value.reason == "USERDATA_IN_USE"
    vm = api.create("web-1", pb.VmUserData(user_data="own"))
    api.link("", pb.USER_DATA_POLICY_UNSPECIFIED)
    for name in ("base", own.id):
        api.user_data.DeleteUserData(pb.DeleteUserDataRequest(user_data=name), api.context)
    api.stop(vm)
    api.start(vm)
    assert contents(api.seed(vm)["user-data"]) == [SECRET, CONFIG]


def test_a_stopped_vm_is_given_other_user_data(api: Api) -> None:
    vm = api.create("web-1", pb.VmUserData(data=CONFIG, ssh_keys=[KEY]))
    with pytest.raises(FailedPreconditionError) as caught:
        api.update(vm, pb.VmUserData(data=SECRET))
    assert caught.value.reason == "VM_STATE"
    api.stop(vm)
    with pytest.raises(InvalidArgumentError):
        api.update(vm, pb.VmUserData(data=b"nonsense"))
    api.update(vm, pb.VmUserData(data=SECRET))
    api.start(vm)
    assert api.seed(vm)["user-data"] == SECRET
    assert "public-keys" not in yaml.safe_load(api.seed(vm)["meta-data"])
    api.stop(vm)
    api.update(vm, pb.VmUserData())
    api.start(vm)
    assert api.seed(vm) == {}


def test_a_reinstalled_vm_is_another_instance(api: Api, site: Site) -> None:
    vm = api.stop(api.create("web-1", pb.VmUserData(data=CONFIG)))
    for number in (1, 2):
        assert api.reinstall(vm) == OK
        seed = api.render(vm=vm.id)
        assert (seed["user-data"], yaml.safe_load(seed["meta-data"])["instance-id"]) == (CONFIG, f"{vm.id}-{number}")
    assert api.reinstall(vm, pb.VmUserData(data=SECRET)) == OK
    assert api.render(vm=vm.id)["user-data"] == SECRET
    api.register("base", CONFIG)
    api.link("base", pb.USER_DATA_POLICY_APPEND)
    assert api.render(vm=vm.id)["user-data"] == SECRET, "until it is reinstalled"
    assert api.reinstall(vm) == OK
    assert contents(api.seed(api.start(vm))["user-data"]) == [CONFIG, SECRET]
    site.check_whole()


def test_a_reinstallation_that_fails_changes_nothing(api: Api, site: Site) -> None:
    vm = api.stop(api.create("web-1", pb.VmUserData(data=CONFIG)))
    for fake in site.hosts.values():
        fake.fail("CreateVolume", Fault(FailedPreconditionError("the pool is full", "NO_SPACE"), before=True))
    assert api.reinstall(vm, pb.VmUserData(data=SECRET)) == ("failed", "NO_SPACE")
    seed = api.render(vm=vm.id)
    assert (seed["user-data"], yaml.safe_load(seed["meta-data"])["instance-id"]) == (CONFIG, vm.id)
    site.check_whole()


def test_bad_user_data_is_refused_before_anything_is_made(api: Api, site: Site) -> None:
    for given, reason in (
        (pb.VmUserData(data=b"nonsense"), "USERDATA_UNRECOGNIZED"),
        (pb.VmUserData(data=CONFIG, user_data="x"), "BOTH_GIVEN"),
        (pb.VmUserData(user_data="nothing"), "USER_DATA_NOT_FOUND"),
        (pb.VmUserData(data=CONFIG, values={"a": "1"}), "UNDECLARED_VARIABLE"),
        (pb.VmUserData(data=CONFIG, variables=["a"]), "MISSING_VARIABLE"),
        (pb.VmUserData(ssh_keys=["nonsense"]), "INVALID_SSH_KEY"),
    ):
        with pytest.raises(OstlerError) as caught:
            api.create("web-1", given)
        assert caught.value.reason == reason
    assert (Vm.select().count(), Passphrase.select().count()) == (0, 0)
    assert site.fleet.files() == {}


def test_a_dry_run_changes_nothing(api: Api) -> None:
    api.create("web-1", pb.VmUserData(data=CONFIG), validate_only=True)
    assert (Vm.select().count(), VmUserData.select().count()) == (0, 0)


def test_a_hypervisor_that_takes_no_user_data_is_named(api: Api) -> None:
    vm = api.stop(api.create("web-1"))
    without = ",".join(sorted(set(Function) - {Function.USER_DATA}))
    row = HypervisorType.create(type="kvm", display_name="KVM", template_formats="qcow2,raw", functions=without)
    try:
        for call in (
            lambda: api.create("web-2", pb.VmUserData(data=CONFIG)),
            lambda: api.update(vm, pb.VmUserData(data=CONFIG)),
            lambda: api.reinstall(vm, pb.VmUserData(data=CONFIG)),
        ):
            with pytest.raises(FailedPreconditionError, match="type KVM do not support user-data") as caught:
                call()
            assert caught.value.reason == "FUNCTION_NOT_SUPPORTED"
    finally:
        row.delete_instance()


def test_a_host_that_takes_no_user_data_does_not_leave_it_out_in_silence(api: Api, site: Site) -> None:
    vm = api.create("web-1", pb.VmUserData(data=CONFIG), host="h1")
    without = ",".join(sorted(set(Function) - {Function.USER_DATA}))
    Host.update(functions=without).where(Host.name == "h2").execute()
    try:
        moved = site.record(lambda: vms.migrate(reload(vm), "alice", site.host("h2")))
        assert outcome(api.engine, moved) == ("failed", "FUNCTION_NOT_SUPPORTED")
        assert reload(vm).host.name == "h1"
        api.stop(vm)
        started = site.record(lambda: vms.start(reload(vm), "alice", site.host("h2")))
        assert outcome(api.engine, started) == ("failed", "FUNCTION_NOT_SUPPORTED")
        assert reload(vm).state == "stopped"
    finally:
        Host.update(functions=",".join(sorted(Function))).execute()


# -- what a guest will get


def test_rendering_shows_what_would_be(api: Api) -> None:
    api.register("base", SECRET)
    api.link("base", pb.USER_DATA_POLICY_APPEND)
    assert api.render(template="tiny")["user-data"] == SECRET
    given = pb.VmUserData(data=CONFIG)
    merged = api.render(template="tiny", user_data=given)
    assert contents(merged["user-data"]) == [SECRET, CONFIG]
    vm = api.create("web-1", given)
    assert api.render(vm=vm.id) == api.seed(vm)
    api.link("base", pb.USER_DATA_POLICY_UNSPECIFIED)
    assert api.render(template="tiny", vm=vm.id)["user-data"] == CONFIG
    assert yaml.safe_load(merged["meta-data"])["local-hostname"] == "new-vm"


def test_static_addresses_reach_the_guest(api: Api) -> None:
    static = vm_pb2.VmNic(
        network="public", addresses=["192.0.2.7/24"], gateways=["192.0.2.1"], nameservers=["192.0.2.53"]
    )
    vm = api.create("web-1", nics=[vm_pb2.VmNic(network="public"), static])
    ethernets = yaml.safe_load(api.seed(vm)["network-config"])["ethernets"]
    assert [ethernets[name].get("addresses") for name in ("nic0", "nic1")] == [None, ["192.0.2.7/24"]]
    assert api.seed(vm)["user-data"] == b"", "addresses alone are a reason for a seed"
    shown = api.vms.GetVm(vm_pb2.GetVmRequest(vm=vm.id), api.context)
    assert list(shown.nics[1].addresses) == ["192.0.2.7/24"]
    bad = vm_pb2.VmNic(network="public", addresses=["192.0.2.8"])
    with pytest.raises(InvalidArgumentError) as caught:
        api.create("web-2", nics=[bad])
    assert caught.value.metadata["field"] == "nics[0].addresses"


# -- secrets


def test_user_data_is_nowhere_in_clear(api: Api, site: Site) -> None:
    api.register("base", SECRET, "token")
    api.link("base", pb.USER_DATA_POLICY_APPEND)
    given = pb.VmUserData(data=SECRET, variables=["other"], values={"token": "hunter22", "other": "hunter22"})
    vm = api.stop(api.create("web-1", given))
    assert api.reinstall(vm, given) == OK
    api.start(vm)
    assert b"hunter22" in api.seed(vm)["user-data"]
    for model in (Event, Operation, Request, UserData, VmUserData, Template):
        for row in model.select().dicts():
            assert "hunter22" not in repr(row), model
    for path in site.state_dir.rglob("*"):
        if path.is_file():
            assert _absent(path), path


def _absent(path: Path) -> bool:
    data = path.read_bytes()
    return b"hunter22" not in data and base64.b64encode(SECRET)[:20] not in data


def test_what_a_vm_was_given_goes_with_it(api: Api, site: Site) -> None:
    vm = api.create("web-1", pb.VmUserData(data=SECRET))
    assert outcome(api.engine, site.record(lambda: vms.delete(reload(vm), "alice", force=True))) == OK
    assert (VmUserData.select().count(), Passphrase.select().count()) == (0, 0)
    assert all(vm.id not in fake.seeds for fake in site.hosts.values())


def test_damaged_rows_are_told(api: Api) -> None:
    api.register("web")
    UserData.update(sealed=b"x" * 40).execute()
    with pytest.raises(FailedPreconditionError) as caught:
        api.user_data.GetUserData(pb.GetUserDataRequest(user_data="web"), api.context)
    assert caught.value.reason == "SEAL_BROKEN"


def test_verification_of_keys_finds_what_no_longer_opens(api: Api, site: Site) -> None:
    api.register("web")
    vm = api.create("web-1", pb.VmUserData(data=CONFIG))
    assert versions.verify(site.keys.provider)[1] == []
    kept = {row.id: bytes(row.sealed) for row in Passphrase.select()}
    Passphrase.update(sealed=b"x" * 60).execute()
    broken = {(found.type, found.name) for found in versions.verify(site.keys.provider)[1]}
    for row_id, sealed in kept.items():
        Passphrase.update(sealed=sealed).where(Passphrase.id == row_id).execute()
    assert broken == {("user data", "web"), ("user data of VM", vm.name)}
