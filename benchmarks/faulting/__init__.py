"""What `benchmarks/faults.py` breaks, and how."""
