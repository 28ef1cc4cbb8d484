"""Zones, clusters and storage pools: lists of their own, and their beginnings on the fleet's page."""

from __future__ import annotations

from collections.abc import Callable

from ostler.control.v1.pool_pb2 import ListPoolsRequest
from ostler.control.v1.zone_pb2 import ListClustersRequest, ListZonesRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import cluster, pool, zone
from ostler_control.web.context import Console
from ostler_control.web.lists import render_list
from ostler_control.web.tables import PAGE_SIZE, Filters, Table, address, path, table

# The address of the page with this token; "" for none.
Following = Callable[[str], str]
# Rows of each on the fleet's page.
FIRST = 20
# With more clusters a filter takes any text, instead of offering them all.
MAX_CHOICES = 100


def zones(console: Console, request: Request) -> Response:
    """The page of zones."""
    filters = Filters(request, ("selector", "Labels"))
    wanted = ListZonesRequest(page_size=PAGE_SIZE, page_token=filters.page, selector=filters["selector"])
    table = _zones(console.app, wanted, filters.next)
    return render_list(console, request, ("zone", "list"), filters, table)


def clusters(console: Console, request: Request) -> Response:
    """The page of clusters."""
    filters = Filters(request, ("zone", "Zone"), ("selector", "Labels"))
    wanted = ListClustersRequest(
        page_size=PAGE_SIZE, page_token=filters.page, zone=filters["zone"], selector=filters["selector"]
    )
    table = _clusters(console.app, wanted, filters.next)
    return render_list(console, request, ("cluster", "list"), filters, table)


def pools(console: Console, request: Request) -> Response:
    """The page of storage pools."""
    filters = Filters(request, ("selector", "Labels"))
    wanted = ListPoolsRequest(page_size=PAGE_SIZE, page_token=filters.page, selector=filters["selector"])
    return render_list(console, request, ("pool", "list"), filters, _pools(console.app, wanted, filters.next))


def beginnings(app: App) -> list[Table]:
    """The first rows of each list; where there are more, the table leads to the list."""
    return [
        _zones(app, ListZonesRequest(page_size=FIRST), _rest("/zones")),
        _clusters(app, ListClustersRequest(page_size=FIRST), _rest("/clusters")),
        _pools(app, ListPoolsRequest(page_size=FIRST), _rest("/pools")),
    ]


def cluster_names(app: App) -> list[str]:
    """Of all clusters, for a filter to offer; none when there are too many."""
    answer = app.client.clusters.ListClusters(ListClustersRequest(page_size=MAX_CHOICES))
    return [] if answer.next_page_token else [found.name for found in answer.clusters]


def _zones(app: App, wanted: ListZonesRequest, following: Following) -> Table:
    answer = app.client.zones.ListZones(wanted)
    return table(
        zone.VIEW, answer.zones, "Zones", lambda z: path("zones", z.name), next=following(answer.next_page_token)
    )


def _clusters(app: App, wanted: ListClustersRequest, following: Following) -> Table:
    answer = app.client.clusters.ListClusters(wanted)
    return table(
        cluster.VIEW,
        answer.clusters,
        "Clusters",
        lambda c: path("clusters", c.name),
        next=following(answer.next_page_token),
    )


def _pools(app: App, wanted: ListPoolsRequest, following: Following) -> Table:
    answer = app.client.pools.ListPools(wanted)
    return table(
        pool.VIEW,
        answer.pools,
        "Storage pools",
        lambda p: path("pools", p.name),
        next=following(answer.next_page_token),
    )


def _rest(page: str) -> Following:
    """Where a list goes on that began on another page."""
    return lambda token: address(page, {"page": token}) if token else ""
