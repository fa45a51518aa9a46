"""A vLLM engine in this process: weights go in, answers come out. It knows no policy, no world and no batch."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.engines.native import EngineError
from policyopt.engines.weights import StaleWeightsError, checksums, compare, places

COLDEST = 0.01  # vLLM raises lower temperatures to this
GIB = 1 << 30


@dataclass(frozen=True)
class VllmOptions:
    """rows: answers decoded at a time. memory: GiB of keys and values. positions: prompt and answer together, at most
    (None: as many as the model was made for). compile: with torch.compile, which takes a minute once. checked: rows
    of every call that the policy scores again (0: none). mismatch: nats by which their log-probabilities may differ
    in the mean (None: 0.001 in float32, 0.05 below)."""

    rows: int = 256
    memory: float = 1.0
    positions: int | None = None
    compile: bool = False
    checked: int = 4
    mismatch: float | None = None


@dataclass(frozen=True)
class Request:
    """prompt: token ids. seed: of the answer's own random numbers. limit: tokens of the answer at most. temperature 0
    takes the mode."""

    prompt: Sequence[int]
    seed: int
    limit: int
    temperature: float


@dataclass(frozen=True)
class Answer:
    """tokens: the EOS that ended it included. logp: of each, as sampled: of softmax(logits / temperature), at
    temperature 0 of softmax(logits)."""

    tokens: Sequence[int]
    logp: Sequence[float]


def check_installed() -> None:
    """EngineError: there is no vLLM in this environment."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "engine=vllm needs vLLM, which is not installed: pip install 'policyopt[vllm]'; for a CPU `make vllm` "
            "installs it in .vllm, whose policyopt is .vllm/bin/policyopt. Or use engine=native"
        )


class VllmModel:
    """An architecture with weights that can be replaced. Holds a copy of them; see `sync`."""

    def __init__(self, config: Any, dtype: torch.dtype, options: VllmOptions):
        """config: of Hugging Face, with its `architectures`. EngineError: vLLM is missing or can not run it."""
        check_installed()
        self.positions = _positions(config, options)
        with tempfile.TemporaryDirectory() as folder, _quiet(), _unpacked(), _unchanged():
            _keep_groups()
            config.save_pretrained(folder)
            self._llm = _start(folder, self.positions, dtype, options)
        _ALIVE.add(self)
        self.version: int | None = None
        self._sent: dict[str, int] = {}
        self._places: dict[str, Tensor] = {}

    @property
    def module(self) -> nn.Module:
        """vLLM's own model."""
        return self._llm.apply_model(_itself)[0]

    def sync(self, weights: Mapping[str, Tensor], version: int) -> bool:
        """Take these weights (checkpoint names), in place, if they are not those that are held; forget what was
        computed with the old ones. Returns whether they were new. StaleWeightsError: the copy differs from them."""
        sent = checksums(weights)
        new = sent != self._sent
        if new:
            self._sent = {}  # what is held is unknown until it was compared
            self._places = places(self.module, weights)
            with torch.no_grad():
                self._load(weights)
        compare(sent, self.held())
        # Keys and values of prompts are kept from call to call.
        if new and not self._llm.reset_prefix_cache():
            raise StaleWeightsError("vLLM keeps keys and values of the old weights: requests are still running")
        self._sent, self.version = sent, version
        return new

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        module: Any = self.module
        module.load_weights(iter(weights.items()))

    def held(self) -> dict[str, int]:
        """Checksums of what vLLM computes with, by the names of the last sync."""
        return checksums(self._places)

    def drift(self) -> int:
        """0 while the copy is what was sent."""
        return sum(self.held().values()) - sum(self._sent.values())

    def generate(self, requests: Sequence[Request], eos: int | None) -> list[Answer]:
        """An answer to every request, in order; each ends with `eos` (None: never) or at its limit. What a request
        draws depends on its seed alone, not on what is generated beside it. EngineError: see `check_requests`."""
        check_requests(requests, self.positions)
        vllm: Any = importlib.import_module("vllm")
        prompts = [{"prompt_token_ids": [*one.prompt]} for one in requests]
        how = [
            vllm.SamplingParams(
                temperature=one.temperature,
                seed=one.seed,
                max_tokens=one.limit,
                stop_token_ids=[] if eos is None else [eos],
                ignore_eos=True,  # the config's: here it is the world that says what ends an answer
                logprobs=0,  # of the sampled token alone
                detokenize=False,
            )
            for one in requests
        ]
        with _quiet():
            outputs = self._llm.generate(prompts, how, use_tqdm=False)
        return [_answer(output.outputs[0]) for output in outputs]


