"""Templates: files in a directory and their rows, uploaded or downloaded by hosts."""
