"""Random work of many clients while things break, and a model that says whether the answers were kept."""
