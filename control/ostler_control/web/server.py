"""The console's server: routes, errors, and the loopback port."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial

import uvicorn
from ostler_common.errors import NotFoundError, OstlerError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from ostler_control.cli.app import App
from ostler_control.web import live
from ostler_control.web.actions import Actions
from ostler_control.web.context import HERE, Console, is_followed
from ostler_control.web.creations import Creation
from ostler_control.web.pages import (
    backup_files,
    backup_schedules,
    backups,
    catalog,
    drs,
    events,
    fleet,
    host_actions,
    import_sources,
    imports,
    isos,
    keys,
    one_place,
    operations,
    places,
    settings,
    snapshots,
    vm_actions,
    vm_creation,
    vm_snapshots,
    vms,
    volume_creation,
    volumes,
)
from ostler_control.web.security import ENTRANCE, Gate, Sessions
from ostler_control.web.terminal import MAX_MESSAGE_BYTES, Terminals, open_screen

Page = Callable[[Console, Request], Response]
LOOPBACK = "127.0.0.1"

PAGES: dict[str, Page] = {
    "/": fleet.fleet,
    "/zones": places.zones,
    "/clusters": places.clusters,
    "/pools": places.pools,
    "/zones/{zone}": one_place.one_zone,
    "/clusters/{cluster}": one_place.one_cluster,
    "/pools/{pool}": one_place.one_pool,
    "/networks/{network}": one_place.one_network,
    "/hosts/{host}": fleet.one_host,
    "/vms": vms.vms,
    "/vms/{vm}": vms.one_vm,
    "/vms/{vm}/hosts": vms.hosts_for,
    "/vms/{vm}/guest": vms.guest_of,
    "/vms/{vm}/console": vms.console_of,
    "/vms/{vm}/screen": vms.screen_of,
    "/vms/{vm}/picture": vms.picture_of,
    "/vms/{vm}/screen.png": vms.screenshot,
    "/volumes": volumes.volumes,
    "/volumes/{volume}": volumes.one_volume,
    "/snapshots/{snapshot}": snapshots.one_snapshot,
    "/vm-snapshots/{vm_snapshot}": vm_snapshots.one_vm_snapshot,
    "/backups": backups.backups,
    "/backups/{backup}": backups.one_backup,
    "/backup-schedules/{schedule}": backup_schedules.one_schedule,
    "/keys": keys.keys,
    "/drs": drs.overview,
    "/drs/plans/{plan}": drs.one_plan,
    "/imports": imports.overview,
    "/imports/plans/{plan}": imports.one_plan,
    "/imports/sources/{source}": import_sources.inventory,
    "/imports/sources/{source}/vm": import_sources.one_vm,
    "/catalog": catalog.catalog,
    "/templates/{template}": catalog.one_template,
    "/isos/{iso}": isos.one_iso,
    "/hypervisors/{type}": catalog.one_hypervisor,
    "/settings": settings.settings,
    "/settings/{setting}": settings.one_setting,
    "/operations": operations.operations,
    "/operations/{operation}": operations.one_operation,
    "/events": events.events,
}
# What a form of these addresses does.
FORMS: dict[str, Page] = {"/imports/sources/{source}/vm": import_sources.begin}
ACTIONS = (
    vm_actions.ACTIONS,
    volumes.ACTIONS,
    snapshots.ACTIONS,
    vm_snapshots.ACTIONS,
    backups.ACTIONS,
    backup_schedules.ACTIONS,
    drs.PLAN_ACTIONS,
    drs.CLUSTER_ACTIONS,
    imports.ACTIONS,
    host_actions.ACTIONS,
    one_place.ZONE_ACTIONS,
    one_place.CLUSTER_ACTIONS,
    one_place.POOL_ACTIONS,
    one_place.NETWORK_ACTIONS,
    catalog.TEMPLATE_ACTIONS,
    isos.ACTIONS,
    settings.ACTIONS,
    operations.ACTIONS,
)
CREATIONS = (vm_creation.CREATION, volume_creation.CREATION, keys.ROTATION)
# How long open streams and consoles may take to end once the console is stopped.
STOP_S = 2


def make_app(
    app: App,
    port: int,
    sessions: Sessions,
    entered: Callable[[], None],
    is_stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The console as an ASGI application, behind its gate. is_stopping: whether open streams shall end."""
    console = Console.make(app, is_stopping)
    files = backup_files.BackupFiles(console)

    def not_found(request: Request, error: Exception) -> Response:
        return console.failure(request, NotFoundError("there is no such page", "PAGE_NOT_FOUND"))

    def failed(request: Request, error: Exception) -> Response:
        if not isinstance(error, OstlerError):
            raise error
        return console.failure(request, error)

    inner = Starlette(
        routes=[
            *(Route(path, _endpoint(console, page)) for path, page in PAGES.items()),
            *(Route(path, _endpoint(console, form), methods=["POST"]) for path, form in FORMS.items()),
            *(route for actions in ACTIONS for route in _routes(console, actions, actions.path + "/{id}/do/{action}")),
            *(route for creation in CREATIONS for route in _routes(console, creation, creation.path)),
            Route("/backups/{backup}/files", files.page),
            Route("/backups/{backup}/files/content", files.content),
            WebSocketRoute("/vms/{vm}/terminal", Terminals(app).converse),
            WebSocketRoute("/vms/{vm}/viewer", Terminals(app, open_screen, says_why=False).converse),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: not_found, OstlerError: failed},
    )
    return Gate(inner, port, sessions, entered)


def _endpoint(console: Console, page: Page) -> Callable[[Request], Awaitable[Response]]:
    """In a thread, because the client's calls block. Who accepts an event stream follows the page."""

    async def endpoint(request: Request) -> Response:
        if is_followed(request):
            return live.follow(partial(page, console, request), console.is_stopping, console.changes)
        return await run_in_threadpool(page, console, request)

    return endpoint


def _routes(console: Console, asking: Actions | Creation, address: str) -> list[Route]:
    """The form, and what its button does."""
    return [
        Route(address, _endpoint(console, asking.form), methods=["GET"]),
        Route(address, _endpoint(console, asking.perform), methods=["POST"]),
    ]


def bind(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 is a free one. Raises OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()  # so that who opens the link at once is not refused
    except OSError:
        listener.close()
        raise
    return listener


def new_server(app: ASGIApp) -> uvicorn.Server:
    """What serves the console, with its limits."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_S,
        ws_max_size=MAX_MESSAGE_BYTES,
    )
    return uvicorn.Server(config)


def serve(app: App, listener: socket.socket, show: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. show: is given the link, and a new one each time a link was used."""
    port = listener.getsockname()[1]
    sessions = Sessions()

    def show_link() -> None:
        show(f"http://{LOOPBACK}:{port}{ENTRANCE}?token={sessions.new_token()}")

    server = new_server(make_app(app, port, sessions, show_link, lambda: server.should_exit))
    show_link()
    server.run(sockets=[listener])
