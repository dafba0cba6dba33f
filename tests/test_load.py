"""Base models in memory: what the folder says, errors of ours, and no noise."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_llama
from tiny_export import HAS_OPTIMUM, SHAPE, make_model
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, Phi3Config, SmolLM3Config

from edgedsl.basemodels.load import load_causal_lm, load_config, without_bars, without_old_names
from edgedsl.basemodels.model import BaseModel
from edgedsl.errors import ModelError
from edgedsl.exporters import source
from edgedsl.exporters.fused.plan import plan_of, uncovered


def test_the_model_is_that_of_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_llama(tmp_path)
    capfd.readouterr()
    model = load_causal_lm(folder, torch.bfloat16)
    assert (model.config.model_type, model.dtype) == ("llama", torch.bfloat16)
    assert model.config._attn_implementation == "sdpa"
    assert capfd.readouterr() == ("", ""), "no bar, no advice"


@pytest.mark.parametrize("cap", [5.0, None])
def test_a_cap_on_the_scores_is_computed(tmp_path: Path, cap: float | None) -> None:
    model = make_model(Gemma2Config(**SHAPE, head_dim=32, attn_logit_softcapping=cap))
    model.save_pretrained(tmp_path)
    token_ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(load_causal_lm(tmp_path, torch.float32)(token_ids).logits, model(token_ids).logits)


@pytest.mark.parametrize(
    "settings", [{"model_type": "nonsense"}, {"hidden_size": "32"}, {"num_attention_heads": [4]}], ids=str
)
def test_a_configuration_without_sense_is_a_model_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tiny_llama(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **settings}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"cannot be (read|loaded as a causal language model): .") as caught:
        load_causal_lm(tmp_path, torch.float32)
    assert "\n" not in caught.value.message


def test_a_configuration_that_is_none_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"the configuration in .* cannot be read: ."):
        load_config(tmp_path)


SCALED = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# As transformers 4 and as 5 writes the same thing.
ROTARY: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "base": (
        LlamaConfig(**SHAPE),
        {"rope_theta": 100.0, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}},
    ),
    "scaled": (
        LlamaConfig(**SHAPE),
        {"rope_theta": 500.0, "rope_scaling": {name: SCALED[name] for name in SCALED if name != "rope_theta"}},
        {"rope_parameters": SCALED},
    ),
    "part of a head": (
        Phi3Config(**{**SHAPE, "num_attention_heads": 2, "num_key_value_heads": 2}),
        {"rope_theta": 100.0, "partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5, "rope_type": "default"}},
    ),
    "by type of layer": (
        Gemma3TextConfig(**SHAPE, head_dim=32, layer_types=["sliding_attention", "full_attention"]),
        {"rope_theta": 500.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0},
                "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
            }
        },
    ),
}
ROTARY_FIELDS = {"rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"}


def logits(folder: Path, rotary: dict[str, Any]) -> torch.Tensor:
    """Of the model in the folder, with these fields of its configuration."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in ROTARY_FIELDS}
    path.write_text(json.dumps(kept | rotary), encoding="utf-8")
    with torch.inference_mode():
        found: torch.Tensor = load_causal_lm(folder, torch.float32)(torch.arange(3, 60)[None]).logits
    return found


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_embeddings_are_those_that_either_transformers_wrote(name: str, tmp_path: Path) -> None:
    """Else a model saved by 5 would be another one under 4, without a word."""
    config, four, five = ROTARY[name]
    make_model(config).save_pretrained(tmp_path)
    default = logits(tmp_path, {})
    expected = logits(tmp_path, four)
    torch.testing.assert_close(logits(tmp_path, five), expected)
    assert (default - expected).abs().max() > 1e-2


@pytest.mark.skipif(not HAS_OPTIMUM, reason="transformers 5 reads what it writes")
def test_what_transformers_4_has_no_field_for_is_refused(tmp_path: Path) -> None:
    make_model(LlamaConfig(**SHAPE)).save_pretrained(tmp_path)
    table = {"rope_theta": 100.0, "rope_type": "default"}
    with pytest.raises(ModelError, match="cannot be read by transformers 4") as caught:
        logits(tmp_path, {"rope_parameters": {"full_attention": table, "sliding_attention": table}})
    assert "transformers 5" in caught.value.hint


def test_bars_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()
    with pytest.raises(ZeroDivisionError), without_bars():
        assert not logging.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert logging.is_progress_bar_enabled()


def test_only_the_one_name_is_kept_quiet() -> None:
    with without_old_names():
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="another"):
            warnings.warn("another name is deprecated", FutureWarning, stacklevel=1)


def test_two_layers_of_a_model_that_lists_them(tmp_path: Path) -> None:
    SmolLM3Config(**{**SHAPE, "num_hidden_layers": 6}, no_rope_layers=[1, 0, 1, 1, 1, 0]).save_pretrained(tmp_path)
    config = source._smoke_model(BaseModel("x", tmp_path, "", "", "")).config
    assert uncovered(config, 96) == ""
    assert plan_of(config).rotary == ("full_attention", None)
