"""The services with long-running operations, ready to serve. Importing this registers their workflows."""

from __future__ import annotations

from collections.abc import Mapping

from google.longrunning import operations_pb2_grpc
from ostler.control.v1 import (
    affinity_pb2_grpc,
    backup_pb2_grpc,
    drs_pb2_grpc,
    ha_pb2_grpc,
    import_pb2_grpc,
    import_plan_pb2_grpc,
    iso_pb2_grpc,
    key_pb2_grpc,
    snapshot_pb2_grpc,
    template_pb2_grpc,
    userdata_pb2_grpc,
    vm_pb2_grpc,
    vm_snapshot_pb2_grpc,
    volume_pb2_grpc,
)
from ostler_common.server import Registration

from ostler_control.api.affinity import AffinityService
from ostler_control.api.backups import BackupService
from ostler_control.api.drs import DrsService
from ostler_control.api.ha import HaService
from ostler_control.api.import_plans import ImportPlanService
from ostler_control.api.imports import ImportService
from ostler_control.api.isos import IsoService
from ostler_control.api.keys import KeyService
from ostler_control.api.operations import OperationService
from ostler_control.api.snapshots import SnapshotService
from ostler_control.api.templates import TemplateService
from ostler_control.api.userdata import UserDataService
from ostler_control.api.vm_snapshots import VmSnapshotService
from ostler_control.api.vms import VmService
from ostler_control.api.volumes import VolumeService
from ostler_control.hosts import definitions as _definitions  # noqa: F401 - registers its verb
from ostler_control.imports import sweep as _import_sweep  # noqa: F401 - registers its verb
from ostler_control.imports import workflow as _import_workflow  # noqa: F401 - registers its verb
from ostler_control.operations import Engine
from ostler_control.templates import store as template_store


def services(engine: Engine) -> Mapping[str, Registration]:
    """Services by full name. Also removes leftover template files."""
    template_store.sweep(engine.templates)
    template_service = TemplateService(engine.templates, engine.agents, engine.keys)
    volume_service, vm_service = (
        VolumeService(engine.agents, engine.keys, engine.templates),
        VmService(engine.agents, engine.keys),
    )
    operation_service, drs_service = OperationService(engine), DrsService(engine)
    key_service = KeyService(engine.keys)
    return {
        "ostler.control.v1.TemplateService": lambda server: template_pb2_grpc.add_TemplateServiceServicer_to_server(
            template_service, server
        ),
        "ostler.control.v1.IsoService": lambda server: iso_pb2_grpc.add_IsoServiceServicer_to_server(
            IsoService(engine.templates), server
        ),
        "ostler.control.v1.VolumeService": lambda server: volume_pb2_grpc.add_VolumeServiceServicer_to_server(
            volume_service, server
        ),
        "ostler.control.v1.SnapshotService": lambda server: snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(
            SnapshotService(engine.agents, engine.keys), server
        ),
        "ostler.control.v1.VmSnapshotService": lambda server: (
            vm_snapshot_pb2_grpc.add_VmSnapshotServiceServicer_to_server(VmSnapshotService(engine.keys), server)
        ),
        "ostler.control.v1.BackupService": lambda server: backup_pb2_grpc.add_BackupServiceServicer_to_server(
            BackupService(engine.agents, engine.keys), server
        ),
        "ostler.control.v1.VmService": lambda server: vm_pb2_grpc.add_VmServiceServicer_to_server(vm_service, server),
        "ostler.control.v1.DrsService": lambda server: drs_pb2_grpc.add_DrsServiceServicer_to_server(
            drs_service, server
        ),
        "ostler.control.v1.HaService": lambda server: ha_pb2_grpc.add_HaServiceServicer_to_server(
            HaService(engine.keys), server
        ),
        "ostler.control.v1.ImportService": lambda server: import_pb2_grpc.add_ImportServiceServicer_to_server(
            ImportService(engine.keys, engine.agents), server
        ),
        "ostler.control.v1.ImportPlanService": lambda server: (
            import_plan_pb2_grpc.add_ImportPlanServiceServicer_to_server(ImportPlanService(engine), server)
        ),
        "ostler.control.v1.AffinityService": lambda server: affinity_pb2_grpc.add_AffinityServiceServicer_to_server(
            AffinityService(), server
        ),
        "ostler.control.v1.UserDataService": lambda server: userdata_pb2_grpc.add_UserDataServiceServicer_to_server(
            UserDataService(engine.keys), server
        ),
        "ostler.control.v1.KeyService": lambda server: key_pb2_grpc.add_KeyServiceServicer_to_server(
            key_service, server
        ),
        "google.longrunning.Operations": lambda server: operations_pb2_grpc.add_OperationsServicer_to_server(
            operation_service, server
        ),
    }
