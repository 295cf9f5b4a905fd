"""From a base's name to a directory, and the names and shapes of its linear modules.

Imports types and errors. Read `resolve.py` first.
"""
