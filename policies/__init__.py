"""Who trains where and how many hosts there are: pure functions of a view.

Imports types and errors; no clock, chance, files or network. Read `contract.py`, then `placement/fifo.py`.
"""
