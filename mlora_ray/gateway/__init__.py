"""Ray Serve applications over a running service: the status page.

Imports actors.client. Read `status_page.py`.
"""
