"""Benchmarks: one script a question. Each prints a table, and with `--json` the command, commit, machine and rows."""
