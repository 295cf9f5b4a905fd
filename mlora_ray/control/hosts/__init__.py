"""Hosts of a service: launching, telling, hearing, losing, draining.

Read `fleet.py`.
"""
