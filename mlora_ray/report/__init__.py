"""DIR/report.html: one self-contained page about one run. `report_data` reads, `figures` draws, `page` lays out."""

from mlora_ray.report.page import write_report

__all__ = ["write_report"]
