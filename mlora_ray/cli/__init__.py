"""Typer commands: parse, call one function, exit code. Nothing heavy is imported before a command runs.

Imports run, simulate, profiling and display. Read `app.py`.
"""
