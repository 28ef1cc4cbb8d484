"""The verb `label`, and --selector, of every noun that has them."""

from __future__ import annotations

import pytest
from ostler.control.v1 import label_pb2
from ostler_control.cli.labels import KINDS, Kind

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.noun)
def test_each_kind_is_labeled_under_the_field_of_its_own(control: Control, ostler: Ostler, kind: Kind) -> None:
    assert ostler(*kind.noun.split(), "label", kind.example, "keep=yes", "old-").exit_code == 0
    [request] = control.asked
    assert isinstance(request, label_pb2.UpdateLabelsRequest)
    assert (request.WhichOneof("object"), getattr(request, kind.name)) == (kind.name, kind.example)
    assert (dict(request.set), list(request.remove)) == ({"keep": "yes"}, ["old"])


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.noun)
def test_each_list_takes_a_selector(ostler: Ostler, kind: Kind) -> None:
    assert "-l, --selector" in ostler(*kind.noun.split(), "list", "--help").stdout


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("small", (), "service_offering"),
        ("secret", (), "disk_offering"),
        ("both", ("--service",), "service_offering"),
        ("both", ("--disk",), "disk_offering"),
    ],
)
def test_an_offering_is_labeled_as_what_it_is(
    control: Control, ostler: Ostler, name: str, options: tuple[str, ...], field: str
) -> None:
    assert ostler("offering", "label", name, "tier=gold", *options).exit_code == 0
    [request] = control.asked
    assert isinstance(request, label_pb2.UpdateLabelsRequest)
    assert (request.WhichOneof("object"), getattr(request, field)) == (field, f"{field.split('_')[0]}-{name}")


def test_an_offering_of_two_kinds_is_not_labeled_by_its_name_alone(control: Control, ostler: Ostler) -> None:
    assert ostler("offering", "label", "both", "tier=gold").exit_code == 2
    assert control.asked == []
