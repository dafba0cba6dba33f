from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scripted import fake_bundle, scripted_engine, tiny_grammar, use_engine, write_rows

from edgedsl.cli import group
from edgedsl.errors import GenerationError, GrammarError
from edgedsl.evaluation.answers import answer
from edgedsl.evaluation.misses import count_classes, difference, miss_class
from edgedsl.evaluation.statistics import summary
from edgedsl.runtime.sampling import SamplingParams

# sentence -> target, what the model says under the grammar, what it says without
ROWS = {
    "kitchen to 20": ("set kitchen 20", "set kitchen 20", ""),
    "hall off": ("off hall", "off hall", "turn it off"),
    "hall to 7": ("set hall 7", "set hall 70", ""),
    "both off": ("off hall; off kitchen", "off kitchen; off hall", ""),
    "café & <b>": ("set café 100", "off café", "<script>"),
    "cut": ("set hall 1", "set kitchen 1; set kitchen 1; set kitchen 1; set kitchen 1", ""),
    "broken": ("off hall", None, ""),
}
TRAIN = [("kitchen to 20", "set kitchen 20"), ("hall off please", "off hall")]
PARAMS = SamplingParams(max_tokens=30)


class Page(HTMLParser):
    """Collects tags, text and every attribute that could reach for a network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in {"src", "href", "action", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


Evaluate = Callable[..., Result]


@pytest.fixture
def run_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    programs = {prompt: said for prompt, (_, said, _) in ROWS.items() if said is not None}
    use_engine(monkeypatch, scripted_engine(programs, {p: free for p, (_, _, free) in ROWS.items() if free}))
    fake_bundle(tmp_path / "bundle", [])
    write_rows(tmp_path / "data" / "test.jsonl", [{"prompt": p, "target": t} for p, (t, _, _) in ROWS.items()])
    write_rows(tmp_path / "data" / "train.jsonl", [{"prompt": p, "target": t} for p, t in TRAIN])
    monkeypatch.chdir(tmp_path)
    return lambda *flags: CliRunner().invoke(group, ["eval", "--max-tokens", "30", *flags])


def record_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_every_row_counts_also_the_failed_ones(run_eval: Evaluate) -> None:
    measured = record_of(run_eval("--json"))["summary"]
    assert measured["num_rows"] == 7
    assert (measured["num_errors"], measured["num_at_max_tokens"]) == (1, 1)
    assert measured["exact_match"] == pytest.approx(2 / 7, abs=1e-6)
    assert measured["parse_rate"] == pytest.approx(6 / 7, abs=1e-6)
    assert measured["latency"]["e2el_ms"]["num"] == 6
    assert sum(item["count"] for item in measured["misses"]) == 5


def test_grammar_is_compared_with_no_grammar_on_the_same_rows(run_eval: Evaluate) -> None:
    free = record_of(run_eval("--json", "--no-grammar-rows", "2"))["summary"]["no_grammar"]
    assert (free["num_rows"], free["parse_rate"], free["exact_match"]) == (2, 1.0, 0.5)
    assert (free["parse_rate_with_grammar"], free["exact_match_with_grammar"]) == (1.0, 0.5)


def test_no_grammar_can_be_skipped_and_that_is_said(run_eval: Evaluate) -> None:
    record = record_of(run_eval("--json", "--no-grammar-rows", "0"))
    assert record["summary"]["no_grammar"]["parse_rate"] is None
    assert any("--no-grammar-rows 0" in line for line in record["caveats"])
    text = run_eval("--no-grammar-rows", "0").stdout
    assert re.search(r"without the grammar \(first 0 rows\) +not measured", text)


def test_targets_of_training_are_told_apart_and_the_neighbour_answers(run_eval: Evaluate) -> None:
    measured = record_of(run_eval("--json"))["summary"]
    # Seen targets: 'kitchen to 20', 'hall off', 'broken'; of the four others none is right.
    assert measured["unseen_targets"] == {"num_rows": 4, "exact_match": 0.0}
    # The neighbour is right for these three but 'broken', whose nearest sentence may be either.
    assert measured["nearest_neighbour_exact_match"] in {round(2 / 7, 6), round(3 / 7, 6)}


def test_without_training_pairs_the_baseline_is_not_measured_and_that_is_said(
    run_eval: Evaluate, tmp_path: Path
) -> None:
    (tmp_path / "data" / "train.jsonl").unlink()
    record = record_of(run_eval("--json"))
    assert record["summary"]["nearest_neighbour_exact_match"] is None
    assert record["summary"]["unseen_targets"] == {"num_rows": None, "exact_match": None}
    assert any("data/train.jsonl" in line for line in record["caveats"])


def test_fewer_rows_are_evenly_spaced_and_that_is_said(run_eval: Evaluate) -> None:
    record = record_of(run_eval("--json", "--num-rows", "2"))
    assert record["summary"]["exact_match"] == 0.5  # the first and the fourth
    assert any("2 of 7 pairs, evenly spaced" in line for line in record["caveats"])


def test_no_answer_at_all_is_a_failure(run_eval: Evaluate, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "broken.jsonl", [{"prompt": "broken", "target": "off hall"}])
    result = run_eval("--json", "--pairs", str(pairs))
    assert isinstance(result.exception, GenerationError)
    assert "not finite" in str(result.exception)
    assert json.loads(result.stdout)["summary"]["num_errors"] == 1


def test_record_names_everything_and_holds_no_row(run_eval: Evaluate) -> None:
    record = record_of(run_eval("--json"))
    assert record["kind"] == "quality"
    assert set(record["caption"]) == {"model", "grammar", "cpu", "command"}
    assert record["machine"]["cpu_model"]
    assert len(record["bundle"]["manifest_sha256"]) == len(record["pairs"]["sha256"]) == 64
    text = json.dumps(record, ensure_ascii=False)
    assert "set kitchen 20" not in text
    assert "kitchen to 20" not in text


def test_files(run_eval: Evaluate, tmp_path: Path) -> None:
    result = run_eval("--output", "out")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"result.json", "predictions.jsonl", "report.html", "edgedsl.resolved.json"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == list(ROWS)
    assert [line["miss"] for line in lines] == [
        None, None, "wrong value of LEVEL", "wrong value of ROOM", "other structure", "at max_tokens", "error",
    ]  # fmt: skip
    assert lines[1]["no_grammar"]["prediction"].startswith("turn")
    assert "not finite" in lines[-1]["error"]
    assert json.loads((tmp_path / "out" / "edgedsl.resolved.json").read_text())["generate"]["max_tokens"] == 30


def test_page_escapes_what_it_shows_and_reaches_for_nothing(run_eval: Evaluate, tmp_path: Path) -> None:
    run_eval("--output", "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.links
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert "café & <b>" in page.text
    assert {"svg", "ins", "del"} <= set(page.tags)


def test_table_on_stdout(run_eval: Evaluate) -> None:
    result = run_eval()
    assert re.search(r"^exact match +28\.6%", result.stdout, re.MULTILINE)
    assert "7 (1 errors, 1 at max_tokens)" in result.stdout
    assert re.search(r"^miss: at max_tokens +1", result.stdout, re.MULTILINE)
    assert not result.stderr


@pytest.mark.parametrize(
    ("target", "prediction", "expected"),
    [
        ("set hall 7", "set hall 8", "wrong value of LEVEL"),
        ("set hall 7", "set kitchen 8", "wrong value of LEVEL, ROOM"),
        ("set hall 7; off kitchen", "off kitchen; set hall 7", "wrong order"),
        ("set hall 7; off kitchen", "set hall 7", "missing part"),
        ("off kitchen", "off kitchen; off hall", "extra part"),
        ("off hall", "set hall 7", "other structure"),
        ("off hall", "off  hall", "same tokens, other spacing"),
        ("off hall", "off", "does not parse"),
        ("off", "off hall", "target does not parse"),
    ],
)
def test_miss_classes(target: str, prediction: str, expected: str) -> None:
    assert miss_class(tiny_grammar(), target, prediction, finish_reason="stop") == expected


def test_a_wrong_function_is_a_wrong_keyword() -> None:
    from importlib import resources

    from edgedsl.catalogue import Catalogue, bind
    from edgedsl.grammar import Grammar

    folder = resources.files("edgedsl.grammars")
    catalogue = Catalogue.from_file(Path(str(folder / "flow.catalogue.json")))
    grammar = Grammar(bind((folder / "flow.lark").read_text(encoding="utf-8"), catalogue))
    right, wrong = 'mail.send(to: Ana, text: "hello")', 'sms.send(to: Ana, text: "hello")'
    assert miss_class(grammar, right, wrong, finish_reason="stop") == "wrong keyword"


def test_a_miss_that_was_not_finished_has_no_other_class() -> None:
    assert miss_class(tiny_grammar(), "off hall", "set hall 7", finish_reason="length") == "at max_tokens"
    assert miss_class(tiny_grammar(), "off hall", "", finish_reason=None) == "error"


def test_tokens_name_terminals_and_fixed_strings() -> None:
    tokens = tiny_grammar().tokens("set café 20; off hall")
    assert tokens == [
        ('"set"', "set"), ("ROOM", "café"), ("LEVEL", "20"), ('";"', ";"), ('"off"', "off"), ("ROOM", "hall"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "off", "off hall;", "off hall hall", "offhall!"])
def test_tokens_of_no_program(text: str) -> None:
    grammar = tiny_grammar()
    assert not grammar.accepts(text)
    with pytest.raises(GrammarError, match="does not parse"):
        grammar.tokens(text)


def test_classes_are_counted_commonest_first() -> None:
    assert count_classes(["b", "a", "c", "c"]) == [("c", 2), ("a", 1), ("b", 1)]


@given(st.text(max_size=40), st.text(max_size=40))
def test_difference_keeps_every_character(target: str, prediction: str) -> None:
    left, right = difference(target, prediction)
    assert "".join(text for text, _ in left) == target
    assert "".join(text for text, _ in right) == prediction
    assert [text for text, same in left if same] == [text for text, same in right if same]


@pytest.mark.parametrize(
    ("num", "given_percentiles"),
    [(0, ""), (1, "p50"), (19, "p50"), (20, "p50 p95"), (99, "p50 p95"), (100, "p50 p95 p99")],
)
def test_percentiles_need_samples(num: int, given_percentiles: str) -> None:
    result = summary([float(value) for value in range(num)])
    assert [name for name in ("p50", "p95", "p99") if result[name] is not None] == given_percentiles.split()
    assert result["num"] == num


def test_an_answer_has_one_gap_less_than_tokens() -> None:
    engine = scripted_engine({"hall": "set hall 7", "café": "off café"})
    done = answer(engine, "hall", PARAMS)
    assert done.error is None
    assert done.completion_tokens == len(engine.tokenizer.encode_plain("set hall 7"))
    assert len(done.itl_ms) == done.completion_tokens - 1
    assert 0 < done.ttft_ms <= done.e2el_ms <= done.elapsed_ms
    # Cut off inside of 'é' (two byte tokens), the engine gives the held-back text once more after the last token.
    num_tokens = len(engine.tokenizer.encode_plain("off caf")) + 1
    done = answer(engine, "café", SamplingParams(max_tokens=num_tokens))
    assert done.finish_reason == "length"
    assert (done.completion_tokens, len(done.itl_ms)) == (num_tokens, num_tokens - 1)


def test_an_error_is_an_answer() -> None:
    done = answer(scripted_engine({}), "hall", PARAMS)
    assert done.finish_reason is None
    assert "not finite" in (done.error or "")
    assert not done.is_exact("")
