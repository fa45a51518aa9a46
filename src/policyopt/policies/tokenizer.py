"""Tokenizers: opening them with their end token checked, and one over single characters for small models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise CheckpointError(f"the tokenizer in {str(path)!r} can not be opened: {error}") from error
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
    """One token per ASCII character (one per UTF-8 byte of others), after <pad>, <eos> and <unk>; decoding an encoded
    text gives it back exactly.

    Bytes, because transformers opens the tokenizer of a Qwen2 model as byte-level whatever the folder says: this one
    reads its alphabet alike either way. (A character outside the alphabet is <unk> here and may be dropped there.)
    """
    if not alphabet:
        raise AlphabetError("a character tokenizer needs at least one character, the alphabet is empty")
    tokens = [PAD, EOS, UNKNOWN, *sorted(_symbols(alphabet))]
    # Byte-pair encoding without merges: every byte stays alone, spaces and newlines too.
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], unk_token=UNKNOWN, fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _BYTES
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _symbols(text: str) -> set[str]:
    """The printable stand-ins of a text's bytes, which are the tokens."""
    return {symbol for piece, _ in _BYTES.pre_tokenize_str(text) for symbol in piece}


def unknown_characters(tokenizer: Any, texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs that the tokenizer does not know."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    known = tokenizer.get_vocab()
    return Counter({character: count for character, count in counts.items() if not _symbols(character) <= known.keys()})


def check_alphabet(tokenizer: Any, texts: Iterable[str]) -> None:
    """AlphabetError if a text has a character that a character tokenizer does not know."""
    unknown = unknown_characters(tokenizer, texts)
    if unknown:
        examples = "".join(character for character, _ in unknown.most_common(20))
        raise AlphabetError(
            f"every character of the tasks must be in the tokenizer's alphabet; {unknown.total()} are not, of "
            f"{len(unknown)} kinds: {examples!r}; add them to the alphabet"
        )
