"""What a step will take: step times, their fit to what is seen, and how large a packed row may be."""
