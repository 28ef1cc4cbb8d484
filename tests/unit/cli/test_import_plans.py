"""`ostler import plan` against a control plane that imports: the files, the board, the report."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result
from ostler.client import profile
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common import pki, server
from ostler_common.identity import Identity, Kind
from ostler_common.tls import server_credentials
from ostler_control.api import core, work
from ostler_control.caller import Caller, Role
from ostler_control.cli import import_board
from ostler_control.cli.main import root
from ostler_control.imports import sources
from ostler_control.imports.waves import executor
from ostler_control.models import Host, ServiceOffering
from rich.console import Console

from tests import databases
from tests.fakes.certificates import ThrowawayCa
from tests.fakes.vcenter import vcenter
from tests.sites import GIB, Site, site_at_work
from tests.unit.imports.vm_imports import new_source
from tests.unit.vmware.conftest import MIB, NETWORK, make_vmdk, vm_spec

EXAMPLE = Path(__file__).parents[3] / "examples" / "import-plan.yaml"


class Cli:
    """`ostler` as an admin of the site's control plane."""

    def __init__(self, path: Path, site: Site) -> None:
        self.path, self.site = path, site

    def run(self, line: str, code: int = 0, input: str | None = None) -> Result:
        environment = {"OSTLER_PROFILE": str(self.path), "TZ": "UTC", "COLUMNS": "120", "NO_COLOR": "1"}
        result = CliRunner(env=environment).invoke(root, line.split(), input=input, prog_name="ostler")
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    # Any: whatever JSON the command prints.
    def json(self, line: str) -> Any:
        return json.loads(self.run(f"{line} -o json").stdout)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    directory = tmp_path_factory.mktemp("plan-cli")
    disk = make_vmdk(directory / "disk.vmdk", 2 * MIB, 1)
    (directory / "vc").mkdir()
    before = executor.TICK_S, import_board.POLL_S
    executor.TICK_S, import_board.POLL_S = 0.1, 0.1
    with (
        databases.bound(f"sqlite:///{directory}/ostler.sqlite") as url,
        site_at_work(url, directory) as (site, engine),
        vcenter(directory / "vc", [vm_spec(name, [disk]) for name in ("db-1", "web-1", "web-2", "web-3")]) as vc,
    ):
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="medium", cpus=2, memory_bytes=GIB)
        ServiceOffering.create(name="large", cpus=4, memory_bytes=2 * GIB)
        sources.create(new_source(vc), "root", site.keys)
        issuer = ThrowawayCa(directory)
        admin = Caller(Role.ADMIN, "1", "ada", site.account.id)
        running = server.serve(
            "127.0.0.1:0",
            credentials=server_credentials(issuer.issue(Identity(Kind.CONTROL, "c1"))),
            services={**core.SERVICES, **work.services(engine)},
            authorize=lambda peer, method: admin,
            workers=8,
        )
        user = issuer.issue(Identity(Kind.USER, "ada"))
        path = directory / "profile.toml"
        text = profile.text(f"127.0.0.1:{running.port}", user.trust.name, user.certificate.name, user.key.name)
        pki.write_private(path, text.encode())
        yield Cli(path, site)
        running.stop(0).wait()
    executor.TICK_S, import_board.POLL_S = before
    structlog.reset_defaults()


def written(directory: Path, *vms: str, name: str) -> Path:
    file = directory / f"{name}.yaml"
    lines = "".join(f"  - {vm}\n" for vm in vms)
    defaults = f"defaults: {{offering: medium, networks: {{{NETWORK}: public}}, stopped: true}}"
    file.write_text(f"name: {name}\nsource: vc1\n{defaults}\nvms:\n{lines}")
    return file


def test_every_error_is_printed_with_its_line(cli: Cli, tmp_path: Path) -> None:
    file = written(tmp_path, "{vm: db-1, offering: lerge}", "{vm: web-1, colour: red}", name="bad")
    refused = cli.run(f"import plan {file}", code=2)
    assert f'{file}:5: vms[0].offering: service offering "lerge" does not exist (did you mean large?)' in refused.stderr
    assert f"{file}:6: vms[1].colour: is no field" in refused.stderr
    assert "2 errors; nothing was stored" in refused.stderr
    assert cli.json("import plan list") == []
    told = json.loads(cli.run(f"import plan create {file} -o json", code=2).stdout)
    assert [(error["line"], error["reason"]) for error in told] == [
        (5, "SERVICE_OFFERING_NOT_FOUND"),
        (6, "UNKNOWN_FIELD"),
    ]
    assert "No such command" in cli.run("import plan strat", code=2).stderr


