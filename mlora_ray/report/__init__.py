"""The HTML page of a run, from its files.

Imports store.run_files and display. Read `page.py`.
"""

from mlora_ray.report.page import write_report

__all__ = ["write_report"]
