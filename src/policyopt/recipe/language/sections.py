"""What a recipe for a language policy may say."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from policyopt.recipe.base import HeldOutSection, Recipe, Section, exactly_one, without_effect
from policyopt.recipe.language.ask_sections import AskSection

GENERATED = 10_000  # tasks of a generator, if the recipe does not say


class NewModel(Section):
    """A decoder made from nothing, of an architecture that transformers knows."""

    model_type: str = "qwen2"
    hidden_size: int = Field(default=128, ge=1)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int | None = None  # None: 4 * hidden_size
    positions: int = Field(default=512, ge=8)
    alphabet: str | None = None  # of its character tokenizer; None: the characters of the tasks

    @model_validator(mode="after")
    def _whole_heads(self) -> NewModel:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2 * heads = {2 * self.heads} (positions turn pairs of numbers of a "
                f"head), got {self.hidden_size}"
            )
        return self


class LoraOptions(Section):
    """Train low-rank adapters instead of all weights."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"


class NativeSection(Section):
    """How the native engine generates, with engine=native or auto; see `engines.native.Decoding`."""

    slots: int | None = Field(default=None, ge=1)
    shared: bool = True
    dropped: bool = True
    compiled: bool = True
    weights: Literal["bfloat16"] | None = None


class ReadingSection(Section):
    """How the trained models read rows when they score them; see `policies.trunk.Reading`."""

    packed: bool = True
    share: bool = True
    checkpointed: bool = False
    autocast: Literal["bfloat16"] | None = None
    scoring: Literal["torch", "triton"] = "torch"
    compiled: bool = True


class VllmSection(Section):
    """How vLLM generates, with engine=vllm; see `engines.vllm_model.VllmOptions`."""

    rows: int = Field(default=256, ge=1)
    memory: float = Field(default=1.0, gt=0)  # GiB of keys and values
    positions: int | None = Field(default=None, ge=2)
    compile: bool = False
    checked: int = Field(default=4, ge=0)
    mismatch: float | None = Field(default=None, gt=0)  # nats


class HindsightSection(Section):
    """A code beside the prompt, for `oppo`; see `policies.hindsight_language`."""

    size: int = Field(default=8, ge=1)  # numbers of a code


class PolicySection(Section):
    """The policy: a model folder (or hub:owner/name), or a new one."""

    model: str | None = None
    new: NewModel | None = None
    lora: LoraOptions | None = None
    hindsight: HindsightSection | None = None
    dtype: str = Field(default="float32", pattern="^(float32|float64|bfloat16)$")
    eos_token: str | None = None
    device: str = "auto"  # auto: CUDA, then Apple, then CPU
    engine: str = "auto"
    reading: ReadingSection = Field(default_factory=ReadingSection)
    native: NativeSection | None = None
    vllm: VllmSection | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PolicySection:
        if self.vllm is not None and self.engine != "vllm":
            raise ValueError(
                f"policy.vllm has no effect with engine={self.engine}; set policy.engine=vllm or remove it"
            )
        if self.native is not None and self.engine not in ("auto", "native"):
            raise ValueError(
                f"policy.native has no effect with engine={self.engine}; set policy.engine=native or remove it"
            )
        if (self.model is None) == (self.new is None):
            raise ValueError("give exactly one of policy.model (a model folder) and policy.new (a model from nothing)")
        if self.new is not None and self.eos_token is not None:
            raise ValueError("policy.eos_token has no effect on a new model; remove it")
        return self


class Demonstrations(Section):
    """Recorded answers for supervised stages: right with probability `reliability`, else spoilt by `mistake` (one of
    several alike), and with probability `again` by another one, and so on."""

    reliability: float = Field(default=1.0, ge=0, le=1)
    mistake: str | tuple[str, ...] = "swap_first_two"
    again: float = Field(default=0.0, ge=0, lt=1)


class Preferences(Section):
    """Preference pairs: two answers of the demonstrators to every task, of which the verifier prefers the better one
    with probability sigma(difference of scores / temperature); at temperature 0 always."""

    temperature: float = Field(default=0.0, ge=0)


class NoiseSection(Section):
    """Wrong labels on purpose (`worlds.label_noise.LabelNoise`). seed: None takes the run's."""

    flip: float = Field(default=0.0, ge=0, le=1)
    longer: float | None = Field(default=None, ge=0, le=1)
    shorter: float | None = Field(default=None, ge=0, le=1)
    good: float | None = Field(default=None, ge=0, le=1)
    bad: float | None = Field(default=None, ge=0, le=1)
    temperature: float | None = Field(default=None, gt=0)
    seed: int | None = None


Pairing = Literal["best_worst", "neighbours", "every"]


class InstructionSection(Section):
    """Words for something that a method tells tasks beside their prompt, for example a length budget."""

    template: str  # over {prompt} and {value}
    value: Literal["number", "solution", "tokens"] = "number"
    texts: tuple[str, ...] = ()  # the number chooses one of these


class VerifierSection(Section):
    """One of several verifiers of the same answers."""

    verifier: str
    options: dict[str, Any] = Field(default={})


