"""The page that Prometheus reads: where it is served, to whom, and what it costs a hostile reader."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common import metrics
from ostler_common.identity import Identity, Kind
from ostler_common.metrics import Cached, MetricsPage, PageSettings, serve_metrics
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tests.fakes.certificates import ThrowawayCa


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    page = MetricsPage(PageSettings("127.0.0.1:0"), [])
    yield page
    page.close()


def read(connection: http.client.HTTPConnection, path: str = "/metrics") -> tuple[int, str]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_calls_are_counted_by_method_and_code(page: MetricsPage) -> None:
    metrics.count_call("/ostler.test.Metrics/Get", "OK", 0.01)
    metrics.count_call("/ostler.test.Metrics/Get", "NOT_FOUND", 0.01)
    status, text = read(http.client.HTTPConnection("127.0.0.1", page.port))
    assert status == 200
    labels = 'grpc_method="Get",grpc_service="ostler.test.Metrics"'
    assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in text
    assert f'grpc_server_handled_total{{grpc_code="NOT_FOUND",{labels}}} 1.0' in text
    assert f"grpc_server_handling_seconds_count{{{labels}}} 2.0" in text


def test_there_is_one_page(page: MetricsPage) -> None:
    assert read(http.client.HTTPConnection("127.0.0.1", page.port), "/")[0] == 404


def test_silent_readers_take_all_places_and_no_more(page: MetricsPage) -> None:
    silent = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(metrics._MAX_CONNECTIONS)]
    refused = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        read(refused)
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:8443", "[::]:8443", "10.0.0.1:8443", "control.example.org:8443"])
def test_off_loopback_it_needs_tls(listen: str) -> None:
    with pytest.raises(ValueError, match="off loopback"):
        PageSettings(listen).check()
    with pytest.raises(ValueError, match="go together"):
        PageSettings(listen, certificate=Path("/c.pem")).check()
    PageSettings(listen, Path("/c.pem"), Path("/ca.pem")).check()


def test_with_tls_only_the_named_ca_reads(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    ours, other = ThrowawayCa(tmp_path / "ours"), ThrowawayCa(tmp_path / "other")
    server = ours.issue(Identity(Kind.CONTROL, "c1"))
    page = MetricsPage(PageSettings("127.0.0.1:0", server.certificate, ours.trust), [])

    def read_as(ca: ThrowawayCa | None) -> int:
        context = ssl.create_default_context(cafile=str(ours.trust))
        context.check_hostname = False
        if ca is not None:
            context.load_cert_chain(ca.issue(Identity(Kind.CONTROL, "prometheus")).certificate)
        return read(http.client.HTTPSConnection("127.0.0.1", page.port, context=context, timeout=5))[0]

    try:
        assert read_as(ours) == 200
        for stranger in (None, other):
            with pytest.raises(OSError):
                read_as(stranger)
    finally:
        page.close()


def test_a_used_address_costs_the_page_alone(page: MetricsPage) -> None:
    assert serve_metrics(PageSettings(f"127.0.0.1:{page.port}"), []) is None
    assert serve_metrics(PageSettings(""), []) is None


def test_readers_share_what_was_found() -> None:
    class Counting(Collector):
        asked = 0

        def collect(self) -> list[Metric]:
            self.asked += 1
            return [GaugeMetricFamily("asked", "", self.asked)]

    clock, counting = [0.0], Counting()
    cached = Cached(counting, lambda: clock[0])
    assert list(cached.describe()) == []
    assert cached.collect() == cached.collect()
    clock[0] = Cached.MAX_AGE_S
    cached.collect()
    assert counting.asked == 2
