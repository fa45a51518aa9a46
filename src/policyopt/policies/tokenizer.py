"""Tokenizers: opening them with their end token checked, and one over single characters for small models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from policyopt.policies.checkpoint import CheckpointError, model_source

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


class AlphabetError(ValueError):
    """Text with characters that a character tokenizer does not know."""


def load_tokenizer(path: str | Path, eos_token: str | None = None) -> Any:
    """The tokenizer of a model folder. CheckpointError: none there, or it has no end-of-sequence token."""
    source = model_source(path)
    # Without files, transformers makes up an empty tokenizer of the model's type.
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{str(path)!r} has no tokenizer ({', '.join(TOKENIZER_FILES)}); save the model's tokenizer there"
        )
    tokenizer = AutoTokenizer.from_pretrained(source)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise CheckpointError(f"eos_token {eos_token!r} is not in the vocabulary of the tokenizer in {str(path)!r}")
        tokenizer.eos_token = eos_token
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"the tokenizer in {str(path)!r} has no end-of-sequence token, so no answer could end; name one with "
            "policy.eos_token=..."
        )
    return tokenizer


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token per character, after <pad>, <eos> and <unk>; decoding an encoded text gives it back exactly."""
    if not alphabet:
        raise AlphabetError("a character tokenizer needs at least one character, the alphabet is empty")
    tokens = [PAD, EOS, UNKNOWN, *sorted(set(alphabet))]
    # Byte-pair encoding without merges: every character stays alone, spaces and newlines too.
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], unk_token=UNKNOWN, fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def unknown_characters(tokenizer: Any, texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs that the tokenizer does not know."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    known = tokenizer.get_vocab()
    return Counter({character: count for character, count in counts.items() if character not in known})


def check_alphabet(tokenizer: Any, texts: Iterable[str]) -> None:
    """AlphabetError if a text has a character that a character tokenizer does not know."""
    unknown = unknown_characters(tokenizer, texts)
    if unknown:
        examples = "".join(character for character, _ in unknown.most_common(20))
        raise AlphabetError(
            f"every character of the tasks must be in the tokenizer's alphabet; {unknown.total()} are not, of "
            f"{len(unknown)} kinds: {examples!r}; add them to the alphabet"
        )
