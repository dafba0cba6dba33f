"""grammars/thingtalk.lark in both engines, and the project folder made from the data set."""

from __future__ import annotations

import gzip
import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from byte_walks import byte_matcher, random_walk, verdict

from edgedsl.bench import thingtalk_project
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import DataError
from edgedsl.grammar import Grammar
from edgedsl.grammar.refusals import is_refusal

GRAMMARS = resources.files("edgedsl.grammars")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "thingtalk"
CASES = [json.loads(line) for line in GRAMMARS.joinpath("thingtalk.cases.jsonl").read_text("utf-8").splitlines()]
CLASSES = {
    "com.bakery": {
        "extends": [],
        "functions": {
            "bread": {"params": [["out", "price", "Currency"], ["in req", "kind", "Enum(rye, oat)"]]},
            "order": {"from_programs": True, "params": ["flour"]},
            "mill": {"params": [["out", "mills", "Array(Entity(com.bakery:mill))"]]},
        },
    },
    "com.bakery.abstract": {"extends": [], "functions": {}},
}


def load(path: Path) -> Grammar:
    return Grammar.from_files(path / "grammar.lark", path / "catalogue.json")


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    text = GRAMMARS.joinpath("thingtalk.lark").read_text("utf-8")
    names = json.loads(GRAMMARS.joinpath("thingtalk.catalogue.json").read_text("utf-8"))
    catalogue = Catalogue.from_dict(names)
    return Grammar(bind(text, catalogue), catalogue=catalogue)


@pytest.fixture(scope="module")
def first(grammar: Grammar) -> Any:
    return byte_matcher(grammar)


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_cases_agree_in_both_engines(case: dict[str, str], grammar: Grammar, first: Any) -> None:
    assert verdict(first, case["text"]) == case["kind"]
    assert grammar.accepts(case["text"]) is (case["kind"] == "accept")


def test_there_are_cases_of_every_kind() -> None:
    kinds = [case["kind"] for case in CASES]
    assert len(kinds) >= 25
    assert min(kinds.count(kind) for kind in ("accept", "reject", "incomplete")) >= 5


def test_random_walks_parse(grammar: Grammar, first: Any) -> None:
    rng = random.Random(0)
    programs = [program for _ in range(500) if (program := random_walk(first, rng, closing=b')];"', max_bytes=300))]
    assert len(programs) >= 100
    assert [program for program in programs if not grammar.accepts(program)] == []


def test_case_prefixes_are_never_refused(first: Any) -> None:
    for case in CASES:
        if case["kind"] == "accept":
            text = case["text"]
            assert [end for end in range(len(text)) if verdict(first, text[:end]) == "reject"] == []


