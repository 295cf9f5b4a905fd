"""A cluster on a virtual clock that asks the same policy objects as the live placement actor."""
