"""What a service answers over HTTP, run by Ray Serve."""
