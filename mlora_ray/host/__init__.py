"""What a host does between two ticks: load, train, save, report.

Imports engine, store and policies.models; no ray. Read `runtime.py`.
"""
