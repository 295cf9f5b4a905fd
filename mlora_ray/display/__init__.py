"""Everything a terminal shows: numbers, tables, live progress. It knows facts and asks nobody.

Imports types and rich. Read `tables.py` first.
"""
