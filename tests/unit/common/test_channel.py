"""The deadlines' and retries' tables against the protos themselves."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_proto_pb2
from google.protobuf import descriptor
from ostler_common import channel

ROOT = Path(__file__).parents[3]


def every_service() -> dict[str, descriptor.ServiceDescriptor]:
    modules = [
        importlib.import_module(f"ostler.{path.parts[-3]}.v1.{path.stem}_pb2")
        for path in (ROOT / "protos/ostler").glob("*/v1/*.proto")
    ]
    modules.append(operations_proto_pb2)
    return {service.full_name: service for module in modules for service in module.DESCRIPTOR.services_by_name.values()}


SERVICES = every_service()


def test_tables_name_only_what_exists() -> None:
    named = set(channel.DEADLINE_S) | {(s, m) for s, names in channel.RETRIED.items() for m in names}
    assert [pair for pair in named if pair[0] not in SERVICES or pair[1] not in SERVICES[pair[0]].methods_by_name] == []


def test_every_reading_call_is_retried() -> None:
    reading = {
        (name, method.name)
        for name, service in SERVICES.items()
        for method in service.methods
        if method.name.startswith(("Get", "List")) and not method.server_streaming
    }
    assert reading <= {(s, m) for s, names in channel.RETRIED.items() for m in names}


def test_no_call_that_starts_or_watches_a_job_is_retried_unseen() -> None:
    jobs = {
        (name, method.name)
        for name, service in SERVICES.items()
        for method in service.methods
        if method.output_type.full_name == "ostler.types.v1.JobUpdate" and method.server_streaming
    }
    assert ("ostler.agent.v1.VmService", "StartVm") in jobs
    assert jobs.isdisjoint((service, method) for service, names in channel.RETRIED.items() for method in names)


def test_streams_have_no_short_deadline() -> None:
    streams = {
        (name, method.name)
        for name, service in SERVICES.items()
        for method in service.methods
        if method.server_streaming or method.client_streaming
    }
    assert streams <= {pair for pair, deadline_s in channel.DEADLINE_S.items() if deadline_s is None}


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("ImportService", "ImportFiles"),
        ("ImportService", "ImportVolume"),
        ("TemplateService", "RegisterTemplate"),
        ("VmService", "AdoptVm"),
    ],
)
def test_calls_that_have_a_host_inspect_outlast_the_inspection(service: str, method: str) -> None:
    deadline_s = channel.DEADLINE_S[f"ostler.control.v1.{service}", method]
    assert deadline_s is not None
    assert deadline_s > 60


@pytest.mark.parametrize("service", sorted(channel.RETRIED))
def test_control_planes_changing_calls_are_not_retried_unseen(service: str) -> None:
    if service.startswith("ostler.control"):
        assert not [m for m in channel.RETRIED[service] if m.startswith(("Create", "Delete", "Start", "Update"))]


def test_service_config_joins_both_tables() -> None:
    entries = _entries(channel.host_server_name("h"))
    assert entries[None, None]["timeout"] == "30s"
    watch = entries["ostler.agent.v1.HostService", "WatchHost"]
    assert "timeout" not in watch
    assert "retryPolicy" not in watch
    get = entries["ostler.agent.v1.VmService", "GetVm"]
    assert (get["timeout"], get["retryPolicy"]["maxAttempts"]) == ("30s", 4)


def test_every_method_of_the_tables_is_configured_where_it_is_called() -> None:
    of_agents, of_control = _entries(channel.host_server_name("h")), _entries(channel.CONTROL_SERVER_NAME)
    assert of_agents.keys() & of_control.keys() == {(None, None)}
    for (service, method), deadline_s in channel.DEADLINE_S.items():
        entries = of_agents if service.startswith("ostler.agent.") else of_control
        assert entries[service, method].get("timeout") == (None if deadline_s is None else f"{deadline_s}s")
    for service, methods in channel.RETRIED.items():
        entries = of_agents if service.startswith("ostler.agent.") else of_control
        assert all("retryPolicy" in entries[service, method] for method in methods)


def test_what_grpc_reads_for_each_channel_is_short() -> None:
    assert len(json.dumps(channel.service_config(channel.host_server_name("h")))) < 6_000


def _entries(server_name: str) -> dict[tuple[str | None, str | None], dict[str, Any]]:
    return {
        (name.get("service"), name.get("method")): entry
        for entry in channel.service_config(server_name)["methodConfig"]
        for name in entry["name"]
    }
