"""`ostler drs`, `ostler affinity` and maintenance, against the real API, the real executor and agents in memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from click.testing import CliRunner, Result
from ostler.client import profile
from ostler.control.v1 import host_pb2_grpc
from ostler_common import pki, server
from ostler_common.hypervisors import Function
from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret
from ostler_common.tls import server_credentials
from ostler_control import database, settings, vms
from ostler_control.api import core, work
from ostler_control.api.hosts import HostService
from ostler_control.caller import Caller, Role
from ostler_control.cli.main import root
from ostler_control.ha import devices
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.models import Cluster, DrsPlan, Host, HypervisorType, Vm, new_id
from ostler_control.operations import Engine
from ostler_control.trust.authority import Authority

from tests import databases
from tests.fakes.certificates import ThrowawayCa
from tests.sites import Site, outcome, site_at_work


class Cli:
    """`ostler` as an admin of the site's control plane."""

    def __init__(self, path: Path, site: Site, engine: Engine) -> None:
        self.path, self.site, self.engine = path, site, engine

    def run(self, line: str, code: int = 0, input: str | None = None) -> Result:
        environment = {"OSTLER_PROFILE": str(self.path), "TZ": "UTC", "COLUMNS": "120", "NO_COLOR": "1"}
        result = CliRunner(env=environment).invoke(root, line.split(), input=input, prog_name="ostler")
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def json(self, line: str) -> Any:
        return json.loads(self.run(f"{line} -o json").stdout)

    def pile(self, count: int) -> None:
        for number in range(count):
            make = partial(self.site.new_vm, f"vm{number}", offering=self.site.plain, host=self.site.host("h1"))
            assert outcome(self.engine, self.site.record(make)) == ("succeeded", "")

    def places(self) -> dict[str, str]:
        rows: list[Any] = list(Vm.select())
        return {vm.name: vm.host.name for vm in rows if vm.host_id}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    directory = tmp_path_factory.mktemp("drs-cli")
    with (
        databases.bound(f"sqlite:///{directory}/ostler.sqlite") as url,
        site_at_work(url, directory) as (site, engine),
    ):
        issuer = ThrowawayCa(directory)
        admin = Caller(Role.ADMIN, "1", "ada", site.account.id)
        hosts = HostService(cast("Authority", None), engine.agents, "", lambda: None)
        running = server.serve(
            "127.0.0.1:0",
            credentials=server_credentials(issuer.issue(Identity(Kind.CONTROL, "c1"))),
            services={
                **core.SERVICES,
                **work.services(engine),
                "ostler.control.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(hosts, s),
            },
            authorize=lambda peer, method: admin,
            workers=8,
        )
        user = issuer.issue(Identity(Kind.USER, "ada"))
        path = directory / "profile.toml"
        text = profile.text(f"127.0.0.1:{running.port}", user.trust.name, user.certificate.name, user.key.name)
        pki.write_private(path, text.encode())
        yield Cli(path, site, engine)
        running.stop(0).wait()
    structlog.reset_defaults()


@pytest.fixture
def cli(served: Cli) -> Iterator[Cli]:
    for name, value in (("drs.imbalance", "1.0"), ("drs.cost.weight", "0"), ("drs.vm.cooldown", "0")):
        settings.change(name, value, "root")
    yield served
    for vm in list(Vm.select()):
        operation = served.site.record(partial(vms.delete, vm, "root", force=True))
        assert outcome(served.engine, operation) == ("succeeded", "")
    Host.update(maintenance=False, enabled=True).execute()


def test_a_plan_is_previewed_carried_out_and_shown(cli: Cli, tmp_path: Path) -> None:
    cli.pile(6)
    picture = tmp_path / "plan.svg"
    result = cli.run(f"drs generate cluster --why --svg {picture}")
    plan = result.stdout.split()[0]
    assert plan.startswith("plan-")
    assert "imbalance 141.4% -> 0.0%" in result.stdout
    assert "h1  " in result.stdout
    assert "6 -> 2" in result.stdout
    assert 'used memory: "h1" has' in result.stdout
    assert f"ostler drs execute {plan}" in result.stderr
    assert picture.read_text().startswith("<svg")
    assert set(cli.places().values()) == {"h1"}
    assert "would be accepted" in cli.run(f"drs execute {plan} --dry-run").stdout
    assert cli.json(f"drs show {plan}")["state"] == "UNDER_REVIEW"
    shown = cli.run(f"drs execute {plan}").stdout
    assert "(balance, completed)" in shown
    assert shown.count("done") == 4
    assert sorted(cli.places().values()) == ["h1", "h1", "h2", "h2", "h3", "h3"]
    (row,) = [line for line in cli.run("drs list --cluster cluster").stdout.splitlines() if plan in line]
    assert "completed" in row
    assert "4/4" in row
    assert cli.run("drs list --state partial -o name").stdout == ""
    assert "is completed" in cli.run(f"drs execute {plan}", code=6).stderr


