"""`python -m mlora_ray`: the same as `mlora-ray`."""

from mlora_ray.cli.app import app

if __name__ == "__main__":
    app()
