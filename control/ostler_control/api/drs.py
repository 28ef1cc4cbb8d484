"""ostler.control.v1.DrsService. Plans are made before the transaction in which they are written down begins."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import drs_pb2 as pb
from ostler.control.v1 import drs_pb2_grpc
from ostler_common.errors import bad_field

from ostler_control import drs_plans
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import drs
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.api.start_operation import start_operation
from ostler_control.drs import Mode
from ostler_control.drs.algorithms import installed
from ostler_control.drs_plans.generate import chosen
from ostler_control.models import Cluster, DrsPlan, Host, Pool, Vm, Volume, Zone
from ostler_control.operations import Engine
from ostler_control.power.plans import plan_power

_MODES = {"balance": Mode.BALANCE, "repair": Mode.REPAIR}


@with_sessions
class DrsService(drs_pb2_grpc.DrsServiceServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def GeneratePlan(self, request: pb.GeneratePlanRequest, context: grpc.ServicerContext) -> pb.DrsPlan:
        caller = caller_of(context)
        cluster = resolve(Cluster, request.cluster, "cluster")
        word = from_enum(pb.DrsPlan.Mode, "", request.mode, "mode", "balance")
        if word not in _MODES:
            raise bad_field("mode", "must be BALANCE or REPAIR", "INVALID_ENUM")
        found = drs_plans.generate(cluster, _MODES[word], request.max_migrations)

        def make() -> DrsPlan:
            kept: DrsPlan = drs_plans.keep(cluster, found, type="manual", mode=word, user=caller.actor)
            return kept

        return drs.plan(once(DrsPlan, caller, request, make))

    def GenerateReturnPlan(self, request: pb.GenerateReturnPlanRequest, context: grpc.ServicerContext) -> pb.DrsPlan:
        caller = caller_of(context)
        host = resolve(Host, request.host, "host")
        found = drs_plans.way_back(host)

        def make() -> DrsPlan:
            kept: DrsPlan = drs_plans.keep(
                host.cluster, found, type="manual", mode="return", user=caller.actor, host_id=host.id
            )
            return kept

        return drs.plan(once(DrsPlan, caller, request, make))

    def GetPlan(self, request: pb.GetPlanRequest, context: grpc.ServicerContext) -> pb.DrsPlan:
        return drs.plan(resolve(DrsPlan, request.plan, "plan"))

    def ListPlans(self, request: pb.ListPlansRequest, context: grpc.ServicerContext) -> pb.ListPlansResponse:
        query = visible(DrsPlan, None)
        if cluster := optional(Cluster, request.cluster, "cluster"):
            query = query.where(DrsPlan.cluster == cluster.id)
        if request.state:
            query = query.where(DrsPlan.state == from_enum(pb.DrsPlan.State, "", request.state, "state"))
        found = page(query, DrsPlan, request, newest_first=True)
        return pb.ListPlansResponse(plans=drs.plans(found.rows), next_page_token=found.next_page_token)

    def ExecutePlan(self, request: pb.ExecutePlanRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        plan = resolve(DrsPlan, request.plan, "plan")
        return start_operation(caller, request, lambda: drs_plans.execute(plan, caller.actor))

    def ExecuteMapping(self, request: pb.ExecuteMappingRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        cluster = resolve(Cluster, request.cluster, "cluster")
        found = chosen(cluster, _pairs(request.moves), f"chosen by {caller.actor}")
        return start_operation(caller, request, lambda: drs_plans.execute_mapping(cluster, found, caller.actor))

    def CancelPlan(self, request: pb.CancelPlanRequest, context: grpc.ServicerContext) -> pb.DrsPlan:
        plan = resolve(DrsPlan, request.plan, "plan")
        return drs.plan(drs_plans.cancel(plan, caller_of(context).actor, self._engine.cancel))

    def ListAlgorithms(
        self, request: pb.ListAlgorithmsRequest, context: grpc.ServicerContext
    ) -> pb.ListAlgorithmsResponse:
        return pb.ListAlgorithmsResponse(algorithms=drs.algorithms(installed()))

    def GetPowerPlan(self, request: pb.GetPowerPlanRequest, context: grpc.ServicerContext) -> pb.PowerPlan:
        cluster = resolve(Cluster, request.cluster, "cluster")
        return drs.power_plan(cluster, plan_power(cluster))

    def GetStoragePlan(self, request: pb.GetStoragePlanRequest, context: grpc.ServicerContext) -> pb.StoragePlan:
        zone = resolve(Zone, request.zone, "zone")
        return drs.storage_plan(zone, drs_plans.plan_storage(zone))

    def ExecuteStoragePlan(self, request: pb.ExecuteStoragePlanRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        zone = resolve(Zone, request.zone, "zone")
        moves = [
            (
                resolve(Volume, move.volume, f"moves[{number}].volume", caller=caller),
                resolve(Pool, move.pool, f"moves[{number}].pool"),
            )
            for number, move in enumerate(request.moves)
        ]
        return start_operation(caller, request, lambda: drs_plans.execute_storage(zone, moves, caller.actor))

    def GetClusterStatus(self, request: pb.GetClusterStatusRequest, context: grpc.ServicerContext) -> pb.ClusterStatus:
        cluster = resolve(Cluster, request.cluster, "cluster")
        return drs.status(cluster, drs_plans.status(cluster))


def _pairs(moves: Sequence[pb.ExecuteMappingRequest.Move]) -> list[tuple[str, str]]:
    if not moves:
        raise bad_field("moves", "is empty", "REQUIRED")
    pairs: dict[str, str] = {}
    for number, move in enumerate(moves):
        vm, host = resolve(Vm, move.vm, f"moves[{number}].vm"), resolve(Host, move.host, f"moves[{number}].host")
        if vm.id in pairs:
            raise bad_field(f"moves[{number}].vm", f"{vm.name} is listed twice", "DUPLICATE_VM")
        pairs[str(vm.id)] = str(host.id)
    return list(pairs.items())
