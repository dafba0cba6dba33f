"""The adapter's README.md, in the form the Hugging Face hub reads."""

from __future__ import annotations

from typing import Any


def model_card(record: dict[str, Any]) -> str:
    """Markdown of a run.json document."""
    base, metrics, data = record["base_model"], record["metrics"], record["data"]
    return f"""---
license: {base["licence"]}
base_model: {base["name"]}
library_name: peft
tags: [lora, edgedsl]
---

# {record["name"]}

A LoRA adapter of `{base["name"]}` that turns sentences into programs of one language (`grammar.lark`).
Trained with edgedsl {record["edgedsl_version"]} on {record["created"][:10]}; everything about the run is in `run.json`,
its curves in `report.html`.

| | |
| --- | --- |
| Base model | `{base["name"]}`, sha256 `{base["sha256"][:16]}...`, from {base["source"]} |
| Licence of the base model | {base["licence"]} |
| Training pairs | {data["train"]["used"]} of {data["train"]["rows"]} in `{data["train"]["file"]}` |
| Dev pairs | {data["dev"]["used"]} of {data["dev"]["rows"]} in `{data["dev"]["file"]}` |
| Rows left out | {len(record["dropped"])} (`rejected.jsonl`) |
| Exact match on dev, under the grammar | {_exact_match(metrics)} |
| Dev loss | {metrics["eval_loss"]:.4f} nats a target token |
| Steps | {metrics["steps"]}, best at {metrics["best_step"]}{", stopped early" if metrics["stopped_early"] else ""} |

The licence of the training pairs is not known to edgedsl; add it before you pass the adapter on.

## Use

    edgedsl export      # in the project folder: merge, quantise, check, write the bundle
    edgedsl generate "a sentence"

It is a standard PEFT adapter too. Prompts must be made as `prompt.json` says, with `tokenizer.json`.
"""


def _exact_match(metrics: dict[str, Any]) -> str:
    if metrics["exact_match"] is None:
        return "not measured"
    return f"{metrics['exact_match']:.1%} of {metrics['exact_match_rows']} pairs"
