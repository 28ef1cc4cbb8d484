"""Templates: disk images that are uploaded to a directory, or that hosts download from a server, and their rows."""
