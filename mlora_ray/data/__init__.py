"""From a file to token ids with targets, and which rows make up step s.

Imports types and errors. Read `tokenization.py` first.
"""
