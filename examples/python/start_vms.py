"""Starts the stopped VMs that a label selector selects, and waits for each.

python start_vms.py env=prod
"""

import sys

from ostler.client import OstlerError, connect, pages
from ostler.control.v1.vm_pb2 import ListVmsRequest, StartVmRequest, Vm


def start_vms(selector: str) -> None:
    with connect() as client:
        stopped = ListVmsRequest(selector=selector, state=Vm.STOPPED)
        for vm in list(pages(client.vms.ListVms, stopped, lambda answer: answer.vms)):
            operation = client.vms.StartVm(StartVmRequest(vm=vm.id))
            started = client.wait(operation, Vm)
            print(f"{started.name} runs on {started.host_name}")


if __name__ == "__main__":
    try:
        start_vms(sys.argv[1])
    except OstlerError as error:
        sys.exit(f"{error} [{error.reason}]")
