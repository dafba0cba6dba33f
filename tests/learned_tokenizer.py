"""A byte-level BPE tokenizer learned from the cases of the shipped grammars: tokens like a model's."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.authoring.token_set import TokenSet
from edgedsl.tokenizer import Tokenizer

END = "<|end|>"


@cache
def learned_tokens() -> TokenSet:
    """Some 1,500 tokens: every byte, and pieces of words, numbers and punctuation of all the grammars."""
    texts = [case.text for name in shipped() for case in open_language(name).cases if case.kind == "accept"]
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(backend.to_str())
    return TokenSet(tokenizer, tokenizer.token_id(END), f"{tokenizer.vocab_size} tokens learned from the cases")
