"""The Python API: jobs, runs on this machine, and clusters. `import mlora_ray` names everything here again.

Imports run and what is below. Read `training.py`, then `runs.py`.
"""
