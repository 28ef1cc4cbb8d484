"""A zone, a cluster, a pool, or a network on a page of its own."""

from __future__ import annotations

from ostler.control.v1 import network_pb2, pool_pb2, zone_pb2
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import cluster, network, pool, zone
from ostler_control.web import tables
from ostler_control.web.actions import Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object


def one_zone(console: Console, request: Request) -> Response:
    """The page of a zone."""
    found = _zone(console.app, request.path_params["zone"])
    links = [("Its clusters", tables.address("/clusters", {"zone": found.name}))]
    target, words = _target(found, "zone"), ("zone", "show", found.name)
    buttons = ZONE_ACTIONS.buttons(console, target)
    return render_object(console, request, target, words, zone.VIEW, found, buttons=buttons, links=links)


def one_cluster(console: Console, request: Request) -> Response:
    """The page of a cluster."""
    found = _cluster(console.app, request.path_params["cluster"])
    links = [
        ("Its hosts", tables.address("/", {"cluster": found.name})),
        ("Its load", tables.address("/drs", {"cluster": found.name})),
    ]
    target, words = _target(found, "cluster"), ("cluster", "show", found.name)
    buttons = CLUSTER_ACTIONS.buttons(console, target)
    return render_object(console, request, target, words, cluster.VIEW, found, buttons=buttons, links=links)


def one_pool(console: Console, request: Request) -> Response:
    """The page of a storage pool, with the hosts that reach it."""
    found = _pool(console.app, request.path_params["pool"])
    links = [("Its volumes", tables.address("/volumes", {"pool": found.name}))]
    target, words = _target(found, "pool"), ("pool", "show", found.name)
    buttons = POOL_ACTIONS.buttons(console, target)
    return render_object(console, request, target, words, pool.VIEW, found, buttons=buttons, links=links)


def one_network(console: Console, request: Request) -> Response:
    """The page of a network."""
    found = _network(console.app, request.path_params["network"])
    target, words = _target(found, "network", "/catalog"), ("network", "show", found.name)
    buttons = NETWORK_ACTIONS.buttons(console, target)
    return render_object(console, request, target, words, network.VIEW, found, buttons=buttons)


def _zone(app: App, name: str) -> zone_pb2.Zone:
    return app.client.zones.GetZone(zone_pb2.GetZoneRequest(zone=name))


def _cluster(app: App, name: str) -> zone_pb2.Cluster:
    return app.client.clusters.GetCluster(zone_pb2.GetClusterRequest(cluster=name))


def _pool(app: App, name: str) -> pool_pb2.Pool:
    return app.client.pools.GetPool(pool_pb2.GetPoolRequest(pool=name))


def _network(app: App, name: str) -> network_pb2.Network:
    return app.client.networks.GetNetwork(network_pb2.GetNetworkRequest(network=name))


_Place = zone_pb2.Zone | zone_pb2.Cluster | pool_pb2.Pool | network_pb2.Network


def _target(found: _Place, noun: str, here: str = "/") -> Target:
    return Target(found.id, found.name, noun, "", here, tables.path(f"{noun}s", found.name))


ZONE_ACTIONS = Actions(
    "/zones", lambda app, name: _target(_zone(app, name), "zone"), (label_action("zone", admins=True),)
)
CLUSTER_ACTIONS = Actions(
    "/clusters", lambda app, name: _target(_cluster(app, name), "cluster"), (label_action("cluster", admins=True),)
)
POOL_ACTIONS = Actions(
    "/pools", lambda app, name: _target(_pool(app, name), "pool"), (label_action("pool", admins=True),)
)
NETWORK_ACTIONS = Actions(
    "/networks",
    lambda app, name: _target(_network(app, name), "network", "/catalog"),
    (label_action("network", admins=True),),
)
