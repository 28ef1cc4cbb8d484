"""A page token is what a caller sends: a forged one is refused like any wrong field."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from ostler.control.v1 import setting_pb2, vm_pb2
from ostler_common.errors import InvalidArgumentError
from ostler_control import database
from ostler_control.api import limits, paging
from ostler_control.models import Vm

from tests import databases

FIRST = "0001-01-01T00:00:00"


def token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def forged(request: paging.ListRequest, *rest: object) -> str:
    """With the digest that the server would compute: it is no secret."""
    return token(json.dumps([paging._digest(request, ""), *rest]))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 100_000, "[]", "null", "[1, 2, 3]", "\ud83d", '["a", "b"]', "[NaN, 1e999, 2]"],
)
def test_a_token_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    encoded = base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite"), database.session():
        for request in (vm_pb2.ListVmsRequest(page_token=encoded), vm_pb2.ListVmsRequest(page_token="é" + encoded)):
            with pytest.raises(InvalidArgumentError) as refused:
                paging.page(Vm.select(), Vm, request)
            assert refused.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("position", ["-5", "abc", "", "1e3", "\u0663", "0\0", 7, None, ["1"]])
def test_a_position_that_is_none_is_refused(position: object) -> None:
    request = setting_pb2.ListSettingsRequest()
    request.page_token = forged(request, FIRST, position)
    with pytest.raises(InvalidArgumentError) as refused:
        paging.list_page(list("abc"), request)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_a_position_beyond_the_end_is_the_end() -> None:
    request = setting_pb2.ListSettingsRequest()
    request.page_token = forged(request, FIRST, "9" * 300)
    assert paging.list_page(list("abc"), request) == paging.Page([], "")


def test_no_text_has_a_nul() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        limits.check(vm_pb2.GetVmRequest(vm="a\0b"))
    assert refused.value.reason == "INVALID_CHARACTER"
