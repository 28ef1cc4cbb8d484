"""Pressure (PSI) as what is evened out."""

from __future__ import annotations

import dataclasses

import pytest
from ostler.control.v1 import host_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control.cli.commands.host import VIEW
from ostler_control.drs import Host, Snapshot, Vm, plan
from ostler_control.drs.settings import PRESSURES, Settings
from ostler_control.drs.simulate import read

from tests.unit.control.drs.tiny import GIB, moves, perfect


def two_hosts(**of_the_first: float | None) -> Snapshot:
    """Two hosts that use the same; four VMs on each."""
    calm = Host("h1", "h1", 1000, 32 * GIB, measured_cpu_mhz=400, measured_memory_bytes=16 * GIB)
    calm = dataclasses.replace(calm, cpu_pressure=0.0, memory_pressure=0.0, io_pressure=0.0)
    hosts = (dataclasses.replace(calm, **of_the_first), dataclasses.replace(calm, id="h2", name="h2"))  # type: ignore[arg-type]
    vm = Vm("", "", "", 100, GIB, measured_cpu_mhz=100, measured_memory_bytes=4 * GIB)
    places = [(f"{host}v{i}", host) for host in ("h1", "h2") for i in range(4)]
    vms = tuple(dataclasses.replace(vm, id=name, name=name, host_id=host) for name, host in places)
    return Snapshot(hosts, vms)


@pytest.mark.parametrize("metric", PRESSURES)
def test_vms_leave_a_host_on_which_work_waits(metric: str) -> None:
    pressed = two_hosts(**{metric.replace("-", "_"): 0.4})
    assert moves(plan(pressed, perfect(metric="both", source="measured"))) == ""
    found = plan(pressed, perfect(metric=metric))
    assert {(move.source_id, move.destination_id) for move in found.moves} == {("h1", "h2")}
    assert found.imbalance_after < found.imbalance_before
    assert f"used {metric}" in found.moves[0].reason


def test_free_and_absolute_numbers_say_the_same() -> None:
    pressed = two_hosts(cpu_pressure=0.4)
    expected = moves(plan(pressed, perfect(metric="cpu-pressure")))
    assert expected
    assert moves(plan(pressed, perfect(metric="cpu-pressure", metric_type="free"))) == expected
    assert moves(plan(pressed, perfect(metric="cpu-pressure", metric_use_ratio=False))) == expected


def test_pressure_needs_reports() -> None:
    with pytest.raises(FailedPreconditionError, match="h1") as error:
        plan(two_hosts(io_pressure=None), Settings(metric="io-pressure"))
    assert error.value.reason == "PRESSURE_MISSING"
    unmeasured = two_hosts(measured_cpu_mhz=None, io_pressure=0.1)
    with pytest.raises(FailedPreconditionError) as error:
        plan(unmeasured, Settings(metric="io-pressure"))
    assert error.value.reason == "MEASUREMENTS_MISSING"


def test_a_file_states_pressure() -> None:
    text = '{"hosts": [{"name": "h1", "cpu_mhz": 1, "memory_bytes": 1, "io_pressure": 0.25}]}'
    snapshot, _ = read(text)
    assert snapshot.hosts[0].io_pressure == 0.25
    with pytest.raises(InvalidArgumentError, match=r"hosts\[0\].io_pressure: must be a number from 0 to 1"):
        read(text.replace("0.25", "25"))


def test_host_show_prints_what_the_kernel_tells() -> None:
    show = dict(VIEW.details)["pressure"]
    assert show(host_pb2.Host(load=vm_pb2.HostLoad(cpu_pressure=12.34, io_pressure=0))) == "CPU 12.3%, I/O 0.0%"
    assert show(host_pb2.Host()) == "-"
