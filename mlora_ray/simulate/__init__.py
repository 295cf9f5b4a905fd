"""A cluster on a virtual clock around the real policies: what will happen, and why.

Imports policies, config and report.chart_style; never actors. Read `simulation.py`.
"""
