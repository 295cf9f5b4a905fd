"""The placement service without Ray: jobs on one side, hosts on the other, each exactly once.

Imports policies, store, config and data. Read `service.py`, `jobs/placement.py`, `hosts/fleet.py`.
"""
