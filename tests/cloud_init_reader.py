"""Debian's cloud-init reading what Ostler renders. Runs under /usr/bin/python3, which has the package.

One JSON object per line in, one out: {"user_data": base64} answers with the parts that its UserDataProcessor finds;
{"seed": {name: base64}} runs the first boot over a seed, in a directory of its own, and answers with what came of it.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from cloudinit import helpers, stages, user_data, util
from cloudinit.config import schema
from cloudinit.sources import DataSourceNoCloud


def _text(data: bytes | str) -> str:
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    return base64.b64encode(raw).decode()


def _parts(blob: bytes) -> list[dict[str, Any]]:
    """The parts as they reach cloud-init's handlers."""
    with tempfile.TemporaryDirectory() as directory:
        paths = helpers.Paths({"cloud_dir": directory, "run_dir": directory})
        message = user_data.UserDataProcessor(paths).process(blob)
        return [
            {
                "type": part.get_content_type(),
                "filename": part.get_filename(),
                "merge": part.get("Merge-Type", ""),
                "content": _text(util.fully_decoded_payload(part)),
            }
            for part in message.walk()
            if part.get_content_maintype() != "multipart"
        ]


def _boot(seed: dict[str, str]) -> dict[str, Any]:
    """A first boot up to the point where scripts are in place and the cloud-configs are joined."""
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        place = top / "cloud/seed/nocloud"
        place.mkdir(parents=True)
        for name, content in seed.items():
            (place / name).write_bytes(base64.b64decode(content))
        init = stages.Init()
        paths = {"cloud_dir": f"{top}/cloud", "run_dir": f"{top}/run"}
        init._read_cfg = lambda extra: {"system_info": {"distro": "debian", "paths": paths}}  # not this machine's own
        for made in ("cloud/data", "run", "cloud/instances", "cloud/handlers", "cloud/scripts"):
            (top / made).mkdir(parents=True, exist_ok=True)
        source = DataSourceNoCloud.DataSourceNoCloud({}, init.distro, init.paths)
        source._get_devices = lambda label: []  # not this machine's own CD-ROMs
        if not source.get_data():
            return {"found": False}
        init.datasource = source
        init._reset()  # its paths are this instance's from now on
        init.instancify()
        init.update()
        init.consume_data()
        instance = top / "cloud/instance"
        config = (instance / "cloud-config.txt").read_text()
        problems = ""
        try:
            schema.validate_cloudconfig_schema(util.load_yaml(config) or {}, strict=True)
        except schema.SchemaValidationError as error:
            problems = str(error)
        return {
            "found": True,
            "instance_id": str(source.get_instance_id()),
            "hostname": str(source.get_hostname().hostname),
            "public_keys": source.get_public_ssh_keys(),
            "network": source.network_config,
            "config": util.load_yaml(config) or {},
            "schema": problems,
            "scripts": {path.name: _text(path.read_bytes()) for path in sorted(instance.glob("scripts/*"))},
            "boothooks": sorted(path.name for path in instance.glob("boothooks/*")),
            "handlers": sorted(path.name for path in instance.glob("handlers/*.py")),
        }


def main() -> None:
    """Answers until its input ends."""
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # boothooks print, too
    for line in sys.stdin:
        asked = json.loads(line)
        answer = _boot(asked["seed"]) if "seed" in asked else _parts(base64.b64decode(asked["user_data"]))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
