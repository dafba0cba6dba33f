"""A base model in memory, loaded the same way wherever one is needed, by transformers 4.57 or 5."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedsl.basemodels.model import attention_of
from edgedsl.errors import ModelError, first_line

if TYPE_CHECKING:
    import torch

_NEWER = "install transformers 5: pip install --no-deps -r requirements-transformers5.lock"


def load_causal_lm(folder: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """The causal language model of a folder; never runs code that comes with it, never asks a hub, draws no bars.

    Args:
        folder: configuration and weights in safetensors.
        dtype: of the weights in memory.
        settings: further arguments of ``from_pretrained``.

    Raises:
        ModelError: the folder holds no such model.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(folder)
    with without_bars(), model_errors(f"'{folder}' cannot be loaded as a causal language model"):
        return AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention_of(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **settings,
        )


def load_config(folder: Path) -> Any:
    """The configuration of a model folder, whichever transformers wrote it.

    Raises:
        ModelError: it is none that transformers knows.
    """
    from transformers import AutoConfig

    message = f"the configuration in '{folder}' cannot be read"
    with model_errors(message):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # What 5 calls `rope_parameters` is a field like any other for 4, which would compute with its own defaults.
        written = getattr(config, "rope_parameters", None)
        if written and not hasattr(type(config), "rope_parameters"):
            if not _read_rotary(config, written):
                raise ModelError(f"{message} by transformers 4: {written}", hint=_NEWER)
            del config.rope_parameters
        return config


def _read_rotary(config: Any, written: Mapping[str, Any]) -> bool:
    """The rotary embedding as 5 writes it, in the fields that 4 reads; False where it has none for that."""
    by_type = {name: value for name, value in written.items() if isinstance(value, Mapping)}
    if by_type:
        if set(by_type) != {"full_attention", "sliding_attention"} or not hasattr(config, "rope_local_base_freq"):
            return False
        sliding, written = by_type["sliding_attention"], by_type["full_attention"]
        if sliding.get("rope_type", "default") != "default":
            return False
        config.rope_local_base_freq = sliding["rope_theta"]
    scaling = dict(written)
    config.rope_theta = scaling.pop("rope_theta")
    if (share := scaling.pop("partial_rotary_factor", None)) is not None:
        config.partial_rotary_factor = share
    config.rope_scaling = None if scaling.get("rope_type", "default") == "default" else scaling
    return True


@contextmanager
def model_errors(message: str, hint: str = "") -> Iterator[None]:
    """What transformers raises over a folder that it cannot read, as a ModelError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    # transformers 5 checks the types of a configuration's fields, and says so with a class of its own.
    errors = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)
    try:
        yield
    except errors as exc:
        raise ModelError(f"{message}: {first_line(exc)}", hint=hint) from exc


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence the progress bars of transformers: 5 draws one for every model, also where nobody watches."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def without_old_names() -> Iterator[None]:
    """For calls of peft: 0.21 reads a name that transformers 5 warns of, which is nothing that a user can mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