def test_moves_by_hand_and_their_refusal(cli: Cli) -> None:
    cli.pile(2)
    shown = cli.run("drs execute --cluster cluster --move vm0=h2 --move vm1=h3").stdout
    assert "chosen by ada" in shown
    assert cli.places() == {"vm0": "h2", "vm1": "h3"}
    assert "MOVE_REFUSED" in cli.run("drs execute --cluster cluster --move vm0=h2", code=6).stderr
    assert "VM=HOST" in cli.run("drs execute --cluster cluster --move vm0", code=2).stderr
    assert "name a plan" in cli.run("drs execute", code=2).stderr


def test_a_plan_is_dropped(cli: Cli) -> None:
    cli.pile(2)
    plan = cli.run("drs generate cluster --migrations 1 -o name").stdout.strip()
    assert "cancelled" in cli.run(f"drs cancel {plan}").stdout


def test_power_shows_hosts_that_could_be_off_and_the_commands(cli: Cli) -> None:
    cli.pile(1)
    assert "nothing to switch" in cli.run("drs power cluster").stdout, "no host has a fence device"
    assert cli.json("drs power cluster")["cluster_name"] == "cluster"
    assert "FENCE_NOT_FOUND" in cli.run("host power-off h3", code=3).stderr
    new = devices.NewDevice(new_id(), Device("redfish", "bmc", "u", {"plug": "1"}), Secret(b"p"), power_on=False)
    devices.create(cli.site.host("h3"), new, Power.ON, "root", cli.site.keys)
    shown = cli.run("drs power cluster").stdout
    assert "h3 could be off" in shown
    assert "ostler host maintenance enter h3\n  ostler host power-off h3" in shown
    assert "NOT_IN_MAINTENANCE" in cli.run("host power-off h3", code=6).stderr
    assert "HOST_UP" in cli.run("host power-on h3", code=6).stderr
    devices.delete(cli.site.host("h3"), "root")


def test_storage_is_shown_and_moves_only_when_told(cli: Cli) -> None:
    cli.pile(2)
    shown = cli.run("drs storage zone").stdout
    assert "zone zone: " in shown
    assert "shared" in shown
    assert cli.json("drs storage zone")["zone_name"] == "zone"
    assert cli.run("drs storage zone --execute").stdout == shown, "there is nothing to move"
    assert "ZONE_NOT_FOUND" in cli.run("drs storage nowhere", code=3).stderr


def test_details_of_templates_and_offerings_are_changed(cli: Cli) -> None:
    assert cli.json("offering update plain --detail driver.kernel=/k1")["details"] == {"driver.kernel": "/k1"}
    assert "driver.kernel=/k1" in cli.run("offering show plain --service").stdout
    assert cli.json("offering update plain --no-details").get("details", {}) == {}
    assert "give either" in cli.run("offering update plain", code=2).stderr
    assert cli.json("template update tiny --detail driver.kernel=/k2")["details"] == {"driver.kernel": "/k2"}
    assert "INVALID_DETAIL" in cli.run("template update tiny --detail kernel=/k", code=2).stderr
    assert cli.json("template update tiny --no-user-data")["details"] == {"driver.kernel": "/k2"}, "as they were"
    assert cli.json("template update tiny --no-details").get("details", {}) == {}
    assert "exclude each other" in cli.run("template update tiny --no-details --detail a=b", code=2).stderr
    assert "--no-details" in cli.run("template update tiny", code=2).stderr


