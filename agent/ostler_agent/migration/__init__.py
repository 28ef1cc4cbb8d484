"""Live migration between hosts: `destination` prepares and cleans up, `source` migrates."""
