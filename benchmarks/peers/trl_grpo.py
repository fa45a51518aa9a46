"""TRL's side of `grpo_step.py`: `GRPOTrainer` on the same model, prompts, groups and lengths, a step a turn."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

sys.path.append(str(Path(__file__).parents[1]))
from grpo_settings import NEVER, Setting, prompts, reward

asked = Setting(**json.loads(sys.argv[1]))
if asked.threads:
    torch.set_num_threads(asked.threads)
rows = asked.groups * asked.size
config = GRPOConfig(
    output_dir="/tmp/trl-grpo",
    per_device_train_batch_size=rows,
    num_generations=asked.size,
    max_completion_length=asked.limit,
    gradient_accumulation_steps=1,
    steps_per_generation=1,
    num_iterations=1,
    beta=0.0,
    epsilon=0.2,
    loss_type="grpo",
    scale_rewards="group",
    temperature=1.0,
    learning_rate=1e-6,
    lr_scheduler_type="constant",
    max_grad_norm=1.0,
    weight_decay=0.0,
    bf16=asked.bf16,
    gradient_checkpointing=False,
    use_cpu=asked.device == "cpu",
    max_steps=10**5,
    logging_steps=10**5,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
tokens = [0]


def even(completion_ids: list[list[int]], **_: object) -> list[float]:
    tokens[0] = sum(map(len, completion_ids))
    return [reward(answer) for answer in completion_ids]


class Turns(TrainerCallback):
    """Goes on by one step whenever it is asked."""

    def __init__(self) -> None:
        self.asked, self.begun, self.cpu = sys.stdin, 0.0, 0.0

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self.begun == 0.0:
            print(json.dumps({"ready": True}), flush=True)
            self.wait()
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: object, **__: object) -> None:
        if asked.device == "cuda":
            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - self.begun, time.process_time() - self.cpu
        print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens[0]}), flush=True)
        self.wait()

    def wait(self) -> None:
        if self.asked.readline().strip() != "go":
            raise SystemExit


tokenizer = AutoTokenizer.from_pretrained(asked.folder)
model = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=even,
    args=config,
    train_dataset=Dataset.from_dict({"prompt": prompts(asked)}),
    processing_class=tokenizer,
    callbacks=[Turns()],
)
if not asked.varying:
    trainer.eos_token_ids = [NEVER]
    trainer.generation_config.eos_token_id = NEVER
    trainer.generation_kwargs["eos_token_id"] = NEVER
trainer.train()
