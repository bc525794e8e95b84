"""What stands in for a CUDA device where there is none: see `device` (start-up order) and `walk` (backward pass)."""
