"""Moving running VMs between hosts: `destination` makes ready and cleans up, `source` moves."""
