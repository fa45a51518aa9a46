"""Which step earned it: `credit(ctx, batch) -> Batch` with columns `advantage` (and `return`) (B, T).

Advantages are zero outside own steps. Rows that are not scored take no part in any statistic and get 0.
"""
