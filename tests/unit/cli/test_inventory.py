"""`ostler inventory --ansible`, as Ansible itself reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ostler.control.v1 import vm_pb2 as pb
from ostler_control.cli import ansible

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler

TEMPLATE = "{{ lookup('pipe', 'touch /tmp/ran') }}"


def vm(name: str, id_: str = "", **fields: object) -> pb.Vm:
    return pb.Vm(id=id_ or f"id-{name}", name=name, **fields)  # type: ignore[arg-type]  # fields as they come


def test_ansible_reads_it(control: Control, environment: dict[str, str], tmp_path: Path) -> None:
    web = control.vms["web-1"]
    web.zone_name = "berlin"
    web.labels.update({"env": "prod", "example.com/owner": "ada", "retired": ""})
    web.nics[0].addresses.extend(["192.0.2.10/24", "2001:db8::10/64"])
    web.description = web.details["note"] = TEMPLATE
    control.vms["db-1"] = vm("db-1", state=pb.Vm.STOPPED)
    script = tmp_path / "ostler-inventory"
    ostler = [sys.executable, "-c", '"from ostler_control.cli.main import main; main()"']
    script.write_text(f'#!/bin/sh\nexec {" ".join(ostler)} inventory --ansible "$@"\n')
    script.chmod(0o700)
    tool = Path(sys.executable).parent / "ansible-inventory"
    done = subprocess.run(
        [tool, "-i", script, "--list"],
        env={**environment, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    read = json.loads(done.stdout)
    groups = {group: members["hosts"] for group, members in read.items() if "hosts" in members}
    assert groups == {
        "account_research": ["web-1"],
        "zone_berlin": ["web-1"],
        "cluster_web": ["web-1"],
        "host_h2": ["web-1"],
        "state_running": ["web-1"],
        "state_stopped": ["db-1"],
        "label_env_prod": ["web-1"],
        "label_example_com_owner_ada": ["web-1"],
        "label_retired": ["web-1"],
    }
    variables = read["_meta"]["hostvars"]["web-1"]
    assert variables["ansible_host"] == "192.0.2.10"
    assert variables["ostler_labels"] == {"env": "prod", "example.com/owner": "ada", "retired": ""}
    assert variables["ostler_memory_bytes"] == 4 << 30
    assert "ansible_host" not in read["_meta"]["hostvars"]["db-1"]
    assert TEMPLATE not in done.stdout


def test_host_has_the_variables_that_the_list_has(control: Control, ostler: Ostler) -> None:
    listed = json.loads(ostler("inventory", "--ansible", "--list").stdout)
    alone = json.loads(ostler("inventory", "--ansible", "--host", "web-1").stdout)
    assert alone == listed["_meta"]["hostvars"]["web-1"]


def test_an_unknown_host(control: Control, ostler: Ostler) -> None:
    result = ostler("inventory", "--ansible", "--host", "db-1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "[VM_NOT_FOUND]" in result.stderr


def test_filters_are_the_api_s(control: Control, ostler: Ostler) -> None:
    assert ostler("inventory", "--ansible", "--account", "research", "-l", "env=prod").exit_code == 0
    request = control.asked[0]
    assert isinstance(request, pb.ListVmsRequest)
    assert (request.account, request.selector) == ("research", "env=prod")


def test_no_vms(control: Control, ostler: Ostler) -> None:
    control.vms.clear()
    assert json.loads(ostler("inventory", "--ansible").stdout) == {"_meta": {"hostvars": {}}}


@pytest.mark.parametrize("arguments", [(), ("--list",), ("--ansible", "--list", "--host", "web-1")])
def test_wrong_usage(control: Control, ostler: Ostler, arguments: tuple[str, ...]) -> None:
    assert ostler("inventory", *arguments).exit_code == 2
    assert control.asked == []


def test_vms_of_one_name_go_by_their_ids() -> None:
    vms = [vm("web", "a", account_name="ada"), vm("web", "b", account_name="bob"), vm("db", "c")]
    assert list(ansible.by_name(vms)) == ["a", "b", "db"]


def test_a_vm_named_as_another_s_id_does_not_take_its_place() -> None:
    vms = [vm("web", "a"), vm("web", "b"), vm("a", "c")]
    assert {name: found.id for name, found in ansible.by_name(vms).items()} == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "all", "ungrouped", "127.0.0.1", "127.1", "2130706433"])
def test_a_name_that_means_another_machine_is_not_used(name: str) -> None:
    assert list(ansible.by_name([vm(name, "the-id")])) == ["the-id"]


def test_a_label_twice_in_a_group_s_name_lists_the_vm_once() -> None:
    assert ansible.groups_of(vm("web", labels={"a.b": "", "a-b": ""})).count("label_a_b") == 1
