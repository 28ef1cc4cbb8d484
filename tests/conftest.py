"""Fixtures that several kinds of test share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import MethodType
from typing import Any, ClassVar

import pytest
from ostler_control import lending
from ostler_control.models import rows
from ostler_control.statement_forms import Texts, comparable, written
from peewee import Context, Field, Model, Node

import tests.explained_asserts  # noqa: F401 - before the helpers
from tests import databases, quick_keys
from tests.lab.lab import missing as missing_for_lab
from tests.needs import need

# Tests with these marks need a machine that can do things; where everything is meant to be there, CI says so.
PRIVILEGED = ("host", "lab")


def pytest_configure() -> None:
    # Whoever starts the tests in the background has them ignore Ctrl-C, and their children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew, then read the diff")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The code and the tests stay to the end: to look for garbage among them takes a third of the time to collect them,
    and goes on taking time afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def missing_for_host() -> str | None:
    """Why tests on this machine's real tools cannot run; None when they can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in ("qemu-img", "cryptsetup", "libvirtd") if not shutil.which(tool)]
    return f"needs {', '.join(absent)} (make setup)" if absent else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgresql" in _database_of(item):
            item.add_marker(pytest.mark.slow)
    wanted = {mark for item in items for mark in PRIVILEGED if item.get_closest_marker(mark)}
    for mark, missing in (("host", missing_for_host), ("lab", missing_for_lab)):
        reason = missing() if mark in wanted else None
        for item in items if reason else ():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason or ""))


def _database_of(item: pytest.Item) -> set[str]:
    """The fixtures of a test, and the values that parametrize it: where PostgreSQL is asked for, it is named."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return {*getattr(item, "fixturenames", ()), *(value for value in parameters.values() if isinstance(value, str))}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    privileged = any(item.get_closest_marker(mark) for mark in PRIVILEGED)
    if report.skipped and not hasattr(report, "wasxfail") and privileged and os.environ.get("CI") == "true":
        # A test that CI leaves out proves nothing, and nobody would notice.
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


# How many of the statements of one text are compared that come from one place in the code: writing them costs more than
# all else that most tests do, and a place that writes one text writes it in one way.
_COMPARED = 5
_NOT_PLACES = (
    "peewee.py",
    "models/base.py",
    "models/columns.py",
    "models/direct.py",
    "models/queries.py",
    "statement_forms.py",
    "tests/conftest.py",
    "ostler_control/lending.py",
    "contextlib.py",
)


class _ComparedTexts(Texts):
    """Compares the statements of the tests with what peewee writes, from wherever in the code they come.

    Texts are kept from one test to the next, so that a form is compared in many places.
    """

    _of_kinds: ClassVar[dict[type, dict[tuple[object, ...], tuple[str, object] | None]]] = {}
    _compared: ClassVar[Counter[tuple[object, ...]]] = Counter()

    def write(self, statement: Node, context: Callable[[], Context]) -> tuple[str, list[object]]:
        assert isinstance(context, MethodType)
        self._texts = self._of_kinds.setdefault(type(context.__self__), {})
        text, values = super().write(statement, context)
        place = (text, *_callers(2))
        self._compared[place] += 1
        if self._compared[place] <= _COMPARED and isinstance(vars(statement).get("_insert", {}), dict):
            # Another statement may be an iterator, which is used up now.
            expected, expected_values = written(statement, context)
            assert text == expected
            # Of a new row peewee makes new ids and times each time it writes.
            assert text.startswith("INSERT") or comparable(values) == comparable(expected_values)
        return text, values


def _callers(count: int) -> list[object]:
    """The innermost places in the code that ask for a statement: the functions and their lines."""
    found: list[object] = []
    frame = sys._getframe(2)
    while frame.f_back and len(found) < 2 * count:
        if not frame.f_code.co_filename.endswith(_NOT_PLACES):
            found += (frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return found


# How often the rows of one list of columns are compared with what the columns themselves make of them.
_ROWS_COMPARED = 200


def _compared(make: Callable[[list[rows.Row]], list[object]], fields: list[Any], model: Any) -> Any:
    left = _ROWS_COMPARED

    def compared(given: list[rows.Row]) -> list[object]:
        nonlocal left
        made = make(given)
        for row, one in zip(given, made, strict=True) if left > 0 else ():
            values = [field.python_value(value) for field, value in zip(fields, row, strict=True)]
            names = [field.name for field in fields]
            # As peewee makes an object of a row.
            expected = model(__no_default__=1, **dict(zip(names, values, strict=True))) if model else tuple(values)
            assert _parts(one) == _parts(expected)
        left -= 1
        return made

    return compared


def _parts(row: object) -> object:
    """What a row consists of, with the types."""
    values = vars(row)["__data__"] if isinstance(row, Model) else dict(enumerate(row if isinstance(row, tuple) else ()))
    return type(row), [(key, type(value), value) for key, value in values.items()]


@pytest.fixture(scope="session", autouse=True)
def compared_with_peewee() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lending, "Texts", _ComparedTexts)
        objects, tuples = rows._objects, rows._tuples

        def compared_objects(model: type[Model], fields: list[Field]) -> rows.Make | None:
            make = objects(model, fields)
            return make and _compared(make, fields, model)

        def compared_tuples(fields: list[Field]) -> rows.Make | None:
            make = tuples(fields)
            return make and _compared(make, fields, None)

        patched.setattr(rows, "_objects", compared_objects)
        patched.setattr(rows, "_tuples", compared_tuples)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_encryption() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        quick_keys.use(patched)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server, up to and including the slash before the database's name."""
    need(databases.missing())
    with databases.postgresql_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_postgresql_database(postgresql: str) -> str:
    """A migrated database that tests take turns with: emptying it is much faster than making a new one."""
    return databases.new_database(postgresql, "shared")


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[str]:
    """The models on a fresh SQLite file, a session open for the test's thread. Gives the URL."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The models on an empty database of each kind, a session open for the test's thread. Gives the URL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    url: str = request.getfixturevalue("shared_postgresql_database")
    databases.empty(url)
    with databases.bound(url, migrate=False):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like fresh_database, for tests that change the schema."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    server: str = request.getfixturevalue("postgresql")
    with databases.bound(databases.new_database(server, f"t_{uuid.uuid4().hex}")) as url:
        yield url
