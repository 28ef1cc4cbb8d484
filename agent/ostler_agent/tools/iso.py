"""Small ISO 9660 images, as guests read their seed from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from types import SimpleNamespace

import pycdlib
from pycdlib import dates, dr, headervd, rockridge, utils
from pycdlib import pycdlib as writer

# pycdlib stamps everything with the present. The same files are to make the same image, on every host.
_TIME_OF_ALL = SimpleNamespace(**{**vars(time), "time": lambda: 315_532_800.0, "localtime": time.gmtime})
for _module in (dates, dr, headervd, writer, rockridge, utils):
    if hasattr(_module, "time"):
        setattr(_module, "time", _TIME_OF_ALL)  # noqa: B010


def build(label: str, files: Mapping[str, bytes]) -> bytes:
    """An image of files in its top directory, named with Rock Ridge and Joliet; the same bytes every time."""
    image = pycdlib.PyCdlib()
    image.new(vol_ident=label, joliet=3, rock_ridge="1.09")
    try:
        for number, (name, content) in enumerate(sorted(files.items())):
            image.add_fp(BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
        out = BytesIO()
        image.write_fp(out)
    finally:
        image.close()
    return out.getvalue()