def test_status_draws_bars_and_a_picture(cli: Cli, tmp_path: Path) -> None:
    cli.pile(3)
    Host.update(maintenance=True).where(Host.name == "h3").execute()
    picture = tmp_path / "status.svg"
    shown = cli.run(f"drs status cluster --svg {picture}").stdout
    assert "allocated used memory: imbalance 100.0% calls for moves for balanced" in shown
    assert "in maintenance" in shown
    assert picture.read_text().startswith("<svg")
    found = cli.json("drs status cluster")
    assert (found["needs_drs"], found["active_plan"], len(found["hosts"])) == (True, None, 3)
    settings.change("drs.source", "measured", "root")
    assert "lack samples" in cli.run("drs status cluster").stdout
    settings.reset("drs.source", "root")


def test_groups_from_their_making_to_their_end(cli: Cli) -> None:
    cli.pile(2)
    assert "anti-affinity" in cli.run("affinity create apart --kind anti-affinity").stdout
    assert [vm["vm_name"] for vm in cli.json("affinity add apart vm0 vm1")["vms"]] == ["vm0", "vm1"]
    assert "apart" in cli.run("vm show vm0").stdout
    assert "broken rule" in cli.run("drs status cluster").stdout
    plan = cli.run("drs generate cluster --repair -o name").stdout.strip()
    cli.run(f"drs execute {plan}")
    assert len(set(cli.places().values())) == 2
    assert [vm["vm_name"] for vm in cli.json("affinity remove apart vm0")["vms"]] == ["vm1"]
    assert "apart" in cli.run("affinity list").stdout
    assert cli.json("vm update vm0 --no-drs")["drs_skip"] is True
    assert cli.json("vm update vm1 --no-affinity-groups")["affinity_groups"] == []
    assert "nothing to change" in cli.run("vm update vm1", code=2).stderr
    assert "is deleted" in cli.run("affinity delete apart --yes").stdout


def test_maintenance_moves_vms_away_and_brings_them_back(cli: Cli) -> None:
    cli.pile(2)
    shown = cli.run("host maintenance enter h1 --reason disks")
    assert "host h1 is in maintenance" in shown.stderr
    assert "2 of 2 moves made" in shown.stdout
    assert "h1" not in cli.places().values()
    left = cli.run("host maintenance leave h1")
    assert "to migrate them back: ostler drs execute plan-" in left.stderr
    assert "2 moves" in left.stdout
    cli.run("host maintenance enter h1 --stay")
    cli.run("host maintenance leave h1 --bring-back")
    assert set(cli.places().values()) == {"h1"}


def test_a_host_does_not_enter_maintenance_while_a_plan_of_its_cluster_is_executed(cli: Cli) -> None:
    cli.pile(1)
    with database.transaction():
        DrsPlan.create(name="plan-x", cluster=Cluster.get(), type="manual", mode="balance", state="ready", user="ada")
    shown = cli.run("host maintenance enter h1", code=6)
    assert "plan plan-x of this cluster is being executed" in shown.stderr
    with database.session():
        assert not Host.get(Host.name == "h1").maintenance
        DrsPlan.delete().execute()


def test_who_cannot_leave_is_told(cli: Cli) -> None:
    stuck = cli.site.record(
        lambda: cli.site.new_vm(
            "stuck", offering=cli.site.plain, host=cli.site.host("h1"), pool=cli.site.pools["local1"]
        )
    )
    assert outcome(cli.engine, stuck) == ("succeeded", "")
    shown = cli.run("host maintenance enter h1", code=6)
    assert "stuck: no host takes it: 2 LACKS_POOL" in shown.stdout
    assert "1 VM cannot leave" in shown.stderr


def test_maintenance_that_half_succeeds_says_what_moved_what_stayed_and_what_to_do(cli: Cli) -> None:
    cli.pile(1)
    stuck = partial(
        cli.site.new_vm, "stuck", offering=cli.site.plain, host=cli.site.host("h1"), pool=cli.site.pools["local1"]
    )
    assert outcome(cli.engine, cli.site.record(stuck)) == ("succeeded", "")
    shown = cli.run("host maintenance enter h1", code=6)
    assert "1 of 1 moves made; 1 VM cannot leave" in shown.stdout
    (moved,) = [line for line in shown.stdout.splitlines() if "vm0" in line and "done" in line]
    assert "h1" in moved
    assert "stuck: no host takes it: 2 LACKS_POOL" in shown.stdout
    assert "in maintenance: no VM is placed on it, and these are still on it: stuck" in shown.stderr
    assert "ostler vm stop VM" in shown.stderr
    assert "then: ostler host maintenance enter h1" in shown.stderr
    assert cli.json("host show h1")["state"] == "MAINTENANCE"
    cli.run("vm stop stuck --force")
    shown = cli.run("host maintenance enter h1")
    assert "still on it" not in shown.stderr
    assert "h1" not in cli.places().values()


