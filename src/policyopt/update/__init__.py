"""How a method is applied: `update(ctx, batch) -> None`.

An update reads the stage's terms, moves the models they train and records metrics in `ctx.meter`. Each optimiser
step differentiates one model's parameters through that model's own terms only.
"""
