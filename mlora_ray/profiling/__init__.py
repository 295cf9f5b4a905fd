"""`mlora-ray profile`: step times and memory, measured and fitted.

Imports engine and config. Read `run.py`.
"""
