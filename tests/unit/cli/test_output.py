"""What commands print, read as its reader would."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from ostler.control.v1 import host_pb2, vm_pb2
from ostler.types.v1 import host_pb2 as host_types
from ostler_control.cli import table
from ostler_control.cli.output import sort_key
from ostler_control.cli.table import column_widths

from tests.fakes.control import Control, at
from tests.unit.cli.conftest import Ostler


def rows(text: str) -> list[list[str]]:
    """Cells, which are at least two spaces apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_list_is_a_table(control: Control, ostler: Ostler) -> None:
    result = ostler("vm", "list")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        ["NAME", "STATE", "HOST", "CPUS", "MEMORY", "DISKS", "ENCRYPTED"],
        ["web-1", "running", "h2", "2", "4 GiB", "11.5 GiB", "1 of 2"],
    ]


def test_table_fits_the_terminal_and_loses_nothing(
    control: Control, ostler: Ostler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "terminal_width", lambda: 80)
    control.vms["web-1"].attention = "stopped outside Ostler while its host was being reached again"
    lines = ostler("vm", "list").stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "11.5 GiB" in lines[1]
    assert lines[0].endswith("ATTENTION")
    column = lines[0].index("ATTENTION")
    assert " ".join(line[column:].strip() for line in lines[1:]) == control.vms["web-1"].attention


def test_a_row_in_a_pipe_is_one_line(control: Control, ostler: Ostler) -> None:
    control.vms["web-1"].attention = "word " * 60
    _, row = ostler("vm", "list").stdout.splitlines()
    assert row.endswith(("word " * 60).strip())


def test_csv_has_a_line_per_object(control: Control, ostler: Ostler) -> None:
    control.vms["web-1"].attention = 'a "quoted", word'
    header, row = csv.reader(io.StringIO(ostler("vm", "list", "-o", "csv").stdout))
    assert header == ["name", "state", "host", "cpus", "memory", "disks", "encrypted", "attention"]
    assert row == ["web-1", "running", "h2", "2", "4 GiB", "11.5 GiB", "1 of 2", 'a "quoted", word']
    shown = list(csv.DictReader(io.StringIO(ostler("vm", "show", "web-1", "-o", "csv").stdout)))
    assert [(vm["name"], vm["firmware"]) for vm in shown] == [("web-1", "uefi")]


def test_columns_are_chosen_and_rows_sorted(control: Control, ostler: Ostler) -> None:
    for name, memory_bytes in (("small", 512 << 20), ("large", 16 << 30)):
        control.vms[name] = vm_pb2.Vm(name=name, memory_bytes=memory_bytes)
    listed = rows(ostler("vm", "list", "--columns", "memory,NAME,affinity-groups", "--sort", "-memory").stdout)
    assert listed == [
        ["MEMORY", "NAME", "AFFINITY GROUPS"],
        ["16 GiB", "large", "-"],
        ["4 GiB", "web-1", "-"],
        ["512 MiB", "small", "-"],
    ]
    unknown = ostler("vm", "list", "--columns", "size")
    assert unknown.exit_code == 2
    assert "there is no column 'size'; choose from name, state" in unknown.stderr


def test_cells_sort_by_what_they_mean() -> None:
    cells = ["b", "-", "10 GiB", "512 MiB", "A", "7", "12%"]
    assert sorted(cells, key=sort_key) == ["7", "12%", "512 MiB", "10 GiB", "A", "b", "-"]


def test_common_aliases_work(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "ls").stdout == ostler("vm", "list").stdout
    assert "--yes" in ostler("vm", "rm", "--help").stdout
    assert ostler("event", "rm").exit_code == 2


def test_columns_share_what_there_is() -> None:
    rows = [["web-1", "running", "x" * 30, "y" * 60]]
    assert column_widths(["NAME", "STATE", "HOST", "MESSAGE"], rows, 120) == [5, 7, 30, 60]
    assert column_widths(["NAME", "STATE", "HOST", "MESSAGE"], rows, 80) == [5, 7, 30, 32]
    assert column_widths(["NAME", "STATE", "HOST", "MESSAGE"], rows, 20) == [5, 7, 6, 7]


def test_show_has_every_section(control: Control, ostler: Ostler) -> None:
    text = ostler("vm", "show", "web-1").stdout
    assert ["firmware", "uefi"] in rows(text)
    assert ["vda", "web-1-root", "10 GiB", "yes", "shared"] in rows(text)
    assert ["52:54:00:12:34:56", "br0", "virtio", "up", "-"] in rows(text)


