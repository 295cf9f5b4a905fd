"""Which job trains on which host. `fifo.py` is the simplest, `rate_remaining.py` the best measured."""
