"""What the control plane tells Prometheus, its alert rules, and that both agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ostler.agent.v1 import pool_pb2
from ostler_common.secret import Secret
from ostler_control import monitoring
from ostler_control.models import HostGuard, Pool, Priority, Vm, VmRestart
from ostler_control.monitoring import ControlCollector, rows
from ostler_control.objects.bucket import Bucket
from ostler_control.operations import Engine
from ostler_control.pools import reach
from ostler_control.states import GuardState, PowerState
from peewee import OperationalError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from tests.sites import Site

FOLDER = Path(monitoring.__file__).parent
DOCS = Path(__file__).parents[3] / "docs/monitoring.md"
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]


def page(site: Site) -> str:
    registry = CollectorRegistry()
    registry.register(ControlCollector(lambda: ["file:gone"], site.state_dir / "no-certificate"))
    return generate_latest(registry).decode()


def test_hosts_vms_pools_and_operations(site: Site, engine: Engine) -> None:
    operation = site.record(lambda: site.new_vm("web"))
    engine.wait(operation.id, 30)
    text = page(site)
    assert 'ostler_vms{state="running"} 1.0' in text
    assert "ostler_vms_paused 0.0" in text
    Vm.update(power_state=PowerState.PAUSED).execute()
    assert "ostler_vms_paused 1.0" in page(site)
    assert 'ostler_operations_ended_total{outcome="succeeded",verb="vm.create"}' in text
    assert re.search(r'^ostler_vm_info\{account="[^"]+",name="web",vm="[0-9a-f-]{36}"\} 1.0$', text, re.MULTILINE)
    up = dict(re.findall(r'^ostler_host_up\{.*name="(h\d)".*\} ([\d.]+)$', text, re.MULTILINE))
    assert up == {"h1": "1.0", "h2": "1.0", "h3": "1.0"}
    assert 'ostler_kek_missing{key="file:gone"} 1.0' in text
    assert "ostler_operations_oldest_age_seconds 0.0" in text
    assert "ostler_database_up 1.0" in text


def test_hosts_that_are_to_guard_themselves_and_restarts_that_wait(site: Site, engine: Engine) -> None:
    HostGuard.create(host=site.host("h1").id, state=GuardState.GUARDING)
    HostGuard.create(host=site.host("h2").id, state=GuardState.OFF, reason="the pool is of block devices")
    HostGuard.create(host=site.host("h3").id, state=GuardState.OFF)
    operation = site.record(lambda: site.new_vm("web"))
    engine.wait(operation.id, 30)
    VmRestart.create(vm=Vm.get(), priority=Priority.HIGH, lost_host_id=site.host("h1").id)
    text = page(site)
    guarding = dict(re.findall(r'^ostler_host_guarding\{.*name="(h\d)".*\} ([\d.]+)$', text, re.MULTILINE))
    assert guarding == {"h1": "1.0", "h2": "0.0"}
    assert "ostler_ha_restarts_waiting 1.0" in text


def test_a_bucket_has_no_room_to_tell(site: Site) -> None:
    bucket = site.add_bucket_store(
        Bucket("https://s3.example.org", "backups", "", "us-east-1", "key", Secret(b"secret"))
    )
    store = site.add_backup_store()
    answer = pool_pb2.Pool(shared=True, encryption=True, capacity_bytes=100, available_bytes=40)
    for pool in (bucket, store):
        reach.record(pool.id, site.host("h1").id, answer)
    measured = Pool.get_by_id(bucket.id)
    assert (measured.capacity_bytes, measured.available_bytes) == (0, 0), "a host's spool says nothing of the bucket"
    assert measured.measure_time is not None
    text = page(site)
    assert 'ostler_pool_available_bytes{pool="store",type="nfs"} 40.0' in text
    assert 'pool="bucket"' not in text


def test_a_database_that_is_gone_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(rows, "hosts", gone)
    collector = ControlCollector(list, site.state_dir / "none")
    told = {metric.name: metric for metric in collector.collect()}
    assert told["ostler_database_up"].samples[0].value == 0
    assert "ostler_host_up" not in told


def test_prometheus_reads_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install the package prometheus (make setup does)"
    [promtool, "check", "rules", str(FOLDER / "alerts.yaml")]
    done = subprocess.run(
        [promtool, "check", "rules", FOLDER / "alerts.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def known_metrics() -> set[str]:
    """The metrics that docs/monitoring.md lists, with short forms written out."""
    names: set[str] = set()
    for line in DOCS.read_text().splitlines():
        first = ""
        for name in re.findall(r"`((?:ostler|grpc_server|process)_[a-z_]+|\.\.\._[a-z_]+)`", line):
            first = first or name
            if name.startswith("..."):
                end = name.removeprefix("...")
                stems = [first[:at] for at in range(len(first)) if first[at] == "_"]
                names |= {stem + end for stem in stems}
            names.add(name)
    return names


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_alerts_and_panels_ask_for_metrics_that_exist(expression: str) -> None:
    asked = set(re.findall(r"\b(?:ostler|grpc_server|process)_[a-z_]+\b", expression))
    assert asked | {"up"} > {"up"} or "up{" in expression
    assert {name.removesuffix("_bucket") for name in asked} <= known_metrics()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_has_its_runbook(rule: dict[str, dict[str, str]]) -> None:
    assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{str(rule['alert']).lower()}"
    assert f"## {rule['alert']}\n" in DOCS.read_text()


def test_the_page_has_every_metric_that_the_docs_list_for_it(site: Site, engine: Engine) -> None:
    engine.wait(site.record(lambda: site.new_vm("web")).id, 30)
    section = DOCS.read_text().partition("## Metrics of the control plane")[2].partition("## Metrics of an agent")[0]
    listed = {name.removesuffix("_total") for name in re.findall(r"`(ostler_[a-z_]+)`", section)}
    collector = ControlCollector(lambda: ["file:gone"], site.state_dir / "none")
    assert {metric.name for metric in collector.collect()} == listed
