"""mlora_ray: many LoRA adapters trained at once on shared frozen bases, each bit for bit as if alone."""

__version__ = "0.1.0"