def check_requests(requests: Sequence[Request], positions: int) -> None:
    """EngineError: what vLLM would answer otherwise than asked, without an error."""
    cold = [one.temperature for one in requests if 0 < one.temperature < COLDEST]
    if cold:
        raise EngineError(
            f"vLLM raises temperatures below {COLDEST} to {COLDEST}, so {cold[0]} would not be the one sampled from; "
            "use 0 (the mode), a higher one or engine=native"
        )
    longest = max((len(one.prompt) + one.limit for one in requests), default=0)
    if longest > positions:
        raise EngineError(
            f"a prompt and its answer may have {longest} tokens, and vLLM was given {positions} positions: raise "
            "policy.vllm.positions, or lower tasks.limit"
        )


def _itself(module: nn.Module) -> nn.Module:
    return module


def _answer(completion: Any) -> Answer:
    tokens = [*completion.token_ids]
    # By token, never by place: what comes first may be the likeliest token and not the sampled one.
    missing = [token for token, found in zip(tokens, completion.logprobs, strict=True) if token not in found]
    if missing:
        raise EngineError(f"vLLM gave no log-probability of the sampled token {missing[0]}; use engine=native")
    return Answer(tokens, [found[token].logprob for token, found in zip(tokens, completion.logprobs, strict=True)])


def _positions(config: Any, options: VllmOptions) -> int:
    positions = options.positions or config.get_text_config().to_dict().get("max_position_embeddings")
    if positions is None:
        raise EngineError("the model's config does not say how many positions it has; set policy.vllm.positions")
    return positions


def _start(folder: str, positions: int, dtype: torch.dtype, options: VllmOptions) -> Any:
    vllm: Any = importlib.import_module("vllm")
    on_cpu = not torch.cuda.is_available()
    try:
        return vllm.LLM(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",  # the weights come with the first sync
            dtype=str(dtype).removeprefix("torch."),
            generation_config="vllm",  # nothing is read from the folder but the config
            max_model_len=positions,
            max_num_seqs=options.rows,
            kv_cache_memory_bytes=int(options.memory * GIB),
            enforce_eager=not options.compile,
            logprobs_mode="processed_logprobs",  # of the distribution that was sampled from
            enable_prefix_caching=True,
            disable_log_stats=True,
            seed=0,
            **({"block_size": 32} if on_cpu else {}),  # its default of 128 would share no prompt that is shorter
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise EngineError(f"vLLM can not run this model: {error}; use engine=native") from error


_ALIVE: weakref.WeakSet[VllmModel] = weakref.WeakSet()


def _keep_groups() -> None:
    """A model of vLLM's that is forgotten takes the process groups down, which are the whole process's: every other
    model in it would then fail. So only the last one does."""
    core: Any = importlib.import_module("vllm.v1.engine.core")
    clean = core.cleanup_dist_env_and_memory
    if hasattr(clean, "__wrapped__"):
        return

    @functools.wraps(clean)
    def clean_last() -> None:
        if not len(_ALIVE):
            clean()

    core.cleanup_dist_env_and_memory = clean_last


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """Linear layers on a CPU keep their weights as they are. vLLM would pack them into kernels' own layouts and drop
    the originals: then weights can not be replaced in place, and reloading them through its `reload_weights` leaves
    tables of rotary positions uninitialised."""
    utils: Any = importlib.import_module("vllm.model_executor.layers.utils")

    def keep(layer: Any, remove_weight: bool) -> None:  # noqa: FBT001 - the signature is vLLM's
        del remove_weight
        layer.cpu_linear = nn.functional.linear

    pack = utils.dispatch_cpu_unquantized_gemm
    utils.dispatch_cpu_unquantized_gemm = keep
    try:
        yield
    finally:
        utils.dispatch_cpu_unquantized_gemm = pack


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """vLLM's CPU worker takes `torch.set_num_threads` away from its whole process; the trainer lives in it too."""
    threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = threads


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """In this process, without asking the network, and without its warnings, which are about itself."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "CRITICAL"}.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
