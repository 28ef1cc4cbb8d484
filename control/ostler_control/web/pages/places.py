"""Zones, clusters and storage pools: lists of their own, and their beginnings on the fleet's page."""

from __future__ import annotations

from ostler.control.v1.pool_pb2 import ListPoolsRequest
from ostler.control.v1.zone_pb2 import ListClustersRequest, ListZonesRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import cluster, pool, zone
from ostler_control.web.context import Console
from ostler_control.web.lists import render_list
from ostler_control.web.tables import PAGE_SIZE, Filters, Table, table

# Rows of each on the fleet's page.
FIRST = 20
# With more clusters a filter takes any text, instead of offering them all.
MAX_CHOICES = 100


def zones(console: Console, request: Request) -> Response:
    """The page of zones."""
    filters = Filters(request)
    return render_list(console, request, ("zone", "list"), filters, _zones(console.app, filters, PAGE_SIZE))


def clusters(console: Console, request: Request) -> Response:
    """The page of clusters."""
    filters = Filters(request, ("zone", "Zone"), ("selector", "Labels"))
    return render_list(console, request, ("cluster", "list"), filters, _clusters(console.app, filters, PAGE_SIZE))


def pools(console: Console, request: Request) -> Response:
    """The page of storage pools."""
    filters = Filters(request, ("selector", "Labels"))
    return render_list(console, request, ("pool", "list"), filters, _pools(console.app, filters, PAGE_SIZE))


def beginnings(app: App) -> list[Table]:
    """The first rows of each list; where there are more, the table leads to the list."""
    return [
        _zones(app, Filters.none("/zones"), FIRST),
        _clusters(app, Filters.none("/clusters", "zone", "selector"), FIRST),
        _pools(app, Filters.none("/pools", "selector"), FIRST),
    ]


def cluster_names(app: App) -> list[str]:
    """Of all clusters, for a filter to offer; none when there are too many."""
    answer = app.client.clusters.ListClusters(ListClustersRequest(page_size=MAX_CHOICES))
    return [] if answer.next_page_token else [found.name for found in answer.clusters]


def _zones(app: App, filters: Filters, size: int) -> Table:
    answer = app.client.zones.ListZones(ListZonesRequest(page_size=size, page_token=filters.page))
    return table(zone.VIEW, answer.zones, "Zones", next=filters.next(answer.next_page_token))


def _clusters(app: App, filters: Filters, size: int) -> Table:
    wanted = ListClustersRequest(
        page_size=size, page_token=filters.page, zone=filters["zone"], selector=filters["selector"]
    )
    answer = app.client.clusters.ListClusters(wanted)
    return table(cluster.VIEW, answer.clusters, "Clusters", next=filters.next(answer.next_page_token))


def _pools(app: App, filters: Filters, size: int) -> Table:
    wanted = ListPoolsRequest(page_size=size, page_token=filters.page, selector=filters["selector"])
    answer = app.client.pools.ListPools(wanted)
    return table(pool.VIEW, answer.pools, "Storage pools", next=filters.next(answer.next_page_token))
