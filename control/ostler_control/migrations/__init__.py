"""Numbered migrations. Until the first release a change of the models goes into 0001 as well; after it, into a new one.

A test proves that together they make exactly the schema that the models describe.
"""
