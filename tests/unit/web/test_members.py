"""The console of users who are no admins."""

from __future__ import annotations

import re
from pathlib import Path

from ostler_control.cli.app import App
from ostler_control.web.security import Sessions
from ostler_control.web.server import make_app
from starlette.testclient import TestClient

from tests.consoles import served_site

PORT = 4322


def test_members_see_and_are_offered_what_they_may_do(tmp_path: Path) -> None:
    with served_site(tmp_path) as served:
        app = make_app(App(served.member("alice")), PORT, sessions := Sessions(), lambda: None)
        served.create_vm("mine", account="alice")
        served.create_vm("other")
        with TestClient(app, base_url=f"http://127.0.0.1:{PORT}") as browser:
            browser.get("/enter", params={"token": sessions.new_token()})
            home = browser.get("/").text
            assert "<h1>VMs</h1>" in home
            assert 'href="/settings"' not in home
            assert "other" not in home
            found = re.search(r'href="(/vms/[^"]+)">mine<', home)
            assert found
            page = browser.get(found.group(1)).text
            assert "/do/stop" in page
            assert "/do/migrate" not in page
            assert browser.get("/settings").status_code == 403
            assert 'name="offering"' in browser.get("/new/vm").text
            assert 'name="host"' not in browser.get("/new/vm").text
            assert browser.get("/keys").status_code == 403
            picture = browser.get(f"{found.group(1)}/screen.png")
            assert (picture.headers["content-type"], picture.content[:4]) == ("image/png", b"\x89PNG")
            assert f'src="{found.group(1)}/screen.png"' in browser.get(f"{found.group(1)}/picture").text
