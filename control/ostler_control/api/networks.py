"""ostler.control.v1.NetworkService."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from ostler.control.v1 import network_pb2 as pb
from ostler.control.v1 import network_pb2_grpc
from ostler_common.errors import bad_field

from ostler_control import networks
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import networks as convert
from ostler_control.api.labels import select
from ostler_control.api.masks import paths
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.models import Account, Network, Zone


@with_sessions
class NetworkService(network_pb2_grpc.NetworkServiceServicer):
    def CreateNetwork(self, request: pb.CreateNetworkRequest, context: grpc.ServicerContext) -> pb.Network:
        caller = caller_of(context)

        def make() -> Network:
            new = networks.NewNetwork(
                name=request.name,
                zone=optional(Zone, request.zone, "zone") or _only_zone(),
                bridge=request.bridge,
                vlan=request.vlan,
                mtu=request.mtu,
                filter=not request.no_filter,
                all_accounts=request.all_accounts,
                accounts=_accounts(request.allowed_accounts, "allowed_accounts"),
            )
            return networks.create(new, caller.actor)

        return convert.networks([once(Network, caller, request, make)], caller)[0]

    def GetNetwork(self, request: pb.GetNetworkRequest, context: grpc.ServicerContext) -> pb.Network:
        caller = caller_of(context)
        return convert.networks([resolve(Network, request.network, "network", caller=caller)], caller)[0]

    def ListNetworks(self, request: pb.ListNetworksRequest, context: grpc.ServicerContext) -> pb.ListNetworksResponse:
        caller = caller_of(context)
        query = visible(Network, caller)
        if zone := optional(Zone, request.zone, "zone"):
            query = query.where(Network.zone == zone)
        query = select(query, Network, request.selector)
        found = page(query, Network, request, scope=caller.actor)
        rows = convert.networks(found.rows, caller)
        return pb.ListNetworksResponse(networks=rows, next_page_token=found.next_page_token)

    def UpdateNetwork(self, request: pb.UpdateNetworkRequest, context: grpc.ServicerContext) -> pb.Network:
        caller, fields = caller_of(context), paths(request.update_mask, networks.CHANGEABLE)
        network = resolve(Network, request.network, "network")
        changes = {field: getattr(request.values, field) for field in fields - {"accounts"}}
        accounts = _accounts(request.values.accounts, "values.accounts") if "accounts" in fields else None
        return convert.networks([networks.update(network, changes, accounts, caller.actor)], caller)[0]

    def DeleteNetwork(
        self, request: pb.DeleteNetworkRequest, context: grpc.ServicerContext
    ) -> pb.DeleteNetworkResponse:
        networks.delete(resolve(Network, request.network, "network"), caller_of(context).actor)
        return pb.DeleteNetworkResponse()


def resolve_networks(refs: Mapping[str, str], field: str, account: Account) -> dict[str, Network]:
    """The networks that these ids and names refer to, under the same keys. Raises NotFoundError NETWORK_NOT_FOUND,
    FailedPreconditionError NETWORK_NOT_ALLOWED."""
    found = {key: resolve(Network, ref, f"{field}[{key}]") for key, ref in refs.items()}
    for network in found.values():
        networks.check_allowed(network, account)
    return found


def _accounts(refs: Iterable[str], field: str) -> list[Account]:
    return [resolve(Account, ref, field) for ref in refs]


def _only_zone() -> Zone:
    zones = list(Zone.select().limit(2))
    if len(zones) != 1:
        raise bad_field("zone", "is required: an id or a name", "REQUIRED")
    return zones[0]
