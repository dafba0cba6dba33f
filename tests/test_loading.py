"""A bundle is opened in parts side by side; it is checked all the same."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_tokenizer

import edgedsl
from edgedsl import token_bytes
from edgedsl.bundle.manifest import open_bundle, write_manifest
from edgedsl.errors import BundleError, EngineLimitError, GrammarError, ModelError
from edgedsl.exporters.walks import most_visited
from edgedsl.grammar import Grammar, Matcher, lark_tables, lexemes
from edgedsl.runtime import loading, warm_up


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite(bundle: Path, name: str, content: str | None) -> None:
    """Change or remove a file, with a manifest that agrees."""
    manifest = open_bundle(bundle).manifest
    (bundle / "manifest.json").unlink()
    if content is None:
        (bundle / name).unlink()
        if not any((bundle / name).parent.iterdir()):
            (bundle / name).parent.rmdir()
    else:
        (bundle / name).write_text(content, encoding="utf-8")
    write_manifest(
        bundle, name=manifest.name, model=manifest.model, config=manifest.config, parity=manifest.parity,
        quality=manifest.quality, versions=manifest.versions,
    )  # fmt: skip


def test_weights_that_are_hashed_beside_the_rest_are_not_served_when_changed(bundle: Path) -> None:
    weights = bundle / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx\.data' was changed"):
        edgedsl.load(bundle, num_threads=1)
    assert gc.isenabled()


def test_what_is_parsed_is_hashed_before(bundle: Path) -> None:
    names = open_bundle(bundle).manifest.files
    assert sorted(loading.weights(names)) == ["head.onnx.data", "model.onnx.data"]
    for name in names.keys() - loading.weights(names):
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match="was changed"):
            open_bundle(bundle, leaves_weights=True)
        (bundle / name).write_bytes(content)


def test_dev_programs_may_hold_anything(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The end token, what the language has not, and what meets a limit of the engine."""
    tokenizer = tiny_tokenizer()
    end = tokenizer.encode_plain(";")[0]
    compiled = Grammar("start: WORD\nWORD: /[a-z]+/\n%ignore /;/\n", name="words").compile(tokenizer, [end])
    warm_up.warm_up(compiled, tokenizer, map(tokenizer.encode_plain, ["ab;ab", "AB", "", "a" * 1_000_000]))
    assert not caplog.records

    def fail(*_: object) -> None:
        raise EngineLimitError("a limit")

    monkeypatch.setattr(Matcher, "catch_up", fail)
    warm_up.warm_up(compiled, tokenizer, [tokenizer.encode_plain("abcde")])
    assert "the warm-up failed" in caplog.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions to the decoding engine, by name."""
    found: list[str] = []

    def noted(name: str) -> None:
        method = getattr(Matcher, name)
        monkeypatch.setattr(Matcher, name, lambda *arguments: found.append(name) or method(*arguments))

    for name in ("fill_bitmask", "count_accepted", "is_accepting"):
        noted(name)
    return found


def test_idle_work_leaves_no_question_about_the_programs_behind_those_of_a_warm_up(
    tiny_bundle: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedsl.runtime.engine.AT_START", 1)
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    assert engine.drafts and engine.drafts.neighbours
    programs = list(engine.drafts.neighbours.programs(100))
    engine.warm_up()
    asked.clear()
    assert len(list(engine.idle_work())) == len(programs) - 1 > 1
    assert asked
    asked.clear()
    for program in programs:
        warm_up.walk(engine.compiled, program, needs_masks=engine.decoder.head is not None)
    assert not asked


@pytest.mark.parametrize("exact", [False, True])
def test_a_warm_up_leaves_no_question_about_its_programs(tiny_bundle: Path, exact: bool, asked: list[str]) -> None:
    """Those of training; of dev where nothing is drafted, and so no index of the others is open."""
    engine = edgedsl.load(tiny_bundle, num_threads=1, exact=exact)
    asked.clear()
    engine.warm_up()
    assert asked
    asked.clear()
    if exact:
        programs = [engine.tokenizer.encode_plain(program) for _, program in engine.dev]
    else:
        assert engine.drafts and engine.drafts.neighbours
        programs = list(engine.drafts.neighbours.programs(warm_up.AT_START))
    assert programs
    for program in programs:
        warm_up.walk(engine.compiled, program, needs_masks=engine.decoder.head is not None)
    assert not asked


def test_a_bundle_lists_the_programs_first_that_are_worth_most_to_a_walk(tiny_bundle: Path) -> None:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    assert engine.drafts and engine.drafts.neighbours
    programs = list(engine.drafts.neighbours.programs(1000))
    assert len(programs) > 1
    chosen = most_visited(programs, engine.compiled)
    assert programs[: len(chosen)] == list(map(list, chosen))


@pytest.mark.parametrize("name", [token_bytes.FILE_NAME, lark_tables.FILE_NAME, lexemes.FILE_NAME, loading.DEV_FILE])
def test_what_can_be_worked_out_need_not_be_there(bundle: Path, tiny_bundle: Path, name: str) -> None:
    rewrite(bundle, name, None)
    answer = edgedsl.load(bundle, num_threads=1)("set the hall to 5", max_tokens=20)
    assert answer.text == edgedsl.load(tiny_bundle, num_threads=1)("set the hall to 5", max_tokens=20).text


@pytest.mark.parametrize("rows", [[{"prompt": "off"}], [{"prompt": 1, "target": "off hall"}], [[]], 5])
def test_malformed_dev_pairs_are_an_error(bundle: Path, rows: object) -> None:
    rewrite(bundle, loading.DEV_FILE, json.dumps(rows))
    with pytest.raises(BundleError, match=r"dev\.json' is malformed"):
        edgedsl.load(bundle, num_threads=1)


def test_dev_programs_that_do_not_parse_are_no_hindrance(bundle: Path) -> None:
    rewrite(bundle, loading.DEV_FILE, json.dumps([{"prompt": "sing", "target": "la la"}]))
    engine = edgedsl.load(bundle, num_threads=1)
    engine.warm_up()
    assert engine("off", max_tokens=20).finish_reason in ("stop", "length")


def test_malformed_bytes_of_tokens_are_an_error(bundle: Path) -> None:
    rewrite(bundle, token_bytes.FILE_NAME, "{}")
    with pytest.raises(ModelError, match="does not hold the bytes"):
        edgedsl.load(bundle, num_threads=1)


def test_malformed_lexemes_are_an_error(bundle: Path) -> None:
    rewrite(bundle, lexemes.FILE_NAME, "{}")
    with pytest.raises(GrammarError, match="does not hold the lexemes"):
        edgedsl.load(bundle, num_threads=1)


def test_what_others_put_out_of_the_collectors_way_stays_there(bundle: Path) -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        edgedsl.load(bundle, num_threads=1)
        assert gc.get_freeze_count() > frozen * 0.9
    finally:
        gc.unfreeze()
    edgedsl.load(bundle, num_threads=1)
    assert gc.get_freeze_count() == 0


def test_garbage_is_collected_again_after_a_load_and_left_alone_where_it_was_off(bundle: Path) -> None:
    edgedsl.load(bundle, num_threads=1)
    assert gc.isenabled()
    gc.disable()
    try:
        edgedsl.load(bundle, num_threads=1)
        assert not gc.isenabled()
    finally:
        gc.enable()
