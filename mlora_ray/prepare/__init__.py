"""From a job file to `JobSpec`s, or every mistake at once; and what it will cost.

Imports config, data, bases and store. Read `job_specs.py`.
"""
