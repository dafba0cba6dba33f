"""The hops of an export, each measured: the logits on a few rows, and the programs decoded from the dev pairs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from edgedsl.bundle.manifest import ModelInfo
from edgedsl.config import Config
from edgedsl.data.pairs import Pair
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.exporters.parity import Parity, collect, compare
from edgedsl.exporters.quality import HOPS, Quality, measure
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.call_costs import measure as measure_costs
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.drafts import DraftSources
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.head import Head
from edgedsl.runtime.prefix import FILE_NAME as PREFIX_FILE
from edgedsl.runtime.prefix import Prefix
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.tokenizer import Tokenizer

PARITY_ROWS = 8
Say = Callable[[str], None]
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Language:
    """What turns tokens into programs: the same objects for every hop."""

    tokenizer: Tokenizer
    template: PromptTemplate
    grammar: Grammar

    @cached_property
    def compiled(self) -> CompiledGrammar:
        """The grammar over the tokenizer's tokens."""
        return self.grammar.compile(self.tokenizer, self.tokenizer.end_token_ids(self.template))


class Hops:
    """What was measured of each hop, in the order of measuring; the parity of a hop is that with the one before it.

    Attributes:
        pairs: dev pairs whose prompts are decoded.
        parity: by hop; the first hop has none.
        quality: by hop.
        programs: by hop, one for each pair.
        e2el_ms: by hop of a graph, the median of a whole answer.
        prefix_token_ids: tokens that every row begins with; no bundle computes their logits, so none are compared.
        head: the tokens whose logits are compared once the graph is quantised and its head trimmed; None for all.
        is_padded: whether calls of one token are padded to two, as a bundle with drafts decodes.
    """

    def __init__(self, config: Config, language: Language, pairs: Sequence[Pair], say: Say) -> None:
        self.config = config
        self.language = language
        self.pairs = pairs
        self.say = say
        self.rows = [self.token_row(pair) for pair in pairs[:PARITY_ROWS]]
        self.prefix_token_ids = language.tokenizer.encode_prefix(language.template)
        self.logits: list[Any] = []
        self.parity: dict[str, Parity] = {}
        self.quality: dict[str, Quality] = {}
        self.programs: dict[str, list[str]] = {}
        self.e2el_ms: dict[str, float] = {}
        self.head: Head | None = None
        self.is_padded = config.export.drafts

    def changed_share(self, hop: str, other: str) -> float:
        """Share of the programs in which two hops differ."""
        pairs = zip(self.programs[hop], self.programs[other], strict=True)
        return sum(one != two for one, two in pairs) / len(self.pairs)

    def serve(self, recipe: str) -> None:
        """What was measured of this recipe is that of the bundle; of the others, nothing is kept here."""
        names = {hop: hop for hop in HOPS} | {recipe: "quantized", f"{recipe} drafted": "drafted"}
        self.parity = _renamed(self.parity, names)
        self.quality = _renamed(self.quality, names)
        self.programs = _renamed(self.programs, names)
        self.e2el_ms = _renamed(self.e2el_ms, names)

    def token_row(self, pair: Pair) -> list[int]:
        """Token ids of the prompt and its target, at most the context's."""
        tokenizer = self.language.tokenizer
        row = tokenizer.encode_prompt(self.language.template, pair.prompt) + tokenizer.encode_plain(pair.target)
        return row[: self.config.export.context_length]

    def measure_torch(self, hop: str, model: Any) -> None:
        """Measure a transformers model under the grammar."""
        language = self.language
        decoder = TorchDecoder(model, language.tokenizer, language.template, language.compiled, "cpu")
        with torch.inference_mode():
            self._compare(
                hop, collect(lambda row: model(torch.tensor([list(row)])).logits[0].float().numpy(), self.rows)
            )
        self._measure_programs(hop, partial(decoder.generate, max_tokens=self.config.generate.max_tokens))

    def decoder(self, folder: Path, info: ModelInfo) -> Decoder:
        """A graph as the runtime loads it: model.onnx, and the prefix if there is one."""
        prefix = folder / PREFIX_FILE
        return Decoder(
            folder / "model.onnx",
            info,
            # A graph in fp32 is for the CPU; one in half precision is measured where it is to run.
            execution_provider="cpu" if info.kv_dtype == "float32" else self.config.runtime.execution_provider,
            num_threads=self.config.runtime.num_threads,
            prefix=Prefix.from_file(prefix, info, self.language.tokenizer.vocab_size) if prefix.exists() else None,
        )

    def measure_onnx(self, hop: str, folder: Path, info: ModelInfo, drafts: Path | None = None) -> None:
        """Measure a graph as the runtime decodes it.

        Args:
            hop: its name.
            folder: with model.onnx, and the prefix if there is one.
            info: of the model.
            drafts: folder of the drafts to decode with; the logits are not compared again.
        """
        decoder = self.decoder(folder, info)

        def logits_of(row: Sequence[int]) -> Any:
            decoder.reset()
            return decoder.forward_all(row[decoder.length :])

        if drafts is None:
            self._compare(hop, collect(logits_of, self.rows))
        language = self.language
        engine = Engine(
            name=hop,
            tokenizer=language.tokenizer,
            template=language.template,
            grammar=language.grammar,
            decoder=decoder,
        )
        end_token_ids = engine.compiled.end_token_ids
        if drafts is not None:
            engine.drafts = DraftSources.from_bundle(drafts, language.tokenizer, end_token_ids)
            engine.costs = measure_costs(decoder)
        engine.is_padded = self.is_padded and info.kv_layout == "shared"
        params = SamplingParams(max_tokens=self.config.generate.max_tokens)
        times: list[float] = []

        def generate(sentences: Sequence[str]) -> list[str]:
            completions = [engine.generate(sentence, params) for sentence in sentences]
            times.extend(completion.timings.e2el_ms for completion in completions)
            return [completion.text for completion in completions]

        self._measure_programs(hop, generate)
        self.e2el_ms[hop] = statistics.median(times)

    def _compare(self, hop: str, logits: list[Any]) -> None:
        """With the last hop that was not quantised."""
        num_compared = [len(row) - len(self.prefix_token_ids) for row in self.rows]
        logits = [array[-num:] for array, num in zip(logits, num_compared, strict=True)]
        kept = self.head.token_ids if self.head and hop not in HOPS[:-1] else slice(None)
        if self.logits:
            self.parity[hop] = compare([array[:, kept] for array in self.logits], [array[:, kept] for array in logits])
        if hop in HOPS[:-1]:
            self.logits = logits

    def _measure_programs(self, hop: str, generate: Any) -> None:
        self.programs[hop] = generate([pair.prompt for pair in self.pairs])
        self.quality[hop] = measure(self.programs[hop], self.pairs, self.language.grammar)
        text = f"  {hop}: exact match {self.quality[hop].exact_match:.1%} of {len(self.pairs)}"
        if parity := self.parity.get(hop):
            text += f", argmax agreement {parity.argmax_agreement:.2%}, max difference {parity.max_difference:.2g}"
        self.say(text)


def _renamed(measured: Mapping[str, Measured], names: Mapping[str, str]) -> dict[str, Measured]:
    """What has a new name, under that."""
    return {names[hop]: value for hop, value in measured.items() if hop in names}
