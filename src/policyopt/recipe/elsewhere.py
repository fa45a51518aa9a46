"""What options of other libraries (TRL, Stable-Baselines3, CleanRL, verl) are called in a recipe."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    # the update
    "learning_rate": "update.learning_rate",
    "lr": "update.learning_rate",
    "lr_scheduler_type": "update.schedule",
    "max_grad_norm": "update.clip_norm",
    "num_iterations": "update.epochs",
    "num_ppo_epochs": "update.epochs",
    "n_epochs": "update.epochs",
    "update_epochs": "update.epochs",
    "num_minibatches": "update.minibatches",
    "gradient_accumulation_steps": "update.micro_rows",
    # what is sampled
    "batch_size": "selection.count",
    "per_device_train_batch_size": "selection.count",
    "train_batch_size": "selection.count",
    "num_generations": "sampling.size",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "max_completion_length": "tasks.limit",
    "max_new_tokens": "tasks.limit",
    "n_steps": "sampling.horizon",
    "num_steps": "sampling.horizon",
    "n_envs": "sampling.count",
    "num_envs": "sampling.count",
    # the objective
    "beta": "constraint.kl.weight",
    "kl_coef": "constraint.kl.weight",
    "epsilon": "objective.clip_low",
    "epsilon_high": "objective.clip_high",
    "clip_range": "objective.clip_high",
    "clip_coef": "objective.clip_high",
    "vf_coef": "objective.value.weight",
    "gamma": "credit.gamma",
    "gae_lambda": "credit.lam",
    "loss_type": "method",
    # the run
    "max_steps": "steps",
    "output_dir": "folder",
    "save_steps": "checkpoint_every",
    "report_to": "trackers",
    "eval_steps": "evaluation.every",
    "eval_freq": "evaluation.every",
    "n_eval_episodes": "evaluation.episodes",
    "metric_for_best_model": "evaluation.keep_best",
    "load_best_model_at_end": "evaluation.keep_best",
    "model_name_or_path": "policy.model",
    "bf16": "policy.dtype",
    "gradient_checkpointing": "policy.reading.checkpointed",
    "use_peft": "policy.lora",
    "use_vllm": "policy.engine",
    "reward_funcs": "tasks.verifier",
    "dataset_name": "tasks.jsonl",
    "env_id": "tasks.gymnasium",
    "total_timesteps": "steps",
}
