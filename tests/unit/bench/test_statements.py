from __future__ import annotations

import pytest

from tests.bench import statements


def test_each_kind_of_work_gets_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["statements", "--calls", "24"])
    statements.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert all(line.endswith(" us") and float(line.split()[-2]) > 0 for line in lines)
