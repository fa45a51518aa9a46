"""What beyond a scalar: `feedback(ctx, batch) -> Batch` with more columns (preferences, critiques, teacher scores)."""
