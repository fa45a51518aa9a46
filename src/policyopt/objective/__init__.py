"""What moves a model: losses `(seen, batch) -> (B, T) or (B,)`, unreduced. Averaging is a part of `update`.

They see log-probabilities, advantages, masks and ids; never tokens, actions, pixels or a policy's class.
"""
