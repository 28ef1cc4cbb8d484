"""The console's pages against a whole control plane: real TLS, the admin's own profile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from httpx import Response
from ostler_control import database
from ostler_control.cli.app import App
from ostler_control.models import Account, ServiceOffering, Vm
from ostler_control.web import terminal
from ostler_control.web.context import EVENT_STREAM, Console
from ostler_control.web.pages import vms
from ostler_control.web.security import Session, Sessions
from ostler_control.web.server import make_app
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.fakes.fleet import Fleet

PORT = 4321
HOSTILE = "<script>alert(1)</script>\u202eevil"
CAPABILITIES = {
    "cpuModel": HOSTILE,
    "cpus": 8,
    "memoryBytes": str(16 << 30),
    "volumeEncryption": True,
    "probes": [{"name": "uefi", "ok": False, "reason": "no firmware is installed"}],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    with fleet.running() as control:
        profile = fleet.directory / "profile.toml"
        text = profile.read_text().replace("127.0.0.1:0", f"127.0.0.1:{control.main_port}")
        profile.write_text(text)
        host, _ = fleet.host("h1")
        with database.transaction():
            host.capabilities = json.dumps(CAPABILITIES)
            host.save()
            account = Account.get()
            offering = ServiceOffering.create(name="small", cpus=1, memory_bytes=1 << 30)
            for number in range(150):
                Vm.create(
                    name=f"vm-{number:03}" if number != 7 else HOSTILE,
                    account=account,
                    service_offering=offering,
                    cpus=1,
                    memory_bytes=1 << 30,
                    state="stopped",
                )
        sessions = Sessions()
        app = make_app(App(profile), PORT, sessions, lambda: None)
        with TestClient(app, base_url=f"http://127.0.0.1:{PORT}") as client:
            client.app_state["profile"] = profile
            client.get("/enter", params={"token": sessions.new_token()})
            yield client


def test_the_fleet_shows_hosts_and_places(browser: TestClient) -> None:
    answer = browser.get("/")
    assert answer.status_code == 200
    assert all(f"<h2>{title}</h2>" in answer.text for title in ("Hosts", "Zones", "Clusters", "Storage pools"))
    assert 'href="/hosts/h1"' in answer.text
    assert "ostler host list" in answer.text


def test_a_host_shows_how_full_it_is_and_why_a_probe_failed(browser: TestClient) -> None:
    fleet = browser.get("/").text
    assert "0 of 8 allocated" in fleet
    assert "Can do: encryption<" in fleet
    assert "no firmware is installed" in browser.get("/hosts/h1").text


def test_what_the_api_says_is_text(browser: TestClient) -> None:
    for path in ("/hosts/h1", "/vms", "/"):
        text = browser.get(path).text
        assert "<script>" not in text
        assert "\u202e" not in text
    for path in ("/hosts/h1", "/vms"):
        assert "&lt;script&gt;" in browser.get(path).text


def test_vms_are_paged_by_the_api(browser: TestClient) -> None:
    first = browser.get("/vms").text
    assert first.count("<tr>") == 101
    link = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = browser.get(link).text
    assert second.count("<tr>") == 51
    assert 'rel="next"' not in second


def test_filters_reach_the_api_and_the_command(browser: TestClient) -> None:
    assert browser.get("/vms", params={"state": "running"}).text.count("<tr>") == 2
    assert "ostler vm list --state running" in browser.get("/vms", params={"state": "running"}).text


def test_errors_are_those_of_the_command_line(browser: TestClient) -> None:
    absent = browser.get("/vms/nosuch")
    assert absent.status_code == 404
    assert "VM_NOT_FOUND" in absent.text
    assert "ostler vm list" in absent.text
    assert browser.get("/vms", params={"page": "forged"}).status_code == 400
    assert browser.get("/nothing").status_code == 404


def test_pages_load_only_what_is_ours(browser: TestClient) -> None:
    text = browser.get("/").text
    assert "http:" not in text
    assert "https:" not in text
    assert " style=" not in text
    assert browser.get("/static/console.css").status_code == 200
    assert browser.get("/static/..%2fserver.py").status_code == 404


def test_a_followed_page_is_sent_without_its_frame(browser: TestClient) -> None:
    console = Console.make(App(browser.app_state["profile"]))
    scope = {
        "type": "http",
        "path": "/vms",
        "headers": [(b"accept", EVENT_STREAM.encode())],
        "query_string": b"state=running",
        "state": {"session": Session(), "nonce": ""},
    }
    text = bytes(vms.vms(console, Request(scope)).body).decode()
    assert "<table>" in text
    assert "<html" not in text
    assert "<form" not in text


def test_a_form_asks_and_names_the_command(browser: TestClient) -> None:
    path = vm_path(browser, "vm-001")
    assert f'href="{path}/do/start"' in browser.get(path).text
    assert "/do/stop" not in browser.get(path).text, "it does not run"
    asked = browser.get(f"{path}/do/delete").text
    assert "Delete VM vm-001 and its root disk?" in asked
    assert "ostler vm delete vm-001 --yes" in asked
    assert browser.get(f"{path}/do/nothing").status_code == 404


def test_a_form_needs_its_token_and_a_repeat_begins_nothing(browser: TestClient) -> None:
    path = vm_path(browser, "vm-002")
    asked = browser.get(f"{path}/do/delete").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', asked))
    origin = {"origin": f"http://127.0.0.1:{PORT}"}

    browser.follow_redirects = False

    def send(**values: str) -> Response:
        sent: Response = browser.post(f"{path}/do/delete", data={**form, **values}, headers=origin)
        return sent

    assert send(csrf="x").status_code == 403
    first, again = send(), send()
    assert first.status_code == 303
    assert first.headers["location"].startswith("/operations/")
    assert again.headers["location"] == first.headers["location"]


def test_a_form_that_failed_keeps_what_was_filled_in(browser: TestClient) -> None:
    asked = browser.get("/new/vm").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', asked))
    given = {"name": "mine", "template": HOSTILE, "offering": "small", "stopped": "yes"}
    answer = browser.post("/new/vm", data={**form, **given}, headers={"origin": f"http://127.0.0.1:{PORT}"})
    assert answer.status_code == 404
    assert "TEMPLATE_NOT_FOUND" in answer.text
    assert 'name="name" value="mine"' in answer.text
    assert "<script>" not in answer.text
    assert re.search(r'name="stopped"[^>]* checked', answer.text)
    assert form["request_id"] not in answer.text


def vm_path(browser: TestClient, name: str) -> str:
    """Path of a VM's page."""
    found = re.search(rf'href="(/vms/[^"]+)">{name}<', browser.get("/vms").text)
    assert found
    return found.group(1)


def test_consoles_are_limited(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "MAX_TERMINALS", 0)
    headers = {"origin": f"http://127.0.0.1:{PORT}"}
    with browser.websocket_connect(f"ws://127.0.0.1:{PORT}/vms/any/terminal", headers=headers) as socket:
        assert "[TOO_MANY_CONSOLES]" in socket.receive_text()


def test_a_console_that_cannot_be_opened_says_why(browser: TestClient) -> None:
    headers = {"origin": f"http://127.0.0.1:{PORT}"}
    with browser.websocket_connect(f"ws://127.0.0.1:{PORT}/vms/absent/terminal", headers=headers) as socket:
        assert "[VM_NOT_FOUND]" in socket.receive_text()
