"""A bundle as an Outlines model: called with a sentence and an output type, it answers with text of that type.

Without a type the bundle's own grammar holds. With one, a grammar is made of it as ``edgedsl grammar import`` does, so
that budgets and the second parse hold for it too; the model was not tuned for it, though.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outlines.models.base import Model, ModelTypeAdapter
from outlines.types.dsl import CFG, JsonSchema, python_types_to_terms, to_regex

from edgedsl.errors import GrammarError, RequestError
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.grammar.sources import json_schema, regex_source
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams


def from_bundle(
    path: str | Path, *, execution_provider: str = "cpu", num_threads: int = 0, exact: bool = False
) -> OutlinesModel:
    """Open a bundle folder as an Outlines model.

    Raises:
        EdgeDSLError: see :meth:`edgedsl.runtime.engine.Engine.from_bundle`.
    """
    return OutlinesModel(
        Engine.from_bundle(path, execution_provider=execution_provider, num_threads=num_threads, exact=exact)
    )


class OutlinesModel(Model):  # type: ignore[misc]  # Outlines has no types
    """``model("sentence", OutputType, max_tokens=64)``; keywords are those of :class:`SamplingParams`.

    ``outlines.Generator`` knows only the models of Outlines itself; call the model, or its ``batch`` and ``stream``.
    """

    tensor_library_name = "numpy"

    def __init__(self, engine: Engine) -> None:
        self.type_adapter = _TypeAdapter(engine)
        self._engine = engine

    def __call__(
        self, model_input: Any, output_type: Any | None = None, backend: str | None = None, **inference_kwargs: Any
    ) -> str:
        """Text of the output type.

        Args:
            model_input: a sentence.
            output_type: a Pydantic model, a Python type, or a type of ``outlines.types``; None for the bundle's
                language.
            backend: must be left out: edgedsl brings its own.
            inference_kwargs: keywords of :class:`SamplingParams`.

        Raises:
            RequestError: a backend, an input that is no text, or sampling values out of range.
            GrammarError: a type that cannot be made a grammar.
            GenerationError: see :meth:`Engine.generate`.
        """
        return self.generate(model_input, _own_backend(backend, output_type), **inference_kwargs)

    def batch(
        self, model_input: Any, output_type: Any | None = None, backend: str | None = None, **inference_kwargs: Any
    ) -> list[str]:
        """The same for a list of sentences, one after the other."""
        return self.generate_batch(model_input, _own_backend(backend, output_type), **inference_kwargs)

    def stream(
        self, model_input: Any, output_type: Any | None = None, backend: str | None = None, **inference_kwargs: Any
    ) -> Iterator[str]:
        """The same in pieces; only after the last one is it known that the whole parses."""
        return self.generate_stream(model_input, _own_backend(backend, output_type), **inference_kwargs)

    def generate(self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any) -> str:
        """What Outlines calls; see :meth:`__call__`."""
        sentence, compiled = self.type_adapter.format_input(model_input), self._compiled(output_type)
        return self._engine.generate(sentence, SamplingParams(**inference_kwargs), compiled=compiled).text

    def generate_batch(self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any) -> list[str]:
        """What Outlines calls; see :meth:`batch`."""
        return [self.generate(sentence, output_type, **inference_kwargs) for sentence in model_input]

    def generate_stream(
        self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any
    ) -> Iterator[str]:
        """What Outlines calls; see :meth:`stream`."""
        sentence, compiled = self.type_adapter.format_input(model_input), self._compiled(output_type)
        return self._engine.stream(sentence, compiled=compiled, **inference_kwargs)

    def _compiled(self, output_type: Any | None) -> CompiledGrammar:
        compiled: CompiledGrammar = self.type_adapter.format_output_type(output_type)
        return compiled


class _TypeAdapter(ModelTypeAdapter):  # type: ignore[misc]
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compiled: dict[str, CompiledGrammar] = {}

    def format_input(self, model_input: Any) -> str:
        if not isinstance(model_input, str):
            raise RequestError(
                f"the input is {type(model_input).__name__}, expected a text", hint="a bundle takes one sentence"
            )
        return model_input

    def format_output_type(self, output_type: Any | None = None) -> CompiledGrammar:
        if output_type is None:
            return self._engine.compiled
        source = _lark(output_type)
        if source not in self._compiled:
            end_token_ids = self._engine.tokenizer.end_token_ids(self._engine.template)
            self._compiled[source] = Grammar(source, name="output type").compile(self._engine.tokenizer, end_token_ids)
        return self._compiled[source]


def _lark(output_type: Any) -> str:
    try:
        term = python_types_to_terms(output_type)
        if isinstance(term, CFG):
            return str(term.definition)
        if isinstance(term, JsonSchema):
            return json_schema.to_lark(json.loads(term.schema)).source
        return regex_source.to_lark(to_regex(term)).source
    except (TypeError, ValueError, NotImplementedError, RecursionError) as exc:
        raise GrammarError(
            f"no grammar can be made of the output type {str(output_type)[:80]}: {exc}",
            hint="a Pydantic model, a Python type, or regex, cfg and json_schema of outlines.types",
        ) from exc


def _own_backend(backend: str | None, output_type: Any | None) -> Any | None:
    if backend is not None:
        raise RequestError(f"backend is {backend!r}; edgedsl decodes with its own", hint="leave it out")
    return output_type
