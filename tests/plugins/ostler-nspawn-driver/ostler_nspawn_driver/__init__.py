"""System containers by systemd-nspawn as a hypervisor of Ostler's. Start reading at `factory.py`."""
