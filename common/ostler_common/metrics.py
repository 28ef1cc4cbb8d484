"""Metrics for Prometheus: calls by method, and the page that Prometheus reads.

The page is on a loopback address. Anywhere else it needs TLS with client certificates: it names VMs and their load. The
names of the calls' metrics are those of go-grpc-prometheus, so that existing dashboards show them.
"""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

_METHOD = ("grpc_service", "grpc_method")
HANDLED = Counter(
    "grpc_server_handled", "Calls that have ended, by status code.", (*_METHOD, "grpc_code"), registry=None
)
DURATION = Histogram(
    "grpc_server_handling_seconds",
    "How long calls took; streams count from their begin to their end.",
    _METHOD,
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
    registry=None,
)
# Of one page: connections at once, and how long one may take, seconds.
_MAX_CONNECTIONS, _TIMEOUT_S = 8, 10.0

# As socketserver has it, which serves datagrams too.
_Request = socket.socket | tuple[bytes, socket.socket]


def count_call(method: str, code: str, duration_s: float) -> None:
    """Counts a call that has ended. method: "/package.Service/Method", one that the server knows."""
    service, _, name = method.removeprefix("/").partition("/")
    HANDLED.labels(service, name, code).inc()
    DURATION.labels(service, name).observe(duration_s)


@dataclass(frozen=True)
class PageSettings:
    """Where the page is served. listen: "host:port", "" for nowhere; certificate: PEM file with key and certificate;
    client_ca: PEM file with the CA of those who may read the page. Both are needed off loopback."""

    listen: str
    certificate: Path | None = None
    client_ca: Path | None = None

    def check(self) -> None:
        """Raises ValueError where the page would be open to the network."""
        if not self.listen:
            return
        if (self.certificate is None) != (self.client_ca is None):
            raise ValueError("metrics_certificate and metrics_client_ca go together")
        if self.certificate is None and not _is_loopback(self.listen):
            raise ValueError("an address off loopback needs metrics_certificate and metrics_client_ca")


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _is_loopback(listen: str) -> bool:
    host = _host_and_port(listen)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MetricsPage:
    """Serves /metrics. port: where, also when 0 was asked for."""

    def __init__(self, settings: PageSettings, collectors: Sequence[Collector]) -> None:
        """Raises OSError: the address is in use, or a file cannot be read."""
        settings.check()
        registry = CollectorRegistry()
        for collector in (HANDLED, DURATION, *map(Cached, collectors)):
            registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        tls = _tls(settings)

        class Handler(_Handler):
            page_registry = registry

        self._server = _Server(_host_and_port(settings.listen), Handler, tls)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Serves no more."""
        self._server.shutdown()
        self._server.server_close()


class Cached(Collector):
    """What another collector has found, for all who read within `MAX_AGE_S`: reading often costs nothing."""

    MAX_AGE_S = 5.0

    def __init__(self, inner: Collector, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._clock = clock
        self._lock = threading.Lock()
        self._found: list[Metric] = []
        self._found_at = -self.MAX_AGE_S

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering collects nothing."""
        return iter(())

    def collect(self) -> list[Metric]:
        with self._lock:
            if self._clock() - self._found_at >= self.MAX_AGE_S:
                self._found = list(self._inner.collect())
                self._found_at = self._clock()
            return self._found


def serve_metrics(settings: PageSettings, collectors: Sequence[Collector]) -> MetricsPage | None:
    """Serves the page, or logs why not: a daemon does its work without it. None also where none is asked for."""
    if not settings.listen:
        return None
    try:
        page = MetricsPage(settings, collectors)
    except OSError as error:
        log.error("metrics are not served", listen=settings.listen, reason=str(error))
        return None
    log.info("serving metrics", listen=settings.listen, port=page.port)
    return page


def _tls(settings: PageSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(settings.certificate)
    context.load_verify_locations(settings.client_ca)
    return context


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler], tls: ssl.SSLContext | None) -> None:
        host = address[0]
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._tls = tls
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: _Request, client_address: object) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        try:
            request.settimeout(_TIMEOUT_S)
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)  # in its own thread: a silent client waits
            super().process_request_thread(request, client_address)
        except OSError as error:
            log.info("a reader of metrics failed", reason=str(error))
            with contextlib.suppress(OSError):
                request.close()
        finally:
            self._places.release()

    def handle_error(self, request: _Request, client_address: object) -> None:
        log.info("a reader of metrics failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    page_registry: CollectorRegistry
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        page = generate_latest(self.page_registry)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("metrics read", request=format % args)
