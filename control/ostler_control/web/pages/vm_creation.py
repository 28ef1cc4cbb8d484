"""The form of a new VM."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.client.paging import pages
from ostler.control.v1 import offering_pb2, template_pb2
from ostler.control.v1 import vm_pb2 as pb
from ostler.control.v1.network_pb2 import ListNetworksRequest
from ostler.control.v1.userdata_pb2 import ListUserDataRequest, VmUserData

from ostler_control.cli.app import App
from ostler_control.web.creations import Creation, Suggestions, size_of
from ostler_control.web.forms import Call, Option
from ostler_control.web.tables import PAGE_SIZE


def _suggest(app: App) -> Suggestions:
    client = app.client
    templates = pages(
        client.templates.ListTemplates, template_pb2.ListTemplatesRequest(), lambda a: a.templates, PAGE_SIZE
    )
    offerings = pages(
        client.offerings.ListServiceOfferings,
        offering_pb2.ListServiceOfferingsRequest(),
        lambda a: a.service_offerings,
        PAGE_SIZE,
    )
    networks = pages(client.networks.ListNetworks, ListNetworksRequest(), lambda a: a.networks, PAGE_SIZE)
    documents = pages(client.user_data.ListUserData, ListUserDataRequest(), lambda a: a.user_data, PAGE_SIZE)
    return {
        "template": [one.name for one in templates],
        "offering": [one.name for one in offerings],
        "nic": [one.name for one in networks],
        "user-data": [one.name for one in documents],
    }


def _create(app: App, call: Call) -> Operation:
    return app.client.vms.CreateVm(
        pb.CreateVmRequest(
            request_id=call.request_id,
            name=call.text("name"),
            template=call.text("template"),
            service_offering=call.text("offering"),
            root_size_bytes=size_of(call, "root-size"),
            nics=[pb.VmNic(network=call.text("nic"))] if call.text("nic") else [],
            user_data=VmUserData(user_data=call.text("user-data")) if call.text("user-data") else None,
            account=call.text("account"),
            cluster=call.text("cluster"),
            host=call.text("host"),
            tpm=call.flag("tpm"),
            stopped=call.flag("stopped"),
        )
    )


CREATION = Creation(
    "vm",
    ("vm", "create"),
    "Create VM",
    "The VM gets a root disk with the content of a template, encrypted where the service offering says so.",
    "/vms",
    _create,
    (
        Option("name", "Name", is_argument=True),
        Option("template", "Template", is_required=True),
        Option("offering", "Service offering", is_required=True),
        Option("nic", "Network (empty: none)"),
        Option("root-size", "Size of the root disk, such as 40GiB (empty: the template's)"),
        Option("user-data", "Registered user data (empty: what the template links)"),
        Option("account", "Account (empty: yours)"),
        Option("cluster", "Cluster (empty: any)", admins=True),
        Option("host", "Host (empty: chosen)", admins=True),
        Option("tpm", "With an emulated TPM 2.0", is_flag=True),
        Option("stopped", "Do not start it", is_flag=True),
    ),
    _suggest,
)
