"""What both sides of `grpo_step.py` do: one step of GRPO on answers of a fixed or a naturally varying length."""

from __future__ import annotations

from dataclasses import dataclass

CHARACTERS = "0123456789+-*/=() "
NEVER = 10**6  # an end of answers that no model can write
SIZES = {  # hidden size, layers, heads, inner size: with 21 tokens about so many parameters
    "0.8M": (128, 3, 4, 512),
    "4M": (256, 4, 4, 1024),
    "25M": (512, 6, 8, 2048),
    "120M": (768, 12, 12, 3072),
    "qwen2.5-0.5B": (896, 24, 14, 4864),
    "qwen2.5-1.5B": (1536, 28, 12, 8960),
}


@dataclass(frozen=True)
class Setting:
    """groups prompts of `prompt` tokens, `size` answers each, of `limit` tokens or (varying) until EOS, which a model
    that has learnt nothing writes about every 21st time. folder: of model and tokenizer. threads: 0, the device's."""

    folder: str
    model: str = "4M"
    varying: bool = False
    groups: int = 16
    size: int = 8
    prompt: int = 32
    limit: int = 64
    bf16: bool = False
    threads: int = 2
    device: str = "cpu"
    micro_tokens: int = 0
    reading: str = "packed"
    trust: float = 0.0  # bound on the mismatch of the sampler; 0: always score again


def prompts(setting: Setting) -> list[str]:
    """Texts of `prompt` characters, the same on both sides, enough for any run."""
    import random

    rng = random.Random(0)
    return ["".join(rng.choices(CHARACTERS, k=setting.prompt)) for _ in range(64 * setting.groups)]


def reward(tokens: list[int]) -> float:
    """The share of even tokens: a number that differs from answer to answer and costs nothing."""
    return sum(token % 2 == 0 for token in tokens) / max(1, len(tokens))
