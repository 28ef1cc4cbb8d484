"""One module per program: flags in, values out."""
