"""The site of the documentation: docs/ as it is, and reference pages made from the code at each build (`make docs`)."""
