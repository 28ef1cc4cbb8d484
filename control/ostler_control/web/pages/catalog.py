"""What VMs are made of: templates, offerings, ISO images, networks; and the types of hypervisors."""

from __future__ import annotations

from ostler.client.paging import pages
from ostler.control.v1 import offering_pb2, template_pb2
from ostler.control.v1.hypervisor_pb2 import GetHypervisorTypeRequest
from ostler.control.v1.network_pb2 import ListNetworksRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import hypervisor, network, offering, template
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Call
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object
from ostler_control.web.pages import isos

MAX_ROWS = 200  # of offerings and networks


def catalog(console: Console, request: Request) -> Response:
    """The page of templates, offerings, ISO images and networks."""
    client = console.app.client
    filters = tables.Filters(request, ("selector", "Labels of templates"))
    wanted = template_pb2.ListTemplatesRequest(
        page_size=tables.PAGE_SIZE, page_token=filters.page, selector=filters["selector"]
    )
    answer = client.templates.ListTemplates(wanted)
    templates = tables.table(
        template.VIEW,
        answer.templates,
        "Templates",
        lambda t: tables.path("templates", t.id),
        next=filters.next(answer.next_page_token),
    )
    offerings: list[offering.Offering] = [
        *pages(
            client.offerings.ListServiceOfferings,
            offering_pb2.ListServiceOfferingsRequest(),
            lambda a: a.service_offerings,
            MAX_ROWS,
        ),
        *pages(
            client.offerings.ListDiskOfferings,
            offering_pb2.ListDiskOfferingsRequest(),
            lambda a: a.disk_offerings,
            MAX_ROWS,
        ),
    ]
    networks = pages(client.networks.ListNetworks, ListNetworksRequest(), lambda a: a.networks, MAX_ROWS)
    return console.render(
        request,
        "tables.html",
        title="Catalog",
        here="/catalog",
        command=command("template", "list", *filters.words()),
        filters=filters.fields,
        tables=[
            templates,
            tables.table(offering.VIEW, offerings, "Offerings"),
            isos.table(console.app),
            tables.table(network.VIEW, networks, "Networks", lambda n: tables.path("networks", n.name)),
        ],
    )


def one_template(console: Console, request: Request) -> Response:
    """The page of a template."""
    wanted = template_pb2.GetTemplateRequest(template=request.path_params["template"])
    found = console.app.client.templates.GetTemplate(wanted)
    target = _target(found)
    buttons = TEMPLATE_ACTIONS.buttons(console, target)
    words = ("template", "show", found.name)
    return render_object(console, request, target, words, template.VIEW, found, buttons=buttons)


def one_hypervisor(console: Console, request: Request) -> Response:
    """The page of a type of hypervisors."""
    wanted = GetHypervisorTypeRequest(hypervisor_type=request.path_params["type"])
    found = console.app.client.hypervisors.GetHypervisorType(wanted)
    href = tables.path("hypervisors", found.type)
    target = Target(found.type, found.display_name, "hypervisor type", "", "/", href)
    return render_object(console, request, target, ("hypervisor", "show", found.type), hypervisor.VIEW, found)


def _target(found: template_pb2.Template) -> Target:
    return Target(found.id, found.name, "template", "", "/catalog", tables.path("templates", found.id))


def _find(app: App, name: str) -> Target:
    return _target(app.client.templates.GetTemplate(template_pb2.GetTemplateRequest(template=name)))


def _delete(app: App, call: Call) -> str:
    app.client.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=call.target))
    return "/catalog"


TEMPLATE_ACTIONS = Actions(
    "/templates",
    _find,
    (
        label_action("template", admins=True),
        Action(
            "delete",
            ("template", "delete"),
            "Delete",
            "Delete template {name}? Volumes created from it do not depend on it.",
            _delete,
            fixed=("--yes",),
            is_dangerous=True,
            admins=True,
        ),
    ),
)
