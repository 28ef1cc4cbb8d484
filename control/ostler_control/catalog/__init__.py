"""Accounts, offerings, zones and clusters: what an administrator sets up once."""
