"""``edgedsl train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import project_option, section_options
from edgedsl.config import load_config, override

_DATA_KEYS = frozenset({"on_bad_row", "max_tokens"})


@click.command("train")
@project_option()
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint; start where there is none.")
@click.option("--force", is_flag=True, help="Replace what an earlier run left in the output folder.")
@click.option("--offline", is_flag=True, help="Open no connection; the base model must be there already.")
@section_options("train")
@section_options("data", leave_out=frozenset({"train", "dev", "test"}))
def command(project_file: Path | None, resume: bool, force: bool, offline: bool, **flags: Any) -> None:
    """Fine-tune the base model on the project's pairs (LoRA; QLoRA with --quantization 4bit).

    The loss is taken on the program only. Dev pairs are decoded under the grammar while training, and the best
    checkpoint becomes the adapter. A run that was stopped or killed goes on with --resume, to the same result.
    Several GPUs: accelerate launch --num-processes N -m edgedsl train
    """
    config = load_config(project_file)
    config = override(config, "data", {name: flags.pop(name) for name in _DATA_KEYS})
    config = override(config, "train", flags)

    from edgedsl.training.run import train

    train(config, resume=resume, offline=offline, force=force)