def test_maintenance_asked_for_again_with_its_request_id_answers_with_the_same_evacuation(cli: Cli) -> None:
    cli.pile(1)
    request_id = str(uuid.uuid4())
    line = f"host maintenance enter h1 --no-wait --request-id {request_id}"
    first = cli.run(line).stdout
    assert cli.run(line).stdout == first
    assert cli.engine.wait(first.strip(), 30.0).state == "succeeded"


@pytest.fixture
def immovable(cli: Cli) -> Iterator[Cli]:
    """A site whose hypervisors cannot migrate running VMs."""
    rest = ",".join(sorted(set(Function) - {Function.LIVE_MIGRATION}))
    everything = ",".join(sorted(Function))
    cluster: Any = Cluster.get()
    before = cluster.hypervisor_type
    Cluster.update(hypervisor_type="kvm").execute()
    Host.update(functions=rest).execute()
    HypervisorType.insert(type="kvm", display_name="Acme VM", functions=rest, template_formats="raw,qcow2").execute()
    yield cli
    HypervisorType.delete().execute()
    Host.update(functions=everything).execute()
    Cluster.update(hypervisor_type=before).execute()


def test_where_vms_cannot_move_drs_and_maintenance_say_so(immovable: Cli) -> None:
    cli = immovable
    cli.pile(2)
    status = cli.run("drs status cluster").stdout
    assert "DRS moves nothing here: hypervisors of type Acme VM do not migrate running VMs" in status
    assert "none: Acme VM does not migrate running VMs" in cli.run("vm show vm0").stdout
    assert cli.json("vm show vm0")["live_migration"] is False
    assert "FUNCTION_NOT_SUPPORTED" in cli.run("drs generate cluster", code=6).stderr
    refused = cli.run("host maintenance enter h1", code=6).stderr
    assert "host h1 runs VMs (vm0, vm1): stop them, or leave them there" in refused
    assert cli.json("host show h1")["state"] == "UP", "what cannot be done changes nothing"
    cli.run("host maintenance enter h1 --stay")
    assert cli.json("host show h1")["state"] == "MAINTENANCE"
    cli.run("host maintenance leave h1 --leave-away")
    cli.run("host maintenance enter h3")
    assert cli.json("host show h3")["state"] == "MAINTENANCE", "an empty host needs no migration"


def test_a_vm_on_a_host_without_live_migration_stays_with_that_reason(immovable: Cli) -> None:
    cli = immovable
    cli.pile(1)
    HypervisorType.update(functions=",".join(sorted(Function))).execute()
    Host.update(functions=",".join(sorted(Function))).where(Host.name != "h1").execute()
    shown = cli.run("host maintenance enter h1", code=6)
    assert 'vm0: the hypervisor of its host "h1" does not support live-migration' in shown.stdout
    listed = cli.run("hypervisor list").stdout
    assert "live-migration (some hosts)" in listed
    assert "reboot (some hosts)" not in listed


def test_a_stop_of_no_seconds_is_refused_with_what_to_use(served: Cli) -> None:
    refused = served.run("vm stop vm0 --timeout 0", code=2).stderr
    assert "--timeout must be at least 1s; to power off at once: --force" in refused


def test_algorithms_and_groups_that_name_hosts(served: Cli) -> None:
    assert [row["name"] for row in served.json("drs algorithm list")] == ["balanced", "condensed"]
    assert "can be used" in served.run("drs algorithm check balanced").stdout
    assert "UNKNOWN_ALGORITHM" in served.run("drs algorithm check magic", code=3).stderr
    served.run("setting set drs.algorithm magic", code=2)
    served.run("affinity create licensed --kind run-on", code=2)
    served.run("affinity create licensed --kind run-on --host h1 --host h2")
    assert served.json("affinity show licensed")["hosts"] == ["h1", "h2"]
    served.run("affinity set-hosts licensed h2")
    assert served.json("affinity show licensed")["hosts"] == ["h2"]
    served.run("affinity delete licensed --yes")
