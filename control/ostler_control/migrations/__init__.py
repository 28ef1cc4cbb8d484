"""Numbered migrations. 0001 is frozen: every change of the schema, or of stored values, is a new migration.

A test proves that together they create exactly the schema that the models describe.
"""
