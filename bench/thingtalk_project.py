"""The ThingTalk data set as a project folder: pairs, grammar and a catalogue of names.

Run ``python -m edgedsl.bench.thingtalk_project DATA OUT --max-rows N --real-passes M``. Names come from the data set's
catalogue of device classes and from the published signature of the built-in class, never from the training programs: a
program that uses another name is a rejected row.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.bench.command import exit_code
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import DataError, GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammars import flow_refusals

Row = dict[str, Any]

_CONFIG = """\
[project]
name = "thingtalk"
grammar = "grammar.lark"
catalogue = "catalogue.json"

[data]
train = "data/train.jsonl"
dev = "data/dev.jsonl"
"""
# ThingTalk has skills for jokes, poems, sums, news, translations and small talk; not for these.
_UNRELATED_TOPICS = frozenset({"coding", "advice", "texts"})
_ENUM = re.compile(r"Enum\(([^()]*)\)")
_ENTITY = re.compile(r"Entity\(([^()]*)\)")

# The data set knows of the built-in class only functions and some inputs. Its outputs and types are published in
# genie-toolkit (Apache-2.0), data/builtins/org.thingpedia.builtin.thingengine.builtin: manifest.tt.in, faq.yaml.
_BUILTIN_PARAMETERS = """
    altitude bearing category description duration help id issue_tracker language location message_output name random
    reply speed thingpedia_url time timezone type website
"""
_BUILTIN_ENTITY_TYPES = "tt:device tt:timezone"
_BUILTIN_ENUMS = """
    on off current home work celsius fahrenheit kelvin service media social_network communication health
    data_management about_almond_age about_almond_comparison about_almond_comparison_general
    about_almond_how_are_you about_almond_identity about_almond_interest about_almond_junk about_almond_location
    about_almond_motivation about_almond_partner about_almond_preference about_almond_registration
    about_almond_special about_almond_thingpedia about_almond_training abusive check_capability_home_assistant
    check_capability_music_platform check_capability_phone command_help general_help how_to_access_settings
    how_to_configure_skill how_to_disable_skill how_to_report_bug how_to_set_language
    how_to_show_general_examples how_to_show_home_assistant_examples how_to_train how_to_use_wakeword iot_help
    negative_emotion_empathy positive_emotion_cool positive_emotion_thanks revoke_consent
    troubleshooting_home_assistant
