"""Plain QEMU processes as a hypervisor of Ostler's. Start reading at `factory.py`."""
