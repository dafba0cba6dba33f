"""GGUF to a model folder that every tool reads: config.json, model.safetensors in float32, tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgedsl.basemodels.gguf_tokenizer import GGUFVocabulary, build_tokenizer, write_tokenizer
from edgedsl.basemodels.load import without_bars
from edgedsl.basemodels.model import read_json
from edgedsl.basemodels.tokenizer_check import check_round_trip, check_tokenizer
from edgedsl.errors import ModelError

_SPECIAL = ("bos", "eos", "unk", "pad")


def require_converter() -> None:
    """Raise ModelError when the libraries that convert are missing: before a download, not after it."""
    missing = [name for name in ("torch", "transformers", "gguf", "safetensors") if find_spec(name) is None]
    if missing:
        raise ModelError(f"converting a base model needs {', '.join(missing)}", hint="pip install 'edgedsl[train]'")


def convert_gguf(gguf: Path, folder: Path, pretokenizer: str) -> None:
    """Write the model folder of ``gguf`` into the existing ``folder``; ``pretokenizer`` is its ``tokenizer.ggml.pre``.

    The weights go through transformers (dequantised to float32), the tokenizer does not (see ``gguf_tokenizer``).

    Raises:
        ModelError: an architecture that transformers cannot read, missing weights, or a tokenizer that fails its check.
    """
    with _quiet_transformers(), without_bars():
        fields = _read_fields(gguf)
        vocabulary = _vocabulary(fields, pretokenizer)
        config = _config(fields["config"], vocabulary.special_ids)
        _save_weights(gguf, config, folder)
    tokenizer = build_tokenizer(vocabulary)
    write_tokenizer(tokenizer, vocabulary, folder, int(config.max_position_embeddings))
    check_tokenizer(folder)
    check_round_trip(folder / "tokenizer.json", tokenizer)
    if (saved := read_json(folder / "config.json")).get("vocab_size") != len(vocabulary.tokens):
        raise ModelError(f"{gguf.name}: {saved.get('vocab_size')} embeddings for {len(vocabulary.tokens)} tokens")


def _read_fields(gguf: Path) -> dict[str, Any]:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        fields: dict[str, Any] = load_gguf_checkpoint(str(gguf))
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError) as exc:
        raise ModelError(f"cannot read {gguf.name} as GGUF: {exc}") from exc
    return fields


def _vocabulary(fields: dict[str, Any], pretokenizer: str) -> GGUFVocabulary:
    stored, config = fields["tokenizer"], fields["config"]
    named = {name: config.get(f"{name}_token_id", stored.get(f"{name}_token_id")) for name in _SPECIAL}
    return GGUFVocabulary(
        model=str(stored.get("tokenizer_type", "")),
        pretokenizer=pretokenizer,
        tokens=stored["tokens"],
        types=stored["token_type"],
        merges=stored.get("merges", []),
        scores=stored.get("scores", []),
        special_ids={name: int(index) for name, index in named.items() if index is not None},
        chat_template=str(fields["tokenizer_config"].get("chat_template", "")),
    )


def _config(stored: dict[str, Any], special_ids: dict[str, int]) -> Any:
    from transformers import AutoConfig

    # The name inside the GGUF is its author's working title; a path must not get into the configuration either.
    settings = {key: value for key, value in stored.items() if key not in ("model_type", "_model_name_or_path")}
    identifiers = {f"{name}_token_id": index for name, index in special_ids.items() if name != "unk"}
    return AutoConfig.for_model(stored["model_type"], **{**settings, **identifiers})


def _save_weights(gguf: Path, config: Any, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **_unpack(),
        )
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as exc:
        raise ModelError(f"transformers cannot convert {gguf.name}: {exc}") from exc
    wrong = [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]
    if wrong:
        raise ModelError(f"{gguf.name}: {len(wrong)} weights are missing or unknown, the first is {wrong[0]}")
    model.config.name_or_path = ""
    model.save_pretrained(str(folder))
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600; a cache may be shared between users


def _unpack() -> dict[str, Any]:
    import transformers

    # Transformers 5 may leave the weights in the blocks of the file; 4 has no such class, and always unpacks them.
    blocks = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": blocks(dequantize=True)} if blocks else {}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and no advice while a file is converted; errors still raise."""
    import functools

    import transformers.modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging

    bar, verbosity = gguf_loader.tqdm, logging.get_verbosity()
    gguf_loader.tqdm = functools.partial(bar, disable=True)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        gguf_loader.tqdm = bar
        logging.set_verbosity(verbosity)
