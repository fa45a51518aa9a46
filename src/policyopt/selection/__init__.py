"""Which tasks next and how many attempts (`draw`); which rows are worth training on (`keep`, after credit).

`draw(ctx, count) -> Tasks` is pure: the data position is `ctx.drawn`. `keep(ctx, batch) -> Batch` gets credited
rows and returns those to train on.
"""