"""


def write_project(
    data_dir: Path, output: Path, max_rows: int | None, seed: int, real_passes: int = 0, num_refusals: int = 0
) -> None:
    """Write a project folder that ``edgedsl train`` takes: edgedsl.toml, grammar.lark, catalogue.json and data/.

    Rows that do not parse under the grammar with its catalogue go to data/rejected.jsonl with the reason.

    Args:
        data_dir: folder with catalogue.json.gz, train.jsonl.gz and dev.jsonl.gz.
        output: project folder to create.
        max_rows: training rows to sample, at least 1, spread over the programs; None takes all. Dev is always whole.
        real_passes: how often each row that people really said stands in train; with 0 they are sampled as the others.
            Half of dev is such rows, and a thirteenth of train.
        seed: of the sample.
        num_refusals: so many made-up requests that ThingTalk cannot express are added to train, half unrelated and half
            unsafe; a quarter as many, of other phrases, go to data/refusals.jsonl.

    Raises:
        DataError: a file of ``data_dir`` is missing or malformed, ``output`` is in use, ``max_rows`` is below 1, or
            there are not so many refusals.
        GrammarError: the grammar does not compile with the catalogue.
    """
    _check(output, max_rows, real_passes, num_refusals)
    train_refusals, test_refusals = (
        _refusals(part, num_refusals // n, seed) for part, n in (("train", 1), ("test", 4))
    )
    terminals = _read_terminals(data_dir / "catalogue.json.gz")
    grammar_text = resources.files("edgedsl.grammars").joinpath("thingtalk.lark").read_text(encoding="utf-8")
    catalogue = Catalogue.from_dict(terminals)
    grammar = Grammar(bind(grammar_text, catalogue), name="thingtalk", catalogue=catalogue)
    train, rejected_train = _split(
        _sample(read_rows(data_dir / "train.jsonl.gz"), max_rows, seed, real_passes), grammar, "train"
    )
    dev, rejected_dev = _split(read_rows(data_dir / "dev.jsonl.gz"), grammar, "dev")
    with atomic.staged_directory(output) as folder:
        atomic.write_text(folder / "edgedsl.toml", _CONFIG)
        atomic.write_text(folder / "grammar.lark", grammar_text)
        atomic.write_json(folder / "catalogue.json", terminals)
        _write_rows(folder / "data" / "train.jsonl", train + train_refusals)
        _write_rows(folder / "data" / "dev.jsonl", dev)
        _write_rows(folder / "data" / "rejected.jsonl", rejected_train + rejected_dev)
        if test_refusals:
            _write_rows(folder / "data" / "refusals.jsonl", test_refusals)


def catalogue_terminals(classes: Mapping[str, Any]) -> dict[str, Any]:
    """The terminals that thingtalk.lark declares, from device classes; a function binds its own inputs.

    Args:
        classes: device -> {"functions": {name -> {"params": [[direction, name, type] or name, ...]}}}. Names without a
            direction were seen in programs only; such a function's inputs are not known, and it may take any.
    """
    functions = {(device, name) for device, entry in classes.items() for name in entry["functions"]}
    parameters = [p for entry in classes.values() for f in entry["functions"].values() for p in f["params"]]
    inputs = {p if isinstance(p, str) else p[1] for p in parameters if isinstance(p, str) or p[0].startswith("in")}
    types = [p[2] for p in parameters if not isinstance(p, str)]
    return {
        "FUNCTION": {f"{device}.{name}": _binding(classes[device], name) for device, name in sorted(functions)},
        "DEVICE": {
            device: {"METHOD": {name: _binding(entry, name) for name in sorted(entry["functions"])}}
            for device, entry in sorted(classes.items())
            if entry["functions"]
        },
        "METHOD": sorted({name for _, name in functions}),
        "ARGUMENT": sorted(inputs | set(_BUILTIN_PARAMETERS.split())),
        "PARAMETER": sorted({p if isinstance(p, str) else p[1] for p in parameters} | set(_BUILTIN_PARAMETERS.split())),
        "ENUM": sorted(_inside(_ENUM, types) | set(_BUILTIN_ENUMS.split())),
        "ENTITY_TYPE": sorted(_inside(_ENTITY, types) | set(_BUILTIN_ENTITY_TYPES.split())),
    }


def _refusals(part: str, num: int, seed: int) -> list[Row]:
    kinds = {"unrelated": (num, _UNRELATED_TOPICS), "unsafe": (num + 1, None)}
    every = [
        request
        for kind, (n, topics) in kinds.items()
        for request in flow_refusals.requests(kind, part, n // 2, seed, topics)
    ]
    return [{**request.to_row(f"refusal/{part}/{n}"), "is_real": False} for n, request in enumerate(every)]


def _binding(entry: Mapping[str, Any], function: str) -> dict[str, list[str]]:
    source = entry["functions"][function]
    if source.get("from_programs"):
        return {}
    return {"ARGUMENT": sorted(p[1] for p in source["params"] if not isinstance(p, str) and p[0].startswith("in"))}


def read_rows(path: Path) -> list[Row]:
    """Rows with the fields id, prompt, target, group, is_real, and target_in_train where the source says so.

    Raises:
        DataError: missing or malformed file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_row(json.loads(line)) for line in file]
    except FileNotFoundError as exc:
        raise DataError(f"'{path}' does not exist", hint="name the thingtalk folder of the data set") from exc
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataError(f"'{path}' is not gzip'd JSON lines with id, prompt, target and group: {exc}") from exc


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the ThingTalk data set as an edgedsl project folder.")
    parser.add_argument("data", type=Path, help="folder with catalogue.json.gz, train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("output", type=Path, help="project folder to write")
    parser.add_argument("--max-rows", type=int, default=None, help="training rows to sample (default: all)")
    parser.add_argument("--real-passes", type=int, default=0, help="times that each real row stands in train")
    parser.add_argument("--refusals", type=int, default=0, help="made-up requests to refuse that are added to train")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    options = parser.parse_args(arguments)
    return exit_code(
        lambda: write_project(
            options.data, options.output, options.max_rows, options.seed, options.real_passes, options.refusals
        )
    )


def _check(output: Path, max_rows: int | None, real_passes: int, num_refusals: int) -> None:
    if num_refusals < 0:
        raise DataError(f"num_refusals is {num_refusals}, expected at least 0", hint="leave it out to add none")
    if real_passes < 0:
        raise DataError(
            f"real_passes is {real_passes}, expected at least 0", hint="leave it out to sample real rows too"
        )
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows is {max_rows}, expected at least 1", hint="leave it out to take all rows")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"'{output}' exists and is not empty", hint="name a new folder, or remove it first")


def _read_terminals(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return catalogue_terminals(json.load(file))
    except FileNotFoundError as exc:
        raise DataError(f"'{path}' does not exist", hint="name the thingtalk folder of the data set") from exc
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        raise DataError(f"'{path}' is not gzip'd JSON of device classes: {exc}") from exc


def _inside(pattern: re.Pattern[str], types: Iterable[str]) -> set[str]:
    return {item.strip() for text in types for listed in pattern.findall(text) for item in listed.split(",")}


def _row(source: Row) -> Row:
    meta = source.get("meta", {})
    row = {key: source[key] for key in ("id", "prompt", "target", "group")}
    row["is_real"] = meta.get("source") == "real"
    if "target_in_train" in meta:
        row["target_in_train"] = meta["target_in_train"]
    return row


def _sample(rows: list[Row], max_rows: int | None, seed: int, real_passes: int = 0) -> list[Row]:
    """One row of each program, then a second, and so on; of one program, what people really said comes first.

    A sixth of the programs have half of the rows, and most rows are paraphrases that workers were asked for.
    """
    always = [row for row in rows if row["is_real"]] * real_passes
    ranked = [row for row in _ranked(rows, seed) if not (real_passes and row["is_real"])]
    if max_rows is None or max_rows >= len(always) + len(ranked):
        return always + ranked if real_passes else rows
    return (always + ranked)[:max_rows]


def _ranked(rows: list[Row], seed: int) -> list[Row]:
    shuffled = random.Random(seed).sample(rows, len(rows))
    shuffled.sort(key=lambda row: not row["is_real"])
    num_seen: Counter[str] = Counter()
    ranked = []
    for row in shuffled:
        ranked.append((num_seen[row["target"]], row))
        num_seen[row["target"]] += 1
    ranked.sort(key=lambda item: item[0])
    return [row for _, row in ranked]


def _split(rows: list[Row], grammar: Grammar, part: str) -> tuple[list[Row], list[Row]]:
    accepted, rejected = [], []
    for row in rows:
        try:
            grammar.parse(row["target"])
        except GrammarError as error:
            rejected.append({**row, "part": part, "reason": str(error)})
        else:
            accepted.append(row)
    return accepted, rejected


def _write_rows(path: Path, rows: list[Row]) -> None:
    atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
