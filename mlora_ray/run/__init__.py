"""One user's command from job file to report: local or on a service, watched, saved, summed up, verified.

Imports actors, prepare, store, report and display. Read `train.py`.
"""
