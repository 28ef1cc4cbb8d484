"""The control plane's services over one connection."""

from __future__ import annotations

from functools import cached_property

import grpc
from google.longrunning import operations_pb2_grpc

from ostler.control.v1 import (
    account_pb2_grpc,
    affinity_pb2_grpc,
    backup_pb2_grpc,
    drs_pb2_grpc,
    event_pb2_grpc,
    extra_config_pb2_grpc,
    ha_pb2_grpc,
    host_pb2_grpc,
    hypervisor_pb2_grpc,
    import_pb2_grpc,
    import_plan_pb2_grpc,
    iso_pb2_grpc,
    key_pb2_grpc,
    label_pb2_grpc,
    network_pb2_grpc,
    offering_pb2_grpc,
    pool_pb2_grpc,
    setting_pb2_grpc,
    snapshot_pb2_grpc,
    template_pb2_grpc,
    userdata_pb2_grpc,
    vm_pb2_grpc,
    vm_snapshot_pb2_grpc,
    volume_pb2_grpc,
    zone_pb2_grpc,
)


class Services:
    """One stub per service, named by its noun, over a channel. Calls fail as the channel makes them fail."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    @cached_property
    def accounts(self) -> account_pb2_grpc.AccountServiceStub:
        return account_pb2_grpc.AccountServiceStub(self.channel)

    @cached_property
    def users(self) -> account_pb2_grpc.UserServiceStub:
        return account_pb2_grpc.UserServiceStub(self.channel)

    @cached_property
    def zones(self) -> zone_pb2_grpc.ZoneServiceStub:
        return zone_pb2_grpc.ZoneServiceStub(self.channel)

    @cached_property
    def clusters(self) -> zone_pb2_grpc.ClusterServiceStub:
        return zone_pb2_grpc.ClusterServiceStub(self.channel)

    @cached_property
    def networks(self) -> network_pb2_grpc.NetworkServiceStub:
        return network_pb2_grpc.NetworkServiceStub(self.channel)

    @cached_property
    def hosts(self) -> host_pb2_grpc.HostServiceStub:
        return host_pb2_grpc.HostServiceStub(self.channel)

    @cached_property
    def hypervisors(self) -> hypervisor_pb2_grpc.HypervisorServiceStub:
        return hypervisor_pb2_grpc.HypervisorServiceStub(self.channel)

    @cached_property
    def pools(self) -> pool_pb2_grpc.PoolServiceStub:
        return pool_pb2_grpc.PoolServiceStub(self.channel)

    @cached_property
    def offerings(self) -> offering_pb2_grpc.OfferingServiceStub:
        return offering_pb2_grpc.OfferingServiceStub(self.channel)

    @cached_property
    def templates(self) -> template_pb2_grpc.TemplateServiceStub:
        return template_pb2_grpc.TemplateServiceStub(self.channel)

    @cached_property
    def user_data(self) -> userdata_pb2_grpc.UserDataServiceStub:
        return userdata_pb2_grpc.UserDataServiceStub(self.channel)

    @cached_property
    def volumes(self) -> volume_pb2_grpc.VolumeServiceStub:
        return volume_pb2_grpc.VolumeServiceStub(self.channel)

    @cached_property
    def snapshots(self) -> snapshot_pb2_grpc.SnapshotServiceStub:
        return snapshot_pb2_grpc.SnapshotServiceStub(self.channel)

    @cached_property
    def vm_snapshots(self) -> vm_snapshot_pb2_grpc.VmSnapshotServiceStub:
        return vm_snapshot_pb2_grpc.VmSnapshotServiceStub(self.channel)

    @cached_property
    def backups(self) -> backup_pb2_grpc.BackupServiceStub:
        return backup_pb2_grpc.BackupServiceStub(self.channel)

    @cached_property
    def vms(self) -> vm_pb2_grpc.VmServiceStub:
        return vm_pb2_grpc.VmServiceStub(self.channel)

    @cached_property
    def drs(self) -> drs_pb2_grpc.DrsServiceStub:
        return drs_pb2_grpc.DrsServiceStub(self.channel)

    @cached_property
    def ha(self) -> ha_pb2_grpc.HaServiceStub:
        return ha_pb2_grpc.HaServiceStub(self.channel)

    @cached_property
    def affinity(self) -> affinity_pb2_grpc.AffinityServiceStub:
        return affinity_pb2_grpc.AffinityServiceStub(self.channel)

    @cached_property
    def events(self) -> event_pb2_grpc.EventServiceStub:
        return event_pb2_grpc.EventServiceStub(self.channel)

    @cached_property
    def extra_configs(self) -> extra_config_pb2_grpc.ExtraConfigServiceStub:
        return extra_config_pb2_grpc.ExtraConfigServiceStub(self.channel)

    @cached_property
    def labels(self) -> label_pb2_grpc.LabelServiceStub:
        return label_pb2_grpc.LabelServiceStub(self.channel)

    @cached_property
    def import_plans(self) -> import_plan_pb2_grpc.ImportPlanServiceStub:
        return import_plan_pb2_grpc.ImportPlanServiceStub(self.channel)

    @cached_property
    def imports(self) -> import_pb2_grpc.ImportServiceStub:
        return import_pb2_grpc.ImportServiceStub(self.channel)

    @cached_property
    def settings(self) -> setting_pb2_grpc.SettingServiceStub:
        return setting_pb2_grpc.SettingServiceStub(self.channel)

    @cached_property
    def isos(self) -> iso_pb2_grpc.IsoServiceStub:
        return iso_pb2_grpc.IsoServiceStub(self.channel)

    @cached_property
    def keys(self) -> key_pb2_grpc.KeyServiceStub:
        return key_pb2_grpc.KeyServiceStub(self.channel)

    @cached_property
    def operations(self) -> operations_pb2_grpc.OperationsStub:
        return operations_pb2_grpc.OperationsStub(self.channel)
