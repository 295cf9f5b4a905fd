"""The only room that holds Ray actors: what they are, their options, the wire, the client, connecting.

Imports host, control, config and what is below. Read `options.py`, then `host.py` and `placement.py`.
"""
