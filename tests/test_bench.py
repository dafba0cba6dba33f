from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted import fake_bundle, scripted_engine, use_engine, write_rows
from test_evaluation import Page

from edgedsl import charts
from edgedsl.bench import table
from edgedsl.bench.memory import memory_now
from edgedsl.bench.prompts import Prompt, bundled_prompts, read_prompts
from edgedsl.cli import group
from edgedsl.errors import DataError, GenerationError
from edgedsl.evaluation import record as record_module
from edgedsl.runtime.engine import Engine

PROGRAMS = {"kitchen to 20": "set kitchen 20", "hall off": "off hall", "long": "off hall" + "; off hall" * 9}
DEV = [
    {"prompt": "kitchen to 20", "target": "set kitchen 20"},
    {"prompt": "hall off", "target": "off kitchen"},
    {"prompt": "long", "target": "off hall"},
    {"prompt": "broken", "target": "off hall"},
]
Bench = Callable[..., Result]


@pytest.fixture
def engine() -> Engine:
    return scripted_engine(PROGRAMS)


@pytest.fixture
def run_bench(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    use_engine(monkeypatch, engine)
    fake_bundle(tmp_path / "bundle", DEV)
    monkeypatch.chdir(tmp_path)
    return lambda *flags: CliRunner().invoke(group, ["bench", "--max-tokens", "30", *flags])


def record_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


def test_failures_stand_beside_the_speed(run_bench: Bench) -> None:
    record = record_of(run_bench("--json"))
    measured = record["summary"]
    assert (measured["num_prompts"], measured["num_errors"], measured["num_at_max_tokens"]) == (4, 1, 1)
    assert (measured["exact_match"], measured["parse_rate"]) == (0.25, 0.75)
    assert measured["latency"]["e2el_ms"]["num"] == 3
    assert measured["output_throughput"] > measured["programs_per_s"] > 0
    row = record["rows"][0]
    assert (row["errors"], row["at_max_tokens"], row["answers"]) == (1, 1, 4)


def test_throughput_follows_from_the_answers(run_bench: Bench, tmp_path: Path) -> None:
    run_bench("--output", "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    tokens = [item["completion_tokens"] for item in result["answers"]]
    assert result["summary"]["tokens_per_answer"] == pytest.approx(sum(tokens) / 3, abs=1e-5)
    elapsed_s = sum(item["e2el_ms"] for item in result["answers"]) / 1000
    # Failed sentences cost time too, so the rate is below that of the answers alone.
    assert result["summary"]["output_throughput"] <= 1.001 * sum(tokens) / elapsed_s


def test_warm_up_is_not_measured(run_bench: Bench, engine: Engine) -> None:
    record = record_of(run_bench("--json", "--num-warmup", "3", "--num-prompts", "2"))
    decoded = engine.decoder.sentences  # type: ignore[attr-defined]
    # Two sentences are left to warm up with; the third warm-up takes the first of them again.
    assert decoded == ["long", "broken", "long", "kitchen to 20", "hall off"]
    assert record["summary"]["num_prompts"] == 2
    assert record["summary"]["load"]["first_answer_ms"] > 0
    assert "3 warm-up answers are excluded." in record["caveats"]


def test_too_few_sentences_are_said(run_bench: Bench) -> None:
    record = record_of(run_bench("--json", "--num-prompts", "50"))
    assert "50 sentences were asked for, there are 4." in record["caveats"]
    assert any("too few for p95 and p99" in line for line in record["caveats"])
    assert record["summary"]["latency"]["e2el_ms"]["p95"] is None


def test_p99_from_a_hundred(run_bench: Bench, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "hall off"}] * 100)
    record = record_of(run_bench("--json", "--prompts", str(prompts), "--num-prompts", "100", "--num-warmup", "0"))
    latency = record["summary"]["latency"]["e2el_ms"]
    assert latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert record["summary"]["exact_match"] is None
    assert not any("too few" in line for line in record["caveats"])


def test_text_then_one_json_line(run_bench: Bench) -> None:
    result = run_bench()
    lines = result.stdout.splitlines()
    assert lines[0].startswith("note: Single stream")
    assert record_of(result)["kind"] == "latency"
    assert not any(line.startswith("{") for line in lines[:-1])
    header = next(line for line in lines if line.startswith("ms "))
    assert header.split() == ["ms", "mean", "p50", "p95", "p99", "max"]
    assert len(run_bench("--json").stdout.splitlines()) == 1


