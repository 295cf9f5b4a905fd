"""The control database, the one truth about jobs and hosts: SQLite or PostgreSQL through SQLAlchemy.

Read `control_database.py`, then `tables.py`.
"""
