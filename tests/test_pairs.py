import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import PAIRS, tiny_llama, tiny_template, tiny_tokenizer, write_language, write_pairs

from edgedsl.cli import group
from edgedsl.data import pairs as pairs_module
from edgedsl.data.baseline import NearestNeighbour
from edgedsl.data.pairs import BadRow, Pair, check_pairs, read_pairs, settle, spread
from edgedsl.errors import DataError, EdgeDSLError
from edgedsl.evaluation.metrics import exact_match, parse_rate
from edgedsl.grammar import Grammar, Matcher


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Grammar:
    folder = write_language(tmp_path_factory.mktemp("language"))
    return Grammar.from_files(folder / "grammar.lark", folder / "catalogue.json")


def pair(prompt: str, target: str, source: str = "here:1") -> Pair:
    return Pair("1", prompt, target, "", source)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_plain_and_gzipped_lines(tmp_path: Path) -> None:
    plain = write_pairs(tmp_path / "pairs.jsonl")
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + plain.read_bytes()))
    read = read_pairs(plain)
    assert [(p.prompt, p.target) for p in read] == list(PAIRS)
    assert (read[1].id, read[1].group, read[1].source) == ("0-1", "g1", f"{plain}:2")
    assert [p.target for p in read_pairs(packed)] == [p.target for p in read]
    assert read_pairs(packed)[0].source == f"{packed}:2"


