"""One process, one base: trains many adapters, each to its own bits.

Imports kernels, data, bases and types; never ray, never the store. Read `engine.py`, then `engine_job.py`.
"""
