"""`mlora-ray profile`: measures step times and memory of a base on this machine and fits the models of both."""
