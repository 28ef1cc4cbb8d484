"""ostler.control.v1.HostService."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import grpc
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler.control.v1 import host_pb2 as pb
from ostler.control.v1 import host_pb2_grpc
from ostler_common.errors import FailedPreconditionError, OstlerError, bad_field
from ostler_common.token import JoinToken

from ostler_control import drs_plans
from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import fleet
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import start_operation, started_earlier
from ostler_control.fleet import store
from ostler_control.hosts import manage as manage_hosts
from ostler_control.hosts.rows import address
from ostler_control.models import Cluster, Host
from ostler_control.trust import enrollment
from ostler_control.trust.authority import Authority
from ostler_control.vms.lost_host import remove_lost

_DEFAULT_TTL_S, _MAX_TTL_S = 3600, 86400
_PROBE_S = 120.0


@with_sessions
class HostService(host_pb2_grpc.HostServiceServicer):
    def __init__(self, authority: Authority, agents: Agents, enroll_address: str, poke: Callable[[], None]) -> None:
        """enroll_address: what hosts are told to join at; poke: called when the set of hosts has changed."""
        self._authority = authority
        self._agents = agents
        self._enroll_address = enroll_address
        self._poke = poke

    def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: grpc.ServicerContext
    ) -> pb.CreateJoinTokenResponse:
        if not 0 <= request.ttl_s <= _MAX_TTL_S:
            raise bad_field("ttl_s", f"must be 1 to {_MAX_TTL_S} seconds, or 0 for {_DEFAULT_TTL_S}")
        host = optional(Host, request.host, "host")
        cluster = resolve(Cluster, request.cluster or (host.cluster_id if host else ""), "cluster")
        if host is not None and host.cluster_id != cluster.id:
            raise FailedPreconditionError(
                f"host {host.name} is in cluster {host.cluster.name}, and rejoins there", "OTHER_CLUSTER"
            )
        ttl = datetime.timedelta(seconds=request.ttl_s or _DEFAULT_TTL_S)
        secret, end = enrollment.create_token(
            cluster, host, ttl, caller_of(context).actor, request.host_name, request.address
        )
        token = JoinToken(secret, self._authority.fleet_fingerprint, self._enroll_address).encode()
        command = f"ostler-agent join {self._enroll_address} --token {token}"
        return pb.CreateJoinTokenResponse(token=token, expire_time=timestamp(end), command=command)

    def GetHost(self, request: pb.GetHostRequest, context: grpc.ServicerContext) -> pb.Host:
        return _whole(resolve(Host, request.host, "host"))

    def ListHosts(self, request: pb.ListHostsRequest, context: grpc.ServicerContext) -> pb.ListHostsResponse:
        query = visible(Host, None)
        if cluster := optional(Cluster, request.cluster, "cluster"):
            query = query.where(Host.cluster == cluster.id)
        if request.state:
            state = from_enum(pb.Host.State, "", request.state, "state")
            query = query.where(Host.state == ("up" if state == "maintenance" else state))
            if state in ("up", "maintenance"):
                query = query.where(Host.maintenance == (state == "maintenance"))
        if request.HasField("encryption"):
            query = query.where(Host.volume_encryption == request.encryption)
        found = page(select(query, Host, request.selector), Host, request)
        return pb.ListHostsResponse(hosts=fleet.hosts(found.rows, whole=False), next_page_token=found.next_page_token)

    def UpdateHost(self, request: pb.UpdateHostRequest, context: grpc.ServicerContext) -> pb.Host:
        fields = paths(request.update_mask, ("name", "address", "enabled"))
        values = {field: getattr(request.values, field) for field in fields}
        host = manage_hosts.update(resolve(Host, request.host, "host"), values, caller_of(context).actor)
        self._poke()
        return _whole(host)

    def ProbeHost(self, request: pb.ProbeHostRequest, context: grpc.ServicerContext) -> pb.Host:
        host = resolve(Host, request.host, "host")
        capabilities = self._agents.call(
            address(host), lambda agent: agent.host.ProbeCapabilities, agent_pb.ProbeCapabilitiesRequest(), _PROBE_S
        )
        store.set_facts(store.WatchedHost(host.id, host.name, host.address, host.state), "", capabilities)
        return _whole(Host.get_by_id(host.id))

    def EnterMaintenance(
        self, request: pb.EnterMaintenanceRequest, context: grpc.ServicerContext
    ) -> pb.EnterMaintenanceResponse:
        caller, host = caller_of(context), resolve(Host, request.host, "host")
        if request.evacuate:
            if (earlier := started_earlier(caller, request)) is not None:
                return pb.EnterMaintenanceResponse(host=_whole(host), evacuation=earlier)
            drs_plans.check_can_evacuate(host)
        was, reason = bool(host.maintenance), host.maintenance_reason
        host = manage_hosts.set_maintenance(host, True, request.reason, caller.actor)
        evacuation = None
        if request.evacuate:
            try:
                evacuation = start_operation(caller, request, drs_plans.evacuate_host(host, caller.actor))
            except OstlerError:  # half of what was asked for is not done
                manage_hosts.set_maintenance(host, was, reason, caller.actor)
                raise
        return pb.EnterMaintenanceResponse(host=_whole(host), evacuation=evacuation)

    def LeaveMaintenance(self, request: pb.LeaveMaintenanceRequest, context: grpc.ServicerContext) -> pb.Host:
        host = resolve(Host, request.host, "host")
        return _whole(manage_hosts.set_maintenance(host, False, "", caller_of(context).actor))

    def RemoveHost(self, request: pb.RemoveHostRequest, context: grpc.ServicerContext) -> pb.RemoveHostResponse:
        host = resolve(Host, request.host, "host")
        actor = caller_of(context).actor
        answer = pb.RemoveHostResponse()
        if request.lost:
            lost = remove_lost(host, actor, validate_only=request.validate_only)
            answer = pb.RemoveHostResponse(
                lost_vms=lost.vms,
                lost_volumes=lost.volumes,
                lost_snapshots=lost.snapshots,
                stopped_vms=lost.stopped_vms,
            )
        else:
            manage_hosts.remove(host, actor, validate_only=request.validate_only)
        self._poke()
        return answer


def _whole(row: Host) -> pb.Host:
    return fleet.hosts([row], whole=True)[0]
