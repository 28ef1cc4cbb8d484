"""The services of accounts, places, types of hypervisor, offerings and settings, ready to be served."""

from __future__ import annotations

from collections.abc import Mapping

from ostler.control.v1 import (
    account_pb2_grpc,
    extra_config_pb2_grpc,
    hypervisor_pb2_grpc,
    label_pb2_grpc,
    network_pb2_grpc,
    offering_pb2_grpc,
    setting_pb2_grpc,
    zone_pb2_grpc,
)
from ostler_common.server import Registration

from ostler_control.api.accounts import AccountService
from ostler_control.api.extra_configs import ExtraConfigService
from ostler_control.api.hypervisors import HypervisorService
from ostler_control.api.labels import LabelService
from ostler_control.api.networks import NetworkService
from ostler_control.api.offerings import OfferingService
from ostler_control.api.settings import SettingService
from ostler_control.api.zones import ClusterService, ZoneService

SERVICES: Mapping[str, Registration] = {
    "ostler.control.v1.AccountService": lambda server: account_pb2_grpc.add_AccountServiceServicer_to_server(
        AccountService(), server
    ),
    "ostler.control.v1.ZoneService": lambda server: zone_pb2_grpc.add_ZoneServiceServicer_to_server(
        ZoneService(), server
    ),
    "ostler.control.v1.ClusterService": lambda server: zone_pb2_grpc.add_ClusterServiceServicer_to_server(
        ClusterService(), server
    ),
    "ostler.control.v1.NetworkService": lambda server: network_pb2_grpc.add_NetworkServiceServicer_to_server(
        NetworkService(), server
    ),
    "ostler.control.v1.LabelService": lambda server: label_pb2_grpc.add_LabelServiceServicer_to_server(
        LabelService(), server
    ),
    "ostler.control.v1.HypervisorService": lambda server: hypervisor_pb2_grpc.add_HypervisorServiceServicer_to_server(
        HypervisorService(), server
    ),
    "ostler.control.v1.OfferingService": lambda server: offering_pb2_grpc.add_OfferingServiceServicer_to_server(
        OfferingService(), server
    ),
    "ostler.control.v1.SettingService": lambda server: setting_pb2_grpc.add_SettingServiceServicer_to_server(
        SettingService(), server
    ),
    "ostler.control.v1.ExtraConfigService": lambda server: (
        extra_config_pb2_grpc.add_ExtraConfigServiceServicer_to_server(ExtraConfigService(), server)
    ),
}
