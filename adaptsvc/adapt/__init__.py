"""How a model learns from images without labels: torch only, no I/O."""