def test_id_and_group_are_optional_and_other_keys_are_left_alone(tmp_path: Path) -> None:
    row = {"prompt": "a\u2028b", "target": "off hall", "meta": {"x": 1}, "group": None}
    (read,) = read_pairs(write(tmp_path / "p.jsonl", row))
    assert read == Pair("1", "a\u2028b", "off hall", "", f"{tmp_path / 'p.jsonl'}:1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a", "target": "b"}\n{"prompt": "a"}\n', "p.jsonl:2: 'target' is missing, expected a string"),
        (b'{"prompt": 3, "target": "b"}', "p.jsonl:1: 'prompt' is 3, expected a string"),
        (b"[1]", "p.jsonl:1: a JSON list, expected an object"),
        (b"{", "p.jsonl:1: not JSON"),
        (b"\n \n", "holds no pairs"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pairs(path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist") as caught:
        read_pairs(tmp_path / "no.jsonl")
    assert "in the command or under [data]" in str(caught.value.hint)
    damaged = tmp_path / "p.jsonl.gz"
    for content in (b"no gzip", gzip.compress(b'{"prompt": "a", "target": "b"}' * 9)[:-12]):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_pairs(damaged)


def test_each_bad_row_gets_its_reason(grammar: Grammar) -> None:
    rows = [
        pair("on", "set kitchen 20", "f:1"),
        pair("  ", "off hall", "f:2"),
        pair("on", "", "f:3"),
        pair("on", "set cellar 20", "f:4"),
        pair("on" * 40, "off hall", "f:5"),
        pair("on", "set kitchen", "f:6"),
    ]
    good, bad = check_pairs(rows, grammar, tiny_tokenizer(), tiny_template(), 40)
    assert [p.source for p in good] == ["f:1"]
    assert [(row.source, row.reason) for row in bad] == [
        ("f:2", "empty"),
        ("f:3", "empty"),
        ("f:4", "grammar"),
        ("f:5", "too_long"),
        ("f:6", "grammar"),
    ]
    assert "column 5" in bad[2].detail
    assert "expected at most 40" in bad[3].detail


def test_length_counts_prompt_target_and_end_token(grammar: Grammar) -> None:
    tokenizer, template = tiny_tokenizer(), tiny_template()
    one = pair("on", "off hall")
    length = len(tokenizer.encode_prompt(template, "on")) + len(tokenizer.encode_plain("off hall")) + 1
    assert check_pairs([one], grammar, tokenizer, template, length)[0] == [one]
    assert check_pairs([one], grammar, tokenizer, template, length - 1)[1][0].reason == "too_long"


def test_programs_that_only_lark_takes_are_bad(grammar: Grammar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "is_accepting", lambda self: False)
    _, bad = check_pairs([pair("on", "off hall")], grammar, tiny_tokenizer(), tiny_template(), 99)
    assert [row.reason for row in bad] == ["decoding"]


def test_refused_rows_are_listed_and_dropped_ones_are_not(tmp_path: Path) -> None:
    bad = [BadRow(f"f:{i}", "empty", "target is empty") for i in range(23)]
    with pytest.raises(DataError) as caught:
        settle(bad, "refuse")
    assert caught.value.message.startswith("23 rows cannot be used:\n  f:0: empty: target is empty\n")
    assert "f:19" in caught.value.message
    assert "f:20" not in caught.value.message
    assert caught.value.message.endswith("... and 3 more")
    assert "--on-bad-row drop" in caught.value.hint
    settle(bad, "drop")
    settle([], "refuse")


def test_rejected_lines_are_json() -> None:
    line = pairs_module.rejected_lines([BadRow("f:1", "grammar", "é")])
    assert json.loads(line) == {"source": "f:1", "reason": "grammar", "detail": "é"}


def test_nearest_neighbour_answers_with_the_closest_sentence() -> None:
    baseline = NearestNeighbour([pair(prompt, target) for prompt, target in PAIRS])
    assert [baseline.predict(prompt) for prompt, _ in PAIRS] == [target for _, target in PAIRS]
    assert baseline.predict("please switch off the hall") == "off hall"
    assert baseline.predict("0") == PAIRS[0][1]


def test_metrics(grammar: Grammar) -> None:
    assert exact_match(["a ", "b", "c  d"], ["a", "B", "c d"]) == pytest.approx(1 / 3)
    assert exact_match([], []) == 0.0
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        exact_match(["a"], ["a", "b"])
    assert parse_rate(["off hall", "off"], grammar) == 0.5
    assert parse_rate([], grammar) == 0.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tiny_llama(tmp_path / "base")
    write_language(tmp_path)
    write_pairs(tmp_path / "data" / "train.jsonl", copies=2)
    write(
        tmp_path / "data" / "dev.jsonl",
        {"prompt": PAIRS[0][0], "target": "off hall"},
        {"prompt": "x", "target": "off cellar"},
    )
    (tmp_path / "edgedsl.toml").write_text('[project]\nbase_model = "base"\n', encoding="utf-8")
    return tmp_path


def test_data_check_lists_bad_rows(project: Path) -> None:
    result = CliRunner().invoke(group, ["data", "check", "--project", str(project), "--offline"])
    assert isinstance(result.exception, EdgeDSLError)
    assert result.exception.exit_code == 5
    assert f"{project / 'data' / 'dev.jsonl'}:2: grammar: " in result.stdout
    assert "also in train   1" in result.stdout


def test_data_check_as_json(project: Path) -> None:
    arguments = ["data", "check", "--project", str(project), "--offline", "--json", "--on-bad-row", "drop"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    train, dev = json.loads(result.stdout)["splits"]
    assert (train["rows"], train["usable"], train["duplicate_prompts"], train["groups"]) == (8, 8, 4, 4)
    assert train["target_tokens"]["max"] > train["target_tokens"]["p50"] > 1
    assert (dev["usable"], dev["prompts_in_train"], dev["bad"][0]["reason"]) == (1, 1, "grammar")


@pytest.mark.parametrize(
    ("num_rows", "expected"), [(3, "036"), (4, "0257"), (10, "0123456789"), (99, "0123456789"), (0, "")]
)
def test_spread_takes_rows_from_end_to_end(num_rows: int, expected: str) -> None:
    pairs = [Pair(str(i), "say", "said", "g", f"file:{i}") for i in range(10)]
    assert "".join(pair.id for pair in spread(pairs, num_rows)) == expected
    assert spread(pairs, None) == pairs
