"""Stable-Baselines3's PPO on rounds that another library collected: prints the largest difference of weights, how far
they moved, and the largest difference of advantages."""

from __future__ import annotations

import ast
import sys

import numpy as np
import torch
from sb3_side import made
from stable_baselines3.common.logger import configure

torch.set_num_threads(1)
data = np.load(sys.argv[1])
setting = ast.literal_eval(str(data["setting"]))
model = made(setting, 0)
model.set_logger(configure(None, []))
model._current_progress_remaining = 1.0
policy = model.policy
extractor = policy.mlp_extractor
layers = {
    "policy": [extractor.policy_net[0], extractor.policy_net[2], policy.action_net],
    "value": [extractor.value_net[0], extractor.value_net[2], policy.value_net],
}
tensors = {
    f"{net}_{kind}_{number}": getattr(layer, kind)
    for net, found in layers.items()
    for number, layer in enumerate(found)
    for kind in ("weight", "bias")
}
if hasattr(policy, "log_std"):
    tensors["log_std"] = policy.log_std
for name, tensor in tensors.items():
    tensor.data = torch.tensor(data[f"initial/{name}"])
policy.optimizer = policy.optimizer_class(policy.parameters(), lr=setting["learning_rate"], **policy.optimizer_kwargs)
buffer, advantages = model.rollout_buffer, 0.0
rounds = sum(name.endswith("/obs") for name in data.files)
for number in range(rounds):
    found = {name: data[f"{number}/{name}"].swapaxes(0, 1) for name in ("obs", "action", "logp", "value", "done")}
    buffer.reset()
    buffer.observations[:] = found["obs"]
    buffer.actions[:] = found["action"].reshape(buffer.actions.shape)
    buffer.log_probs[:], buffer.values[:] = found["logp"], found["value"]
    # A cut episode is worth its last state's value: Stable-Baselines3 adds it to the last reward.
    buffer.rewards[:] = (data[f"{number}/reward"] + setting["gamma"] * data[f"{number}/beyond"]).T
    done = found["done"].astype(np.float32)
    buffer.episode_starts[1:], buffer.episode_starts[0] = done[:-1], 0
    buffer.full, buffer.pos = True, buffer.buffer_size
    last = torch.tensor(data[f"{number}/last"], dtype=torch.float32)
    buffer.compute_returns_and_advantage(last, done[-1])
    advantages = max(advantages, float(np.abs(buffer.advantages - data[f"{number}/advantage"].T).max()))
    model.train()
after = {name: data[f"{rounds - 1}/after/{name}"] for name in tensors}
difference = max(float(np.abs(tensor.detach().numpy() - after[name]).max()) for name, tensor in tensors.items())
moved = max(float(np.abs(after[name] - data[f"initial/{name}"]).max()) for name in tensors)
print(f"{difference:.1e} {moved:.2f} {advantages:.1e}")