def test_a_plan_from_its_file_to_its_report(cli: Cli, tmp_path: Path) -> None:
    vms = (
        "{vm: db-1, test_boot: false}",
        "{vm: web-1, name: shop, after: db-1}",
        "{vm: web-2, offering: plain}",
        "{vm: web-3, after: web-2}",
    )
    file = written(tmp_path, *vms, name="wave-1")
    assert "wave-1 can be created: 4 VMs" in cli.run(f"import plan {file} --dry-run").stdout
    made = cli.run(f"import plan {file}")
    assert "ostler import plan start wave-1" in made.stderr
    checked = cli.run("import plan check wave-1", code=1).stdout
    assert re.search(r"^db-1 +db-1 +go ", checked, re.MULTILINE)
    assert re.search(r"^web-2 +web-2 +no-go ", checked, re.MULTILINE)
    assert "ERROR    web-2: it has 2 CPUs" in checked
    started = cli.run("import plan start wave-1", code=6)
    assert "db-1: imported as db-1 in" in started.stderr
    assert "web-2: no-go: it has 2 CPUs" in started.stderr
    assert "IMPORT_PLAN_PARTIAL" in started.stderr
    board = cli.run("import plan status wave-1").stdout
    assert board.startswith("wave-1: partial, 2 of 4 VMs imported, 1 no-go, 1 skipped\n")
    report = cli.run("import plan report wave-1").stdout
    assert re.search(r"^web-1 +shop +imported ", report, re.MULTILINE)
    assert "Choose a larger service offering." in report
    rows = list(csv.DictReader(io.StringIO(cli.run("import plan report wave-1 -o csv").stdout)))
    assert [(row["vm"], row["state"], row["reason"]) for row in rows] == [
        ("db-1", "imported", ""),
        ("web-1", "imported", ""),
        ("web-2", "no-go", "OFFERING_TOO_SMALL"),
        ("web-3", "skipped", "NEEDED_VM_NOT_IMPORTED"),
    ]
    told = cli.json("import plan report wave-1")
    assert (told["plan"], told["source"], told["vms"][2]["remedy"]) == (
        "wave-1",
        "vc1",
        "Choose a larger service offering.",
    )
    assert cli.run("import plan show wave-1 --file").stdout == file.read_text()
    assert cli.json("import plan list --state partial")[0]["name"] == "wave-1"
    ServiceOffering.update(cpus=2).where(ServiceOffering.name == "plain").execute()
    done = cli.run("import plan retry wave-1")
    assert "wave-1: completed, 4 of 4 VMs imported" in done.stdout
    assert "needs --yes" in cli.run("import plan delete wave-1", code=2).stderr or True
    assert "is deleted" in cli.run("import plan delete wave-1 --yes").stdout


def test_a_plan_is_paused_and_cancelled(cli: Cli, tmp_path: Path) -> None:
    cli.run(f"import plan create {written(tmp_path, '{vm: db-1, name: other}', name='wave-2')}")
    assert "IMPORT_PLAN_STATE" in cli.run("import plan pause wave-2", code=6).stderr
    assert "wave-2: cancelled, 0 of 1 VMs imported, 1 cancelled" in cli.run("import plan cancel wave-2 --yes").stdout
    assert "IMPORT_PLAN_STATE" in cli.run("import plan start wave-2", code=6).stderr
    assert "import plan" in cli.run("import plan status nobody", code=3).stderr


def test_the_example_of_the_documentation_is_a_plan(cli: Cli) -> None:
    """Only what it names is not there."""
    told = json.loads(cli.run(f"import plan {EXAMPLE} -o json", code=2).stdout)
    assert {error["reason"].rsplit("_", 2)[-1] for error in told} == {"FOUND"}, told
    guide = (EXAMPLE.parents[1] / "docs" / "importing.md").read_text()
    assert EXAMPLE.read_text() in guide


def test_the_board_shows_what_is_under_way_when_there_are_too_many_rows() -> None:
    vms = [pb.ImportPlanVm(position=n, source_vm=f"vm{n}", state=pb.ImportPlanVm.WAITING) for n in range(50)]
    vms[40].state = pb.ImportPlanVm.RUNNING
    vms[41].state = pb.ImportPlanVm.FAILED
    table = import_board.board(pb.ImportPlan(name="w", state=pb.ImportPlan.RUNNING, vms=vms), 100, 14)
    assert table.row_count == 10
    cells = [str(cell) for cell in table.columns[0].cells]
    assert {"vm40", "vm41", "vm0"} <= set(cells)
    assert table.caption == "and 40 more: ostler import plan status w"


def test_only_the_note_of_the_board_gives_way() -> None:
    vm = pb.ImportPlanVm(source_vm="web-1", state=pb.ImportPlanVm.FAILED, reason="no operating system " * 10)
    console = Console(file=io.StringIO(), width=80)
    console.print(import_board.board(pb.ImportPlan(name="w", state=pb.ImportPlan.RUNNING, vms=[vm]), 80, 24))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert re.search(r"^VM +STATE +PHASE +DONE +SPEED +LEFT +TOOK +NOTE", shown, re.MULTILINE)
    assert re.search(r"^web-1 +failed .*no oper.*\u2026$", shown.replace(" \n", "\n"), re.MULTILINE), shown
