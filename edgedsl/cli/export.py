"""``edgedsl export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option, project_option, section_options


@click.command("export")
@project_option()
@section_options("export")
@click.option("--offline", is_flag=True, help="Never download; a base model that is missing is an error.")
@json_option("Print parity and quality of each hop as one JSON object.")
def command(project_file: Path | None, offline: bool, as_json: bool, **flags: Any) -> None:
    """Merge the adapter, export to ONNX, quantise, check each hop, and write the bundle.

    Each hop (adapter, merged, onnx, quantized) is compared with the one before it: difference of the logits,
    agreement of the likeliest token with near-ties counted apart, exact match on the dev pairs. When the quantised
    model keeps less than --gate of the adapter's exact match, no bundle is written and an older one stays as it is.
    With --smoke the folder gets the ending -smoke.

    Recipes for --quantize; in those of 4 bits the embedding and the head have 8:

    \b
      w4a8         weights of 4 bits by GPTQ, activations of 8, our own operators: Linux on x86-64 with AVX2
      w8a8         weights and activations of 8 bits, products of integers
      int8         weights of 8 bits, a scale for each 32
      int4         weights of 4 bits, a scale for each 32, rounded by GPTQ
      int4-kquant  the same, scales searched by what the training pairs use
      int4-hqq     the same, by half-quadratic quantization, no pairs needed
      int4-rtn     the same, rounded to the nearest
      int4-mixed   int4, first and last layer with 8 bits
      int4-128     int4, a scale for each 128: faster, less exact
      none         fp32
      fp16, bf16   half precision, for CUDA
      int4-fp16    weights of 4 bits by GPTQ, the rest fp16, for CUDA

    auto compares those that differ in rounding only (int4 to int4-rtn) by how often their likeliest token is that of
    fp32, measures exact match and speed of the rest and of the closest of these, and takes the fastest inside --gate.
    What it left is in manifest.json and in eval/recipes.html.

    A program cannot hold every token of the model. Where it can hold less than four fifths of them, the others are left
    out of the head, the largest matrix of a small model (--trim-head); the export says how many.
    """
    from edgedsl.config import load_config, override
    from edgedsl.exporters.pipeline import export, read_report

    config = override(load_config(project_file), "export", flags)
    output = export(config, offline=offline, say=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"bundle": str(output), **read_report(output)}))
    else:
        click.echo(f"wrote {output}")