def test_json_is_exact_and_whole(control: Control, ostler: Ostler) -> None:
    shown = json.loads(ostler("vm", "show", "web-1", "-o", "json").stdout)
    assert shown["memory_bytes"] == 4 << 30
    assert shown["state"] == "RUNNING"
    assert shown["attention"] == ""
    assert shown["create_time"] == "2026-05-28T20:26:40Z"
    assert shown["volumes"][1]["size_bytes"] == 1536 << 20
    assert shown.keys() == {field.name for field in vm_pb2.Vm.DESCRIPTOR.fields}
    assert yaml.safe_load(ostler("vm", "show", "web-1", "-o", "yaml").stdout)["nics"] == shown["nics"]


def test_json_of_an_empty_list_is_a_list(control: Control, ostler: Ostler) -> None:
    assert json.loads(ostler("zone", "list", "-o", "json").stdout) == []
    table = ostler("zone", "list")
    assert (table.stdout, table.stderr) == ("", "no zones\n")


def test_absent_values_are_null_in_json_and_dashes_in_tables(control: Control, ostler: Ostler) -> None:
    control.hosts = [host_pb2.Host(name="h1", state=host_pb2.Host.UP)]
    shown = json.loads(ostler("host", "show", "h1", "-o", "json").stdout)
    assert shown["load"] is None
    assert ["load", "-"] in rows(ostler("host", "show", "h1").stdout)


def test_operation_in_json_is_unpacked(control: Control, ostler: Ostler) -> None:
    control.phases = []
    shown = json.loads(ostler("operation", "show", "op-1", "-o", "json").stdout)
    assert shown["metadata"]["verb"] == "vm.create"
    assert shown["response"]["@type"] == "ostler.control.v1.Vm"
    assert "error" not in shown


def test_all_pages_are_followed(control: Control, ostler: Ostler) -> None:
    for number in range(2, 6):
        control.vms[f"web-{number}"] = vm_pb2.Vm(name=f"web-{number}")
    assert ostler("vm", "list", "-o", "name").stdout.split() == [f"web-{n}" for n in range(1, 6)]
    assert len(control.asked) == 3
    assert ostler("vm", "list", "-o", "name", "--limit", "3").stdout.split() == ["web-1", "web-2", "web-3"]


def test_filters_go_to_the_server(control: Control, ostler: Ostler) -> None:
    ostler("vm", "list", "--host", "h2", "--state", "stopped")
    [request] = control.asked
    assert isinstance(request, vm_pb2.ListVmsRequest)
    assert (request.host, request.state) == ("h2", vm_pb2.Vm.STOPPED)


def test_placement_is_explained(control: Control, ostler: Ostler) -> None:
    candidate = vm_pb2.FindHostsResponse.Candidate
    control.candidates = [
        candidate(host_name="h2", fits=True, score=0.75),
        candidate(host_name="h1", refusal="LACKS_VOLUME_ENCRYPTION", explanation="h1 has not proved encryption"),
    ]
    header, fitting, refused, *_ = rows(ostler("vm", "hosts", "web-1").stdout)
    assert header == ["HOST", "FITS", "SCORE", "REFUSAL", "EXPLANATION"]
    assert fitting == ["h2", "yes", "0.750", "-", "-"]
    assert refused[:4] == ["h1", "no", "-", "LACKS_VOLUME_ENCRYPTION"]


def test_probes_are_shown_with_their_reason(control: Control, ostler: Ostler) -> None:
    probes = [
        host_types.Probe(name="volume-encryption.qemu-img", ok=True, detail="7.2.22"),
        host_types.Probe(name="uefi", reason="no OVMF firmware found"),
    ]
    control.hosts = [host_pb2.Host(name="h1", capabilities=host_types.Capabilities(probes=probes, cpus=8))]
    shown = rows(ostler("host", "show", "h1").stdout)
    assert ["volume-encryption.qemu-img", "yes", "7.2.22"] in shown
    assert ["uefi", "no", "no OVMF firmware found"] in shown


def test_a_name_cannot_steer_the_terminal(control: Control, ostler: Ostler) -> None:
    control.vms["web-1"].attention = "\x1b[2Jgone"
    assert "\x1b" not in ostler("vm", "list").stdout


def test_token_alone_is_on_standard_output(control: Control, ostler: Ostler) -> None:
    result = ostler("host", "token", "web", "--ttl", "15m")
    assert result.stdout == "ostler-agent join 10.0.0.1:8441 --token t-1\n"
    assert "2026-05-28" in result.stderr
    assert control.asked[0] == host_pb2.CreateJoinTokenRequest(cluster="web", ttl_s=900)
    assert ostler("host", "token", "web", "-o", "name").stdout == "t-1\n"


def test_ages_and_times(control: Control, ostler: Ostler) -> None:
    control.vms["web-1"].state_time.CopyFrom(at(0))
    assert ["in this state since", "2026-05-28 20:26:40"] in rows(ostler("vm", "show", "web-1").stdout)
