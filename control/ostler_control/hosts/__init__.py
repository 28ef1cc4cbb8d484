"""Hosts: their rows and addresses, choosing one for work on a volume, failed probes."""
