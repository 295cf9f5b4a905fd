"""Machines that may vanish: when to trust them and when a deadline needs others. Read `on_time.py`."""
