"""Hosts as rows: how to reach one, which one to choose for work on a volume, what it failed to prove."""
