"""Everything durable: control database, bundles, rows, an adapter's files.

Imports data and types. Read `database/control_database.py` and `bundles.py`.
"""
