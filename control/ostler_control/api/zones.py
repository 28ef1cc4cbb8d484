"""ostler.control.v1.ZoneService and ClusterService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import zone_pb2 as pb
from ostler.control.v1 import zone_pb2_grpc

from ostler_control import labels
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.catalog import zones
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, Zone


@with_sessions
class ZoneService(zone_pb2_grpc.ZoneServiceServicer):
    def CreateZone(self, request: pb.CreateZoneRequest, context: grpc.ServicerContext) -> pb.Zone:
        caller = caller_of(context)
        return _zones([once(Zone, caller, request, lambda: zones.create_zone(request.name, caller.actor))])[0]

    def GetZone(self, request: pb.GetZoneRequest, context: grpc.ServicerContext) -> pb.Zone:
        return _zones([resolve(Zone, request.zone, "zone")])[0]

    def ListZones(self, request: pb.ListZonesRequest, context: grpc.ServicerContext) -> pb.ListZonesResponse:
        found = page(select(visible(Zone, None), Zone, request.selector), Zone, request)
        return pb.ListZonesResponse(zones=_zones(found.rows), next_page_token=found.next_page_token)

    def DeleteZone(self, request: pb.DeleteZoneRequest, context: grpc.ServicerContext) -> pb.DeleteZoneResponse:
        zones.delete_zone(resolve(Zone, request.zone, "zone"), caller_of(context).actor)
        return pb.DeleteZoneResponse()


@with_sessions
class ClusterService(zone_pb2_grpc.ClusterServiceServicer):
    def CreateCluster(self, request: pb.CreateClusterRequest, context: grpc.ServicerContext) -> pb.Cluster:
        caller = caller_of(context)

        def make() -> Cluster:
            zone = resolve(Zone, request.zone, "zone")
            overcommit = (request.cpu_overcommit, request.memory_overcommit)
            found = rules.find(request.hypervisor_type, "hypervisor_type").type if request.hypervisor_type else ""
            return zones.create_cluster(request.name, zone, *overcommit, caller.actor, found)

        return _clusters([once(Cluster, caller, request, make)])[0]

    def GetCluster(self, request: pb.GetClusterRequest, context: grpc.ServicerContext) -> pb.Cluster:
        return _clusters([resolve(Cluster, request.cluster, "cluster")])[0]

    def ListClusters(self, request: pb.ListClustersRequest, context: grpc.ServicerContext) -> pb.ListClustersResponse:
        query = Cluster.select(Cluster, Zone).join(Zone)
        if zone := optional(Zone, request.zone, "zone"):
            query = query.where(Cluster.zone == zone)
        query = select(query, Cluster, request.selector)
        found = page(query, Cluster, request)
        return pb.ListClustersResponse(clusters=_clusters(found.rows), next_page_token=found.next_page_token)

    def UpdateCluster(self, request: pb.UpdateClusterRequest, context: grpc.ServicerContext) -> pb.Cluster:
        changes = {path: getattr(request.values, path) for path in paths(request.update_mask, zones.CHANGEABLE)}
        cluster = resolve(Cluster, request.cluster, "cluster")
        return _clusters([zones.update_cluster(cluster, changes, caller_of(context).actor)])[0]

    def DeleteCluster(
        self, request: pb.DeleteClusterRequest, context: grpc.ServicerContext
    ) -> pb.DeleteClusterResponse:
        zones.delete_cluster(resolve(Cluster, request.cluster, "cluster"), caller_of(context).actor)
        return pb.DeleteClusterResponse()


def _zones(rows: list[Zone]) -> list[pb.Zone]:
    own = labels.of_objects(Zone, [row.id for row in rows])
    return [core.zone(row, own.get(row.id, {})) for row in rows]


def _clusters(rows: list[Cluster]) -> list[pb.Cluster]:
    counts = zones.host_counts([row.id for row in rows])
    names, own = rules.names(), labels.of_objects(Cluster, [row.id for row in rows])
    return [core.cluster(row, counts.get(row.id, 0), names, own.get(row.id, {})) for row in rows]
