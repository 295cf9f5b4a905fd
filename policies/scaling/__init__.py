"""How many hosts of which type. Read `autoscale.py`."""
