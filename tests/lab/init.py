"""The first process of a lab host: `python -m tests.lab.init NAME READY SOURCE:TARGET...`, in namespaces of its own.

Puts the host's own directories over the machine's, makes the file READY, and then reaps orphans as an init does.
When it dies the kernel kills every process of its PID namespace, QEMU included.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def main() -> None:
    name, ready, *binds = sys.argv[1:]
    # sysfs shows the network devices of the namespace that mounted it. Control groups are below it.
    groups = os.open("/sys/fs/cgroup", os.O_PATH)
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    subprocess.run(
        ["mount", "-c", "--rbind", f"/proc/self/fd/{groups}", "/sys/fs/cgroup"], pass_fds=[groups], check=True
    )
    os.close(groups)
    for source, _, target in (text.partition(":") for text in binds):
        subprocess.run(["mount", "--bind", source, target], check=True)
    socket.sethostname(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a PID 1 has no default actions
    Path(ready).touch()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 0.2)


if __name__ == "__main__":
    main()