def test_files_hold_no_sentence_and_no_program(run_bench: Bench, tmp_path: Path) -> None:
    result = run_bench("--output", "out")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"result.json", "report.html", "edgedsl.resolved.json"}
    for path in out.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "hall" not in text
        assert str(tmp_path) not in text
    assert json.loads((out / "edgedsl.resolved.json").read_text())["bench"]["output"] == "out"


def test_page_has_its_drawings_and_reaches_for_nothing(run_bench: Bench, tmp_path: Path) -> None:
    run_bench("--output", "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("svg") == 3
    assert not page.links
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "Single stream" in page.text


def test_no_answer_at_all_is_a_failure(run_bench: Bench, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "broken"}])
    result = run_bench("--prompts", str(prompts), "--output", "out")
    assert isinstance(result.exception, GenerationError)
    assert json.loads(result.stdout.splitlines()[-1])["summary"]["output_throughput"] == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_real_bundle_end_to_end(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--bundle", str(tiny_bundle), "--max-tokens", "16", "--num-threads", "1", "--json"]
    record = record_of(CliRunner().invoke(group, ["bench", *flags]))
    assert record["runtime"].pop("nodes").keys() == {"CPUExecutionProvider"}
    assert record["runtime"] == {"execution_provider": "CPUExecutionProvider", "num_threads": 1, "is_spinning": False}
    assert record["summary"]["num_prompts"] == 4
    assert record["summary"]["load"]["load_ms"] >= record["summary"]["load"]["verify_again_ms"] * 0.1 > 0
    assert record["summary"]["memory"]["at_end"]["peak"] >= record["summary"]["memory"]["after_load"]["rss"]
    assert record["bundle"]["quantization"] == "w8a8"
    pairs = write_rows(tmp_path / "pairs.jsonl", DEV)
    result = CliRunner().invoke(group, ["eval", *flags, "--pairs", str(pairs)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["summary"]["num_rows"] == 4


def test_prompts_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b", "id": 1}\n\n{"prompt": "c", "target": "d"}\n', encoding="utf-8")
    assert read_prompts(path) == [Prompt("a\u2028b", None), Prompt("c", "d")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", 'no string "prompt"'),
        ("{", "not JSON"),
        ('{"prompt": 1}', 'no string "prompt"'),
        ('{"prompt": "a", "target": 2}', '"target" is 2'),
        ("", "holds no sentences"),
    ],
)
def test_bad_prompts_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(("\n" if line else "") + line, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(path)
    assert str(path) + (":2" if line else "") in str(caught.value)


def test_bundle_without_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist") as caught:
        bundled_prompts(tmp_path)
    assert "--prompts" in caught.value.hint


def test_memory_is_in_bytes_and_the_peak_is_the_most() -> None:
    before = memory_now()
    block = bytearray(b"x" * (64 << 20))
    during = memory_now()
    del block
    assert before["rss"]
    assert during["rss"]
    assert during["rss"] - before["rss"] > 32 << 20
    assert (memory_now()["peak"] or 0) >= during["rss"] > 64 << 20


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "available_cores", lambda: 2)
    assert record_module.busy_caveat(1.0) == []
    assert record_module.busy_caveat(None) == []
    assert "load average 1.1 on 2 cores" in record_module.busy_caveat(1.1)[0]


def test_charts_take_extremes() -> None:
    assert "NaN" not in charts.histogram([0.0], x_name="ms") + charts.line_chart([("a", [(0, 0)])])
    assert charts.bar_chart([("a<b", 2)]).count("a&lt;b") == 1


HEADLINE, HEADLINE_END = table.markers("headline")
GOALS, GOALS_END = table.markers("goals")
START, END = table.markers("bench")
GRAMMARS, GRAMMARS_END = table.markers("by-grammar")


def result_file(folder: Path, name: str = "speed_box-2c_202611.json", **changes: Any) -> Path:
    document = {
        "schema": 1,
        "kind": "latency",
        "title": "Speed",
        "caption": {"model": "m, int8", "grammar": "g", "cpu": "c|d", "command": "edgedsl bench"},
        "caveats": ["Single stream."],
        "rows": [{"recipe": "int8", "exact_match": 0.125, "e2el_ms_p50": 66.04, "e2el_ms_p95": None, "rows": 2913}],
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder / name


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(
        f"{HEADLINE}\nold\n{HEADLINE_END}\ntop\n{GOALS}\nold\n{GOALS_END}\n{START}\nold\n{END}\nend\n",
        encoding="utf-8",
    )
    (tmp_path / "goals.toml").write_text("goal = []", encoding="utf-8")
    (tmp_path / "bench.md").write_text(f"{GRAMMARS}\nold\n{GRAMMARS_END}\n", encoding="utf-8")
    (tmp_path / "results").mkdir()
    return tmp_path


def run_table(repository: Path, *flags: str) -> int:
    files = ["--readme", str(repository / "README.md"), "--bench-readme", str(repository / "bench.md")]
    files += ["--goals", str(repository / "goals.toml")]
    return table.main([*files, "--results", str(repository / "results"), *flags])


def test_tables_go_between_the_markers(repository: Path) -> None:
    result_file(repository / "results")
    rows = [{"bundle": "flow", "exact_match": 0.9, "parse_rate": 1.0}]
    result_file(
        repository / "results", "match_box-2c_202611.json", kind="quality", title="Match", caveats=[], rows=rows
    )
    assert run_table(repository, "--check") == 5
    assert run_table(repository) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert f"| flow | m, int8 | - | 90.0% | - | 100.0% | - | - |\n{HEADLINE_END}\ntop\n{GOALS}\n" in text
    assert f"{GOALS_END}\n{START}\n**Match.**" in text
    assert text.endswith(f"{END}\nend\n")
    assert "old" not in text
    assert "Model m, int8; grammar g; c\\|d; `edgedsl bench`." in text
    assert "| int8 | 12.5% | 66.0 | - | 2,913 |" in text
    assert "- Single stream." in text
    assert text.index("**Match.**") < text.index("**Speed.**")
    assert run_table(repository, "--check") == 0


def test_what_is_told_by_grammar_goes_into_the_other_file(repository: Path) -> None:
    rows = [{"grammar": "flow", "mask_us_p50": 1234.5, "mask_us_max": 45.678}]
    result_file(repository / "results", by_grammar=rows)
    assert run_table(repository) == 0
    text = (repository / "bench.md").read_text(encoding="utf-8")
    assert text.startswith(f"{GRAMMARS}\n**Speed, by grammar.** [speed_box-2c_202611.json](results/speed_box")
    assert "| flow | 1,234 | 45.7 |" in text
    assert "| flow |" not in (repository / "README.md").read_text(encoding="utf-8")
    assert run_table(repository, "--check") == 0
    (repository / "bench.md").write_text(text.replace("45.7", "45.6"), encoding="utf-8")
    assert run_table(repository, "--check") == 5


def test_no_results_leave_the_markers(repository: Path) -> None:
    assert run_table(repository) == 0
    assert (repository / "README.md").read_text(encoding="utf-8") == (
        f"{HEADLINE}\n{HEADLINE_END}\ntop\n{GOALS}\n{GOALS_END}\n{START}\n{END}\nend\n"
    )


@pytest.mark.parametrize("text", ["", f"{END} {START}", f"{START}{END}{START}"])
def test_markers_must_be_there_once(repository: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{HEADLINE}{HEADLINE_END}{GOALS}{GOALS_END}{text}"
    (repository / "README.md").write_text(text, encoding="utf-8")
    assert run_table(repository) == 5
    assert START in capsys.readouterr().err
    assert (repository / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"kind": "size"}, "kind is 'size'"),
        ({"title": ""}, "title"),
        ({"caption": {"model": "m", "grammar": "g", "cpu": "c"}}, "command"),
        ({"rows": []}, "rows"),
        ({"rows": [{"a": 1}, {"b": 1}]}, "different columns"),
        ({"rows": [{"a": [1]}]}, "a cell holds"),
        ({"by_grammar": []}, "by_grammar is not"),
    ],
)
def test_results_of_another_shape_are_refused(repository: Path, changes: dict[str, Any], message: str) -> None:
    path = result_file(repository / "results", **changes)
    with pytest.raises(DataError, match=message) as caught:
        table.read_result(path)
    assert path.name in str(caught.value)


def test_results_of_another_name_are_refused(repository: Path) -> None:
    with pytest.raises(DataError, match="yyyymm"):
        table.read_result(result_file(repository / "results", "speed.json"))


def test_what_bench_and_eval_write_is_a_result(run_bench: Bench, tmp_path: Path) -> None:
    run_bench("--output", "out")
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    path = result_file(tmp_path / "results", **content)
    assert table.read_result(path)["kind"] == "latency"
    assert "| first token, ms |" in table.render(tmp_path / "results")


def test_readmes_of_the_repository_are_current() -> None:
    root = Path(__file__).parents[1]
    described = (root / "bench" / "README.md").read_text(encoding="utf-8")
    assert table.current_by_grammar(described, root / "bench" / "results") == described
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert table.current(readme, root / "bench" / "results", root / "bench" / "goals.toml") == readme