def write_source(folder: Path, train: list[str], dev: list[str]) -> Path:
    folder.mkdir()
    (folder / "catalogue.json.gz").write_bytes(gzip.compress(json.dumps(CLASSES).encode()))
    for part, targets in (("train", train), ("dev", dev)):
        rows = [
            {
                "id": f"{part}/{number}",
                "prompt": f"sentence {number}",
                "target": target,
                "group": "com.bakery",
                "meta": {"source": "made up"} | ({"target_in_train": False} if part == "dev" else {}),
            }
            for number, target in enumerate(targets)
        ]
        (folder / f"{part}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_project_folder(tmp_path: Path) -> None:
    good = [
        "@com.bakery.bread(kind=enum rye);",
        '@com.bakery.mill() filter contains(mills, null^^com.bakery:mill("a"));',
    ]
    source = write_source(tmp_path / "source", [*good, "@com.bakery.cake();"], ["@com.bakery.order(flour=price);"])
    thingtalk_project.write_project(source, tmp_path / "project", None, 0)
    project = tmp_path / "project"
    assert [row["target"] for row in read(project / "data" / "train.jsonl")] == good
    assert set(read(project / "data" / "train.jsonl")[0]) == {"id", "prompt", "target", "group", "is_real"}
    assert read(project / "data" / "dev.jsonl")[0]["target_in_train"] is False
    (rejected,) = read(project / "data" / "rejected.jsonl")
    assert rejected["part"] == "train"
    assert "column 12" in rejected["reason"]
    assert load(project).accepts(good[0])
    assert (project / "edgedsl.toml").read_text("utf-8").startswith("[project]")


def test_refusals_can_be_added(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", ["@com.bakery.bread();"], [])
    thingtalk_project.write_project(source, tmp_path / "project", None, 0, num_refusals=41)
    train, held_out = (read(tmp_path / "project" / "data" / f"{part}.jsonl") for part in ("train", "refusals"))
    assert [len(train), len(held_out)] == [42, 10]
    grammar = load(tmp_path / "project")
    assert [is_refusal(grammar, row["target"]) for row in train] == [False] + [True] * 41
    assert {row["group"].split(":")[0] for row in held_out} == {"unrelated", "unsafe"}
    assert not {row["group"] for row in train} & {row["group"] for row in held_out}
    assert not any("poem" in row["prompt"] or "joke" in row["prompt"] for row in train)
    with pytest.raises(DataError, match="num_refusals is -1"):
        thingtalk_project.write_project(source, tmp_path / "other", None, 0, num_refusals=-1)


def test_catalogue_terminals_come_from_the_classes() -> None:
    terminals = thingtalk_project.catalogue_terminals(CLASSES)
    assert list(terminals["FUNCTION"]) == ["com.bakery.bread", "com.bakery.mill", "com.bakery.order"]
    assert list(terminals["DEVICE"]["com.bakery"]["METHOD"]) == ["bread", "mill", "order"]
    assert {"price", "kind", "flour", "mills"} <= set(terminals["PARAMETER"])
    assert {"rye", "oat"} <= set(terminals["ENUM"])
    assert "com.bakery:mill" in terminals["ENTITY_TYPE"]


def test_sample_is_seeded(tmp_path: Path) -> None:
    targets = [f"@com.bakery.bread() filter price <= {number};" for number in range(50)]
    source = write_source(tmp_path / "source", targets, [])
    samples = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        thingtalk_project.write_project(source, tmp_path / name, 10, seed)
        samples.append([row["target"] for row in read(tmp_path / name / "data" / "train.jsonl")])
    assert samples[0] == samples[1] != samples[2]
    assert len(set(samples[0])) == 10


@pytest.mark.parametrize("seed", range(4))
def test_sample_takes_every_program_before_a_second_row_of_one(seed: int) -> None:
    rows = [{"id": str(n), "target": target, "is_real": n == 5} for n, target in enumerate("AAAABBC")]
    sample = thingtalk_project._sample(rows, 3, seed)
    assert sorted(row["target"] for row in sample) == ["A", "B", "C"]
    assert next(row["id"] for row in sample if row["target"] == "B") == "5"
    assert sorted(row["target"] for row in thingtalk_project._sample(rows, 5, seed)) == ["A", "A", "B", "B", "C"]
    assert thingtalk_project._sample(rows, 7, seed) == rows


def test_real_rows_can_stand_several_times() -> None:
    rows = [{"id": str(n), "target": target, "is_real": n == 5} for n, target in enumerate("AAAABBC")]
    sample = thingtalk_project._sample(rows, 5, 0, real_passes=2)
    assert [row["id"] for row in sample[:2]] == ["5", "5"]
    assert sorted(row["target"] for row in sample[2:]) == ["A", "A", "C"]
    assert len(thingtalk_project._sample(rows, None, 0, real_passes=2)) == 8
    with pytest.raises(DataError, match="real_passes is -1"):
        thingtalk_project.write_project(Path("nowhere"), Path("project"), None, 0, real_passes=-1)


@pytest.mark.parametrize("name", ["catalogue.json.gz", "train.jsonl.gz", "dev.jsonl.gz"])
@pytest.mark.parametrize(
    "content",
    [None, b"not gzip", gzip.compress(b"[1]\n"), gzip.compress(b'{"a"')],
    ids=["missing", "not gzip", "wrong shape", "not JSON"],
)
def test_bad_source_is_a_data_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    source = write_source(tmp_path / "source", ["@com.bakery.bread();"], [])
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        thingtalk_project.write_project(source, tmp_path / "project", None, 0)
    assert not (tmp_path / "project").exists()


def test_a_project_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source", ["@com.bakery.bread();"], [])
    project = tmp_path / "project"
    arguments = [str(source), str(project), "--max-rows", "1"]
    assert thingtalk_project.main(arguments) == 0
    (project / "adapter").mkdir()
    assert thingtalk_project.main(arguments) == DataError.exit_code
    assert "is not empty" in capsys.readouterr().err
    assert (project / "adapter").is_dir()
    assert thingtalk_project.main([str(source), str(tmp_path / "other"), "--max-rows", "0"]) == DataError.exit_code


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared ThingTalk data is not on this machine")
def test_shared_sample_in_both_engines(tmp_path: Path) -> None:
    thingtalk_project.write_project(SHARED, tmp_path / "project", 2000, 0)
    train = read(tmp_path / "project" / "data" / "train.jsonl")
    assert len(train) >= 0.995 * 2000
    first = byte_matcher(load(tmp_path / "project"))
    targets = sorted({row["target"] for row in train})
    assert [target for target in targets if verdict(first, target) != "accept"] == []
