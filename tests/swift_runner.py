"""OpenStack Swift with its S3 API, all of it in one process that ends when its standard input does.

python -m tests.swift_runner DIRECTORY ADDRESS CERTIFICATE KEY prints the port of the proxy, which speaks TLS.
"""

from __future__ import annotations

import sys
from pathlib import Path
from socket import socket

import eventlet
import eventlet.hubs
import eventlet.wsgi
from swift.common import utils

utils.monkey_patch()

from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402

from tests.fakes.s3_signature import REGION, SECRET_KEY  # noqa: E402

ACCOUNT, USER = "ostler", "backups"
_STORAGE = ("account", "container", "object")
_STORAGE_CONF = """
[DEFAULT]
devices = {directory}
swift_dir = {directory}
mount_check = false
disable_fallocate = true
[app:main]
use = egg:swift#{server}
"""
# Parts may be small, so that tests have many of them. Swift would send only one of those a second.
_PROXY_CONF = """
[DEFAULT]
swift_dir = {directory}
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:s3api]
use = egg:swift#s3api
location = {region}
min_segment_size = 1
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret_key} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
rate_limit_under_size = 0
"""


def _make_ring(directory: Path, server: str, port: int) -> None:
    """One device has all there is of a kind, in one partition, once."""
    builder = RingBuilder(1, 1, 1)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(str(directory / f"{server}.ring.gz"))


def _serve(listening: socket, conf: Path, text: str) -> None:
    conf.write_text(text)
    app = loadapp(str(conf))
    eventlet.spawn(
        eventlet.wsgi.server, listening, app, protocol=SwiftHttpProtocol, log=utils.NullLogger(), log_output=False
    )


def main(directory: Path, address: str, certificate: str, key: str) -> None:
    (directory / "disk").mkdir()
    (directory / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    utils.set_swift_dir(str(directory))
    utils.validate_hash_conf()
    for server in _STORAGE:
        listening = eventlet.listen(("127.0.0.1", 0))
        _make_ring(directory, server, listening.getsockname()[1])
        _serve(listening, directory / f"{server}.conf", _STORAGE_CONF.format(directory=directory, server=server))
    proxy = eventlet.listen((address, 0))
    port = proxy.getsockname()[1]
    conf = _PROXY_CONF.format(directory=directory, region=REGION, account=ACCOUNT, user=USER, secret_key=SECRET_KEY)
    _serve(
        eventlet.wrap_ssl(proxy, certfile=certificate, keyfile=key, server_side=True), directory / "proxy.conf", conf
    )
    print(port, flush=True)
    eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
