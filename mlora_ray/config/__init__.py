"""Everything a user writes: job file, cluster settings, step-time profiles. pydantic at the edge, facts inside.

Imports policies, data and types. Read `job_file.py` first.
"""
