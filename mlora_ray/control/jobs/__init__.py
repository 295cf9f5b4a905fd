"""Jobs of a service: who owns each, what is committed, what users and policies ask.

Read `placement.py`.
"""
