"""The files of the seed, and what goes into them."""

from __future__ import annotations

import pytest
import yaml
from ostler_common.errors import InvalidArgumentError, OstlerError
from ostler_control.userdata import seed, variables
from ostler_control.userdata.merging import Policy
from ostler_control.userdata.rendering import Inputs, Source, render
from ostler_control.userdata.seed import Addressing, Guest, SeedNic

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@desk"
JINJA = b"## template: jinja\n#cloud-config\nfqdn: {{ ds.meta_data.role }}.example.com\n"


def test_the_seed_has_the_four_files_of_nocloud() -> None:
    made = seed.make(Guest("id-1", "web1", ssh_keys=(KEY,)), b"#cloud-config\n")
    assert list(made.files()) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert yaml.safe_load(made.meta_data) == {"instance-id": "id-1", "local-hostname": "web1", "public-keys": [KEY]}
    assert yaml.safe_load(made.network_config) == {"version": 2}


def test_nics_ask_dhcp_or_have_their_addresses() -> None:
    static = SeedNic("52:54:00:00:00:02", Addressing(("192.0.2.2/24",), ("192.0.2.1",), ("192.0.2.53",)))
    made = seed.make(Guest("id-1", "web1", (SeedNic("52:54:00:00:00:01"), static)), b"")
    assert yaml.safe_load(made.network_config)["ethernets"] == {
        "nic0": {"match": {"macaddress": "52:54:00:00:00:01"}, "dhcp4": True},
        "nic1": {
            "match": {"macaddress": "52:54:00:00:00:02"},
            "addresses": ["192.0.2.2/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
            "nameservers": {"addresses": ["192.0.2.53"]},
        },
    }


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Addressing(("192.0.2.2",)), "addresses"),
        (Addressing(("192.0.2.300/24",)), "addresses"),
        (Addressing(("web1/24",)), "addresses"),
        (Addressing(("192.0.2.2/24",), ("192.0.2.1/24",)), "gateways"),
        (Addressing(("192.0.2.2/24",), (), ("dns",)), "nameservers"),
        (Addressing((), ("192.0.2.1",)), "gateways"),
        (Addressing(("fe80::1%eth0/64",)), "addresses"),
        (Addressing(tuple(f"192.0.2.{n}/24" for n in range(1, 20))), "addresses"),
    ],
)
def test_addresses_that_are_none_are_refused_by_field(bad: Addressing, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        seed.check_addressing(bad, "nics[0]")
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_ADDRESS", f"nics[0].{field}")


@pytest.mark.parametrize("bad", ["Role", "1st", "a-b", "", "instance_id", "x" * 64])
def test_names_of_variables(bad: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        variables.check_declared(["role", bad])
    assert caught.value.reason == "INVALID_VARIABLE"


def test_values_are_of_declared_variables_and_of_all_of_them() -> None:
    assert variables.check_values(["a", "b"], {"b": "2", "a": ""}) == {"a": "", "b": "2"}
    for values, reason in (
        ({"a": "1", "c": "secret"}, "UNDECLARED_VARIABLE"),
        ({"a": "secret"}, "MISSING_VARIABLE"),
        ({"a": "secret" * 1000, "b": ""}, "INVALID_VARIABLE"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            variables.check_values(["a", "b"], values)
        assert caught.value.reason == reason
        assert "secret" not in str(caught.value)


def test_values_reach_the_guest_as_meta_data() -> None:
    guest = Guest("id-1", "web1")
    made = render(Inputs(guest, own=Source("VM web1", JINJA, ("role",)), values={"role": "a: [b"}), 32_768)
    assert made.user_data == JINJA
    assert yaml.safe_load(made.meta_data)["role"] == "a: [b"


def test_variables_of_a_document_that_does_not_reach_the_guest_need_no_value() -> None:
    template, own = Source("template", JINJA, ("role",)), Source("VM", b"#cloud-config\n")
    guest = Guest("id-1", "web1")
    assert render(Inputs(guest, template, own), 32_768).user_data == b"#cloud-config\n"
    with pytest.raises(OstlerError, match="needs a value for role"):
        render(Inputs(guest, template, own, Policy.APPEND), 32_768)


def test_secrets_do_not_show_in_a_repr() -> None:
    inputs = Inputs(
        Guest("id-1", "web1"), own=Source("VM", b"#cloud-config\n#hunter22", ("a",)), values={"a": "hunter22"}
    )
    assert "hunter22" not in repr(inputs)
    assert "hunter22" not in repr(render(inputs, 32_768))
