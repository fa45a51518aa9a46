"""Train policies with any published policy-optimization method."""
