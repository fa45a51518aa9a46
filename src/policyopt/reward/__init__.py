"""What was it worth: `reward(ctx, batch) -> Batch` with the column `reward` (B, T).

A row whose reward can not be known (its grader failed) gets `scored` False: it leaves statistics and losses.
"""