class JudgeSection(Section):
    """A chat model behind an OpenAI-compatible HTTP API, as a model of the run: `ask: score` makes it a reward model,
    `ask: pair` a judge of pairs that is asked in both orders. See `policies.endpoint.Endpoint` for the rest."""

    url: str
    model: str
    ask: Literal["score", "pair"] = "score"
    template: str | None = None  # over {prompt} and {answer}, {lowest}, {highest}; or {first} and {second}
    lowest: float = 1.0
    highest: float = 10.0
    key: str | None = None
    temperature: float = Field(default=0.0, ge=0)
    tokens: int = Field(default=16, ge=1)
    timeout: float = Field(default=30.0, gt=0)
    retries: int = Field(default=3, ge=0)
    pause: float = Field(default=0.5, ge=0)
    concurrency: int = Field(default=8, ge=1)
    deadline: float = Field(default=600.0, gt=0)
    most_failed: float = Field(default=0.5, ge=0, le=1)
    cache: str | None = None

    @model_validator(mode="after")
    def _scale_of_scores(self) -> JudgeSection:
        # A resolved recipe has the default written out.
        changed = {"lowest": self.lowest != 1.0, "highest": self.highest != 10.0}
        idle = {name: self.ask == "pair" and other for name, other in changed.items()}
        without_effect("judges.NAME", idle, "ask=pair")
        return self


class TasksSection(Section):
    """Where tasks come from: one of reasoning_gym, jsonl and folder."""

    reasoning_gym: str | tuple[dict[str, Any], ...] | None = None
    jsonl: str | None = None
    folder: str | None = None
    split: str | None = None  # of a folder with several
    options: dict[str, Any] = Field(default={})  # of the reasoning-gym generator
    prompt: str | None = None  # template over {question} and metadata fields
    size: int = Field(default=GENERATED, ge=1)  # generated tasks
    limit: int = Field(default=256, ge=1)  # own tokens of an answer at most
    overlong: Literal["refuse", "drop"] = "refuse"  # tasks that do not fit the model's positions
    verifier: str | None = None  # None: reasoning_gym for its tasks, else no reward
    verifier_options: dict[str, Any] = Field(default={})
    heads: dict[str, VerifierSection] = Field(default={})  # more rewards, by the names that a method weighs
    checks: dict[str, VerifierSection] = Field(default={})  # what an answer is checked for: constraints, key steps
    deadline: float = Field(default=5.0, gt=0)  # seconds a verifier may take for one answer
    demonstrations: Demonstrations | None = None
    preferences: Preferences | None = None  # of the demonstrations, by the verifier
    columns: dict[str, str] = Field(default={})  # fields of preference data that hold numbers of answers, by name
    pairing: Pairing | None = None  # how ranked lists become pairs; None: they stay lists
    noise: NoiseSection | None = None  # in the labels of preference data, for training
    reference_answer: str | None = None  # over {prompt} and {answer}: what conditioned reward models read
    ask: AskSection | None = None  # what tasks can be asked about answers
    instructions: dict[str, InstructionSection] = Field(default={})  # by the name that a method uses: budget, hint ...

    @model_validator(mode="after")
    def _one_source(self) -> TasksSection:
        given = exactly_one(self, "tasks", ("reasoning_gym", "jsonl", "folder"))
        generated = given == "reasoning_gym"
        idle = {
            "options": self.options and not generated,
            "prompt": self.prompt is not None and not generated,
            "demonstrations": self.demonstrations is not None and not generated,
            # A resolved recipe has the default written out.
            "size": self.size != GENERATED and not generated,
            "columns": self.columns and generated,
            "split": self.split is not None and given != "folder",
            "verifier_options": self.verifier_options and self.verifier is None and not generated,
        }
        without_effect("tasks", idle, f"tasks.{given}")
        if self.preferences is not None and self.demonstrations is None:
            raise ValueError("tasks.preferences compares demonstrations; give tasks.demonstrations as well")
        return self


class EvaluationSection(HeldOutSection):
    """Held-out tasks: greedy accuracy, pass@k and mean reward, before the last stage and after it."""

    tasks: int = Field(default=500, ge=1)
    samples: int = Field(default=16, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    success: float = 1.0  # an answer is right if its score is at least this
    jsonl: str | None = None  # held-out tasks of their own; None: split off the training tasks

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationSection:
        if self.samples < 8:
            raise ValueError(f"evaluation.samples must be at least 8 for pass@8, not {self.samples}")
        return self


class LanguageRecipe(Recipe):
    """A whole run of a language policy."""

    kind: ClassVar[str] = "language"
    files: ClassVar = (*Recipe.files, "tasks.jsonl", "tasks.folder", "evaluation.jsonl")

    policy: PolicySection
    tasks: TasksSection
    judges: dict[str, JudgeSection] = Field(default={})  # models of the run that are asked over HTTP
    evaluation: EvaluationSection | None = EvaluationSection()

    @property
    def supplied(self) -> set[str]:
        return super().supplied | set(self.judges)

    @model_validator(mode="after")
    def _names_once(self) -> LanguageRecipe:
        twice = sorted(set(self.models) & set(self.judges))
        if twice:
            raise ValueError(f"{twice} are both in models and in judges; give them different names")
        return self
