"""What `benchmarks/fuzz.py` feeds to whatever reads files and answers of others."""
