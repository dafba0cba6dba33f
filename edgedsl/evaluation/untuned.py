"""The untuned base model with examples in its prompt: what fine-tuning has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedsl.basemodels.load import load_causal_lm
from edgedsl.config import Config
from edgedsl.data.pairs import Pair, read_pairs
from edgedsl.data.project import open_inputs
from edgedsl.evaluation.metrics import exact_match, parse_rate
from edgedsl.evaluation.torch_decoder import TorchDecoder


def measure_untuned(
    config: Config, pairs: Sequence[Pair], *, num_examples: int = 5, max_tokens: int = 64, offline: bool = False
) -> dict[str, Any]:
    """Decode each sentence after ``num_examples`` training pairs, greedily, without and with the grammar.

    Returns:
        ``base_exact_match``, ``base_parse_rate`` (with the grammar) and both with ``_without_grammar``; shares of the
        pairs.

    Raises:
        ModelError, GrammarError, DataError: the project's parts cannot be used.
    """
    import torch

    inputs = open_inputs(config, offline=offline)
    model = load_causal_lm(inputs.base.path, torch.float32).eval()
    examples = read_pairs(config.path(config.data.train))[:num_examples]
    sentences = [few_shot_prompt(examples, pair.prompt) for pair in pairs]
    targets = [pair.target for pair in pairs]
    compiled = inputs.grammar.compile(inputs.tokenizer, inputs.tokenizer.end_token_ids(inputs.template))
    free, bound = (
        TorchDecoder(model, inputs.tokenizer, inputs.template, grammar).generate(sentences, max_tokens)
        for grammar in (None, compiled)
    )
    # Untuned, the model does not know the end token: its first line is its answer.
    first_lines = [text.split("\n")[0].strip() for text in free]
    return {
        "base_exact_match": exact_match(bound, targets),
        "base_exact_match_without_grammar": exact_match(first_lines, targets),
        "base_parse_rate": parse_rate(bound, inputs.grammar),
        "base_parse_rate_without_grammar": parse_rate(first_lines, inputs.grammar),
    }


def few_shot_prompt(examples: Sequence[Pair], sentence: str) -> str:
    """Examples and the sentence in the shape of the prompt template: sentence, line break, program, line break."""
    return "".join(f"{pair.prompt}\n{pair.target}\n" for pair in examples) + sentence
