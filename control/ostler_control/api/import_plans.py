"""ostler.control.v1.ImportPlanService. Handlers that ask a source hold no database connection meanwhile."""

from __future__ import annotations

import grpc
from google.longrunning.operations_pb2 import Operation as LongRunning
from ostler.control.v1 import import_plan_pb2 as pb
from ostler.control.v1 import import_plan_pb2_grpc
from ostler_common.errors import bad_field

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import import_plans as convert
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.import_plan_names import invalid, read
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.session import lasting, with_sessions
from ostler_control.api.start_operation import start_operation
from ostler_control.database import session
from ostler_control.imports.waves import actions, store
from ostler_control.imports.waves.check import check_all
from ostler_control.imports.waves.document import MAX_VMS
from ostler_control.models import ImportPlan
from ostler_control.operations import Engine


@with_sessions
class ImportPlanService(import_plan_pb2_grpc.ImportPlanServiceServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ValidateImportPlan(
        self, request: pb.ValidateImportPlanRequest, context: grpc.ServicerContext
    ) -> pb.ValidateImportPlanResponse:
        new, problems = read(request.document, caller_of(context))
        if new is None:
            return pb.ValidateImportPlanResponse(errors=convert.errors(problems))
        return pb.ValidateImportPlanResponse(name=new.name, vm_count=len(new.vms))

    def CreateImportPlan(self, request: pb.CreateImportPlanRequest, context: grpc.ServicerContext) -> pb.ImportPlan:
        caller = caller_of(context)

        def make() -> ImportPlan:
            new, problems = read(request.document, caller)
            if new is None:
                raise invalid(problems)
            return store.create(new, caller.actor)

        return convert.plan(once(ImportPlan, caller, request, make))

    def GetImportPlan(self, request: pb.GetImportPlanRequest, context: grpc.ServicerContext) -> pb.ImportPlan:
        return convert.plan(resolve(ImportPlan, request.plan, "plan"))

    def ListImportPlans(
        self, request: pb.ListImportPlansRequest, context: grpc.ServicerContext
    ) -> pb.ListImportPlansResponse:
        query = visible(ImportPlan, None)
        if request.state:
            query = query.where(ImportPlan.state == from_enum(pb.ImportPlan.State, "", request.state, "state"))
        query = select(query, ImportPlan, request.selector)
        found = page(query, ImportPlan, request, newest_first=True)
        return pb.ListImportPlansResponse(plans=convert.plans(found.rows), next_page_token=found.next_page_token)

    @lasting
    def CheckImportPlan(self, request: pb.CheckImportPlanRequest, context: grpc.ServicerContext) -> pb.ImportPlan:
        with session():
            plan = resolve(ImportPlan, request.plan, "plan")
        check_all(plan, self._engine.keys, self._engine.agents, lambda: None)
        with session():
            return convert.plan(plan)

    def StartImportPlan(self, request: pb.StartImportPlanRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        plan = resolve(ImportPlan, request.plan, "plan")
        return start_operation(caller, request, lambda: actions.start(plan, caller.actor))

    def PauseImportPlan(self, request: pb.PauseImportPlanRequest, context: grpc.ServicerContext) -> pb.ImportPlan:
        plan = resolve(ImportPlan, request.plan, "plan")
        return convert.plan(actions.pause(plan, caller_of(context).actor))

    def ResumeImportPlan(self, request: pb.ResumeImportPlanRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        plan = resolve(ImportPlan, request.plan, "plan")
        return start_operation(caller, request, lambda: actions.resume(plan, caller.actor))

    def RetryImportPlan(self, request: pb.RetryImportPlanRequest, context: grpc.ServicerContext) -> LongRunning:
        caller = caller_of(context)
        plan = resolve(ImportPlan, request.plan, "plan")
        if len(request.vms) > MAX_VMS:
            raise bad_field("vms", f"has more than {MAX_VMS} elements", "FIELD_TOO_LARGE")
        return start_operation(caller, request, lambda: actions.retry(plan, request.vms, caller.actor))

    def CancelImportPlan(self, request: pb.CancelImportPlanRequest, context: grpc.ServicerContext) -> pb.ImportPlan:
        plan = resolve(ImportPlan, request.plan, "plan")
        return convert.plan(actions.cancel(plan, caller_of(context).actor, self._engine.cancel))

    def DeleteImportPlan(
        self, request: pb.DeleteImportPlanRequest, context: grpc.ServicerContext
    ) -> pb.DeleteImportPlanResponse:
        store.delete(resolve(ImportPlan, request.plan, "plan"), caller_of(context).actor)
        return pb.DeleteImportPlanResponse()
