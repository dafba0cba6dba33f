"""Token ids of the pairs, and which of them each optimizer step sees: a function of seed and epoch alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgedsl.data.pairs import Pair
from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """One pair as token ids; ``target`` holds the end token."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads: the last one is only predicted."""
        return len(self.prompt) + len(self.target) - 1


@dataclass(frozen=True)
class Batch:
    """Tensors of a forward pass, padded on the right: causal attention never looks there and needs no mask.

    Attributes:
        input_ids: [batch, width] int64.
        positions: [num_targets] int64 into the flattened ``input_ids``, where a target token is predicted.
        labels: [num_targets] int64.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    num_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.positions.to(device), self.labels.to(device), self.num_tokens)


def encode(pairs: Sequence[Pair], tokenizer: Tokenizer, template: PromptTemplate) -> list[Example]:
    """Token ids as at run time: the template's prompt, the target as plain text, the template's first end token."""
    end = tokenizer.end_token_ids(template)[0]
    return [
        Example(tuple(tokenizer.encode_prompt(template, pair.prompt)), (*tokenizer.encode_plain(pair.target), end))
        for pair in pairs
    ]


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples into a :class:`Batch`."""
    width = max(example.num_tokens for example in examples)
    input_ids = np.zeros((len(examples), width), np.int64)
    positions: list[np.ndarray] = []
    labels: list[int] = []
    for row, example in enumerate(examples):
        input_ids[row, : example.num_tokens] = (*example.prompt, *example.target[:-1])
        positions.append(np.arange(len(example.prompt) - 1, example.num_tokens) + row * width)
        labels.extend(example.target)
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(np.concatenate(positions)),
        torch.tensor(labels),
        sum(example.num_tokens for example in examples),
    )


class BatchPlan:
    """The batches of every optimizer step.

    An epoch shuffles the rows, sorts them by length (rows of a length stay shuffled), cuts batches, and shuffles those:
    a batch holds rows of nearly one length, so next to nothing is padding.

    Args:
        lengths: tokens of each example.
        batches_per_step: gradient accumulation times processes.
        full_steps: fill the last step of an epoch with its first batches, so that each process gets its share.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, batches_per_step: int, seed: int, *, full_steps: bool = False
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._batches_per_step = batches_per_step
        self._seed = seed
        self._full_steps = full_steps
        self.steps_per_epoch = math.ceil(math.ceil(len(lengths) / batch_size) / batches_per_step)
        self._epoch = -1
        self._batches: list[list[int]] = []

    def step(self, step: int) -> list[list[int]]:
        """Rows of each batch of an optimizer step (counted from 0 over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        start = within * self._batches_per_step
        batches = self._batches[start : start + self._batches_per_step]
        if self._full_steps:
            batches = [
                batches[i] if i < len(batches) else self._batches[i % len(self._batches)]
                for i in range(self._batches_per_step)
            ]
        return batches

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        order = order[np.argsort(self._lengths[order], kind="stable")]
        batches = [order[i : i + self._batch_size].tolist() for i in range(0, len(order), self._batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]
