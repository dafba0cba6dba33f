"""What a bundle holds, opened: ONNX Runtime and the hash of the weights work beside the interpreter."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedsl import token_bytes
from edgedsl.bundle.manifest import Bundle, check_hashes, open_bundle, weights
from edgedsl.errors import BundleError
from edgedsl.grammar import CompiledGrammar, Grammar, lark_tables, lexemes
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.calibration import kept_calibration, open_decoder
from edgedsl.runtime.call_costs import CallCosts
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.prefix import open_prefix
from edgedsl.tokenizer import Tokenizer

DEV_FILE = "eval/dev.json"  # a list of objects with prompt and target


@dataclass(frozen=True)
class Parts:
    """Of a bundle; ``costs`` are those of a model call, ``dev`` sentences and their programs."""

    bundle: Bundle
    dev: list[tuple[str, str]]
    tokenizer: Tokenizer
    template: PromptTemplate
    compiled: CompiledGrammar
    decoder: Decoder
    costs: CallCosts | None


def open_parts(path: Path, execution_provider: str, num_threads: int, captures_graphs: bool, num_slots: int) -> Parts:
    """Verify and open a bundle folder; arguments as for :meth:`Engine.from_bundle`.

    All that is parsed is hashed before; weights are only mapped, and hashed at the same time.

    Raises:
        BundleError: not a complete, unchanged bundle.
        ProviderError: the execution provider cannot run here.
    """
    bundle = open_bundle(path, leaves_weights=True)
    with _garbage_kept(), ThreadPoolExecutor(2, "edgedsl-load") as background:
        kept = kept_calibration(bundle.manifest, execution_provider, num_threads)

        def opened() -> tuple[Decoder, CallCosts | None]:
            return open_decoder(bundle, kept, execution_provider, num_threads, captures_graphs, num_slots)

        has_to_measure = kept is None and bundle.manifest.model.kv_layout == "shared"
        opening = None if has_to_measure else background.submit(opened)
        hashing = background.submit(check_hashes, bundle, weights(bundle.manifest.files))
        tokenizer = Tokenizer.from_file(bundle.path / "tokenizer.json", _if_there(bundle, token_bytes.FILE_NAME))
        template = PromptTemplate.from_file(bundle.path / "prompt.json")
        prefix = open_prefix(bundle, tokenizer, template)
        dev = _dev_pairs(bundle)
        compiled = _compile(bundle, tokenizer, template)
        _ = compiled.planner  # worked out now, while ONNX Runtime works
        hashing.result()
        found = opening.result() if opening else None
    decoder, costs = found or opened()  # a measurement must have the machine to itself
    if prefix:
        decoder.begin_with(prefix)
    return Parts(bundle, dev, tokenizer, template, compiled, decoder, costs)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Nearly all that a load makes stays; looking through it again and again would take a third of the time.

    What was made joins the collector's oldest generation unseen: looking through it once would hold up a request.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what others have put out of its way stays there
            gc.freeze()
            gc.unfreeze()
        gc.enable()


def _compile(bundle: Bundle, tokenizer: Tokenizer, template: PromptTemplate) -> CompiledGrammar:
    catalogue, tables = _if_there(bundle, "catalogue.json"), _if_there(bundle, lark_tables.FILE_NAME)
    grammar = Grammar.from_files(bundle.path / "grammar.lark", catalogue, tables)
    return grammar.compile(tokenizer, tokenizer.end_token_ids(template), _if_there(bundle, lexemes.FILE_NAME))


def _dev_pairs(bundle: Bundle) -> list[tuple[str, str]]:
    """Empty for a bundle without dev pairs.

    Raises:
        BundleError: malformed.
    """
    path = _if_there(bundle, DEV_FILE)
    if path is None:
        return []
    try:
        pairs = [(row["prompt"], row["target"]) for row in json.loads(path.read_text(encoding="utf-8"))]
        if not all(isinstance(text, str) for pair in pairs for text in pair):
            raise TypeError("a prompt or a target is no text")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BundleError(f"'{path}' is malformed: {exc}", hint="export the bundle again") from exc
    return pairs


def _if_there(bundle: Bundle, name: str) -> Path | None:
    return bundle.path / name if name in bundle.manifest.files else None
