"""Who generates and how: `sampling(ctx, draw, judge) -> Batch`.

A sampler *pulls*: it calls `draw(count)` for tasks and `judge(batch)` for rewards and feedback as often as it needs,
and judges every row it returns exactly once.
"""
