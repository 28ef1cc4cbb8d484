"""docs/settings.md: its tables are what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_control import settings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"
BEGIN = "<!-- table: written by tests/unit/control/test_settings_page.py --regenerate -->\n"
END = "<!-- end of table -->\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def row(setting: settings.Setting[object]) -> str:
    kind = setting.kind
    value = ", ".join(filter(None, (kind.type, kind.allowed if kind.type != "boolean" else "", kind.unit)))
    default = f"`{setting.default}`" if setting.default else "empty"
    cells = [
        f"`{setting.name}`",
        cell(value),
        default,
        ", ".join(setting.scopes),
        "yes" if setting.dynamic else "no",
        setting.changed_by.value,
        cell(setting.description),
    ]
    return f"| {' | '.join(cells)} |\n"


def tables() -> str:
    parts = []
    for subject, of_subject in settings.SUBJECTS.items():
        head = (
            f"\n### {subject}\n\n| name | value | default | scopes | at once | changed by | what it does |\n"
            "|---|---|---|---|---|---|---|\n"
        )
        parts.append(head + "".join(row(setting) for setting in sorted(of_subject, key=lambda setting: setting.name)))
    return "".join(parts) + "\n"


def test_the_tables_are_what_the_registry_says(request: pytest.FixtureRequest) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    if request.config.getoption("--regenerate"):
        PAGE.write_text(before + BEGIN + tables() + END + after)
        written = tables()
    assert written == tables()
