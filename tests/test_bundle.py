"""The bundle folder: manifest, verification, external data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from onnx import TensorProto, helper, numpy_helper

from edgedsl.bundle import external_data, schema
from edgedsl.bundle.manifest import Manifest, ModelInfo, open_bundle, verify, write_manifest
from edgedsl.bundle.names import MANIFEST, check_names
from edgedsl.bundle.schema import parse_manifest
from edgedsl.cli import group
from edgedsl.errors import BundleError

MODEL = ModelInfo(
    architecture="llama", base_model="smollm2-135m", base_sha256="a" * 64, adapter_sha256="", num_layers=2,
    num_kv_heads=1, head_dim=8, vocab_size=300, context_length=64, kv_layout="shared", quantization="int8",
)  # fmt: skip
FIELDS: dict[str, Any] = {
    "config": {"export": {"quantize": "int8", "gate": 0.97}},
    "parity": {"merged": {"max_abs_diff": 1e-05}, "quantised": {"agreement": 0.99, "rows": 100}},
    "quality": {"adapter": {"exact_match": 0.5}, "quantised": {"exact_match": 0.49, "parse_rate": 1.0}},
    "versions": {"onnxruntime": "1.31.1"},
}


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def make_model(tensor: TensorProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "g", [x], [y], initializer=[tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(make_model(external("model.onnx.data")).SerializeToString())
    (folder / "model.onnx.data").write_bytes(np.ones(4, np.float32).tobytes())
    for name, text in (
        ("tokenizer.json", "{}"),
        ("prompt.json", "{}"),
        ("grammar.lark", 'start: "a"'),
        ("eval/dev.json", "[]"),
        ("licences/LICENSE", "Apache-2.0"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def make_bundle(folder: Path) -> Path:
    write_manifest(write_files(folder), name="demo", model=MODEL, **FIELDS)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def sealed(document: dict[str, Any]) -> bytes:
    """manifest.json with the digest that fits, so that the other checks are reached."""
    rest = {key: value for key, value in document.items() if key != "manifest_sha256"}
    return json.dumps({**rest, "manifest_sha256": schema._digest_of(rest)}).encode()


def document(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / MANIFEST).read_bytes())
    return found


# writing and opening


def test_write_then_open(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.model == MODEL
    assert opened.manifest.to_dict() == {k: v for k, v in document(bundle).items() if k != "manifest_sha256"}
    assert set(opened.manifest.files) == {
        "model.onnx", "model.onnx.data", "tokenizer.json", "prompt.json", "grammar.lark", "eval/dev.json",
        "licences/LICENSE",
    }  # fmt: skip
    assert opened.file("eval/dev.json").read_text() == "[]"
    with pytest.raises(BundleError, match=r"no file 'catalogue\.json'"):
        opened.file("catalogue.json")


def test_values_are_stored_as_a_reader_gets_them(tmp_path: Path) -> None:
    fields = {**FIELDS, "config": {"tuple": (1, 2), "keys": {10: "a", 9: "b"}}}
    write_manifest(write_files(tmp_path), name="demo", model=MODEL, **fields)
    assert verify(tmp_path).config == {"tuple": [1, 2], "keys": {"10": "a", "9": "b"}}


def test_a_linked_root_is_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert open_bundle(tmp_path / "current").path == bundle


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": {"merged": {"exact_match": float("nan")}}}, "not JSON"),
        ({"name": "two\nlines"}, "name is"),
        ({"config": {"text": "\ud800"}}, "not JSON"),
        ({"parity": {"merged": 1.0}}, "parity is"),
    ],
)
def test_write_refuses_bad_values(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = {"name": "demo", "model": MODEL, **FIELDS, **changes}
    with pytest.raises(BundleError, match=message):
        write_manifest(write_files(tmp_path), **arguments)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    "name", ["run.py", "lib.so", "weights.pkl", "model.bin", ".hidden.json", "model.onnx_data", "-x.json"]
)
def test_write_refuses_kinds_of_files(tmp_path: Path, name: str) -> None:
    (write_files(tmp_path) / name).write_text("x")
    with pytest.raises(BundleError, match=name):
        write_manifest(tmp_path, name="demo", model=MODEL, **FIELDS)


def test_write_needs_the_model(tmp_path: Path) -> None:
    (write_files(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        write_manifest(tmp_path, name="demo", model=MODEL, **FIELDS)


# damage


def test_any_flipped_bit_is_found(bundle: Path) -> None:
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for position in (0, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(BundleError, match=path.relative_to(bundle).as_posix()):
                verify(bundle)
        path.write_bytes(content)
    verify(bundle)


def test_every_byte_of_the_manifest_counts(bundle: Path) -> None:
    content = (bundle / MANIFEST).read_bytes()
    whole = parse_manifest(content)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        try:
            found = parse_manifest(bytes(damaged))
        except BundleError:
            continue
        assert found == whole  # "1e-05" and "1E-05" are one number


def resized(bundle: Path) -> None:
    (bundle / "model.onnx.data").write_bytes(b"xx")


def missing(bundle: Path) -> None:
    (bundle / "eval/dev.json").unlink()


def unlisted(bundle: Path) -> None:
    (bundle / "extra.json").write_text("{}")


def unlisted_folder(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()


def linked(bundle: Path) -> None:
    target = bundle.parent / "elsewhere"
    (bundle / "tokenizer.json").rename(target)
    (bundle / "tokenizer.json").symlink_to(target)


def hard_linked(bundle: Path) -> None:
    os.link(bundle / "tokenizer.json", bundle.parent / "elsewhere")


def linked_folder(bundle: Path) -> None:
    (bundle / "eval").rename(bundle.parent / "eval")
    (bundle / "eval").symlink_to(bundle.parent / "eval")


def pipe(bundle: Path) -> None:
    (bundle / "prompt.json").unlink()
    os.mkfifo(bundle / "prompt.json")


def pipe_for_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)


def no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()


def huge_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(b" " * (schema.MAX_MANIFEST_BYTES + 1))


def nothing(bundle: Path) -> None:
    shutil.rmtree(bundle)


def a_file(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("x")


def not_utf8_name(bundle: Path) -> None:
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff.json")).write_text("x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (resized, "file 'model.onnx.data' has 2 bytes, expected 16"),
        (missing, "file 'eval/dev.json' is missing"),
        (unlisted, "'extra.json' is not listed"),
        (unlisted_folder, "'__pycache__' is not listed"),
        (linked, "'tokenizer.json' is a symbolic link"),
        (hard_linked, "'tokenizer.json' has 2 hard links"),
        (linked_folder, "'eval' is a symbolic link"),
        (pipe, "'prompt.json' is neither file nor folder"),
        (pipe_for_manifest, "'manifest.json' is neither file nor folder"),
        (no_manifest, "is not a bundle: it has no manifest.json"),
        (huge_manifest, "is larger than"),
        (nothing, "does not exist"),
        (a_file, "is a file, expected a bundle folder"),
        (not_utf8_name, r"'\udcff.json' is not listed"),
    ],
)
@pytest.mark.parametrize("is_verified", [True, False])
def test_damage(bundle: Path, damage: Callable[[Path], None], message: str, is_verified: bool) -> None:
    damage(bundle)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle, verify=is_verified)
    assert message in caught.value.message
    assert str(bundle) in caught.value.message or "manifest.json" in caught.value.message
    assert caught.value.hint


def test_without_verify_only_hashes_are_skipped(bundle: Path) -> None:
    (bundle / "prompt.json").write_text("[]")
    open_bundle(bundle, verify=False)
    with pytest.raises(BundleError, match=r"prompt\.json"):
        open_bundle(bundle)


# names


@pytest.mark.parametrize(
    "names",
    [
        ["../a.json"], ["a/../b.json"], ["/etc/a.json"], ["a//b.json"], ["./a.json"], ["a\\b.json"], ["a.json\n"], [""],
        ["a\0.json"], ["ü.json"], ["a/b/c/d/e.json"], ["a" * 96 + ".json"], ["manifest.json"], ["Manifest.JSON"],
        ["a.json", "A.json"], ["a.json", "a.json/b.json"], ["eval/a.json", "Eval/b.json"],
        ["LICENSE.so"], ["LICENSE/x"],
    ],
)  # fmt: skip
def test_bad_names(names: list[str]) -> None:
    with pytest.raises(BundleError):
        check_names(names)


def test_good_names() -> None:
    check_names(["model.onnx", "a/b/c/d.json", "licences/LICENSE-Apache_2", "NOTICE", "README.md", "a" * 95 + ".json"])


# manifest.json


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        *parents, last = path.split("|")
        for key in parents:
            document = document[key]
        if value is ...:
            del document[last]
        else:
            document[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("schema_version", 2, "schema_version is 2, this edgedsl reads 1"),
        ("schema_version", True, "schema_version"),
        ("schema_version", "1", "schema_version"),
        ("author", "me", "author"),
        ("config", ..., "config"),
        ("created", "2026-13-01T00:00:00Z", "created"),
        ("created", "2026-11-21T00:00:00+01:00", "created"),
        ("name", "", "name"),
        ("name", "\x1b[31mred", "name"),
        ("files", [], "files"),
        ("files|model.onnx", ..., "model.onnx"),
        ("files|model.onnx|size", -1, "files['model.onnx'].size"),
        ("files|model.onnx|size", 1.0, "files['model.onnx'].size"),
        ("files|model.onnx|size", 2**70, "files['model.onnx'].size"),
        ("files|model.onnx|sha256", "A" * 64, "files['model.onnx'].sha256"),
        ("files|model.onnx|mode", 1, "files['model.onnx'].mode"),
        ("files|../x.json", {"sha256": "a" * 64, "size": 1}, "../x.json"),
        ("files|big.data", {"sha256": "a" * 64, "size": schema.MAX_BYTES}, "bytes, expected at most"),
        ("files|model.onnx", 3, "files['model.onnx']"),
        ("model|num_layers", 0, "model.num_layers"),
        ("model|num_layers", True, "model.num_layers"),
        ("model|num_head_tokens", -1, "model.num_head_tokens"),
        ("model|kv_layout", ["shared"], "model.kv_layout"),
        ("model|kv_dtype", "int8", "model.kv_dtype"),
        ("model|kv_dtype", None, "model.kv_dtype"),
        ("model|quantization", ..., "model.quantization"),
        ("model|base_sha256", "12", "model.base_sha256"),
        ("model|extra", 1, "model.extra"),
        ("parity", {"merged": 1}, "parity"),
        ("quality", {"\x1b": {}}, "quality"),
        ("versions", {"onnx": 1}, "versions"),
    ],
)
def test_strict_manifest(bundle: Path, path: str, value: Any, key: str) -> None:
    found = document(bundle)
    edit(path, value)(found)
    with pytest.raises(BundleError) as caught:
        parse_manifest(sealed(found))
    assert key in caught.value.message


def test_a_manifest_from_before_the_type_of_the_cache_is_read(bundle: Path) -> None:
    found = document(bundle)
    assert found["model"].pop("kv_dtype") == "float32"
    assert parse_manifest(sealed(found)).model.kv_dtype == "float32"
    found["model"]["kv_dtype"] = "bfloat16"
    assert parse_manifest(sealed(found)).model.kv_dtype == "bfloat16"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"\xef\xbb\xbf{}", b"[]", b"null", b"{", b'{"a":1,"a":1}', b"[" * 100_000, b"1" * 5000,
        b'{"schema_version":' + b"1" * 4000 + b"}", b"{}",
    ],
)  # fmt: skip
def test_not_a_manifest(content: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(content)


def test_numbers_that_are_not_finite(bundle: Path) -> None:
    content = (bundle / MANIFEST).read_bytes()
    for number in (b"NaN", b"1e999", b"-Infinity"):
        with pytest.raises(BundleError, match="not JSON"):
            parse_manifest(content.replace(b"0.97", number))


def test_a_key_twice(bundle: Path) -> None:
    content = (bundle / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="a key occurs twice"):
        parse_manifest(content.replace(b"{", b'{"name": "other",', 1))


def test_a_thousand_files_are_enough(bundle: Path) -> None:
    found = document(bundle)
    found["files"] |= {f"{i}.txt": {"sha256": "a" * 64, "size": 0} for i in range(schema.MAX_FILES)}
    with pytest.raises(BundleError, match="at most 1000"):
        parse_manifest(sealed(found))


def test_edited_manifest_is_found(bundle: Path) -> None:
    found = document(bundle)
    found["quality"]["quantised"]["exact_match"] = 0.9
    with pytest.raises(BundleError, match="changed after it was written"):
        parse_manifest(json.dumps(found).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(node: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, (*prefix, key))


with tempfile.TemporaryDirectory() as _folder:
    TEMPLATE = (make_bundle(Path(_folder) / "bundle") / MANIFEST).read_bytes()


@settings(deadline=None)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_fuzz_documents(content: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(content)


@settings(deadline=None)
@given(data=st.data())
def test_fuzz_values(data: st.DataObject) -> None:
    """One value anywhere in a good manifest becomes any JSON: refused, or read and written back the same."""
    found = json.loads(TEMPLATE)
    *parents, last = data.draw(st.sampled_from([path for path in paths(found) if path]))
    node = found
    for key in parents:
        node = node[key]
    node[data.draw(st.sampled_from([last, "x.json"]))] = data.draw(JSON)
    try:
        content = sealed(found)
    except BundleError:
        return
    try:
        manifest = parse_manifest(content)
    except BundleError:
        return
    assert isinstance(manifest, Manifest)
    assert parse_manifest(manifest.to_json()) == manifest


# external data


def test_walker_knows_every_way_to_a_tensor() -> None:
    messages = dict(onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name)
    leads = {"TensorProto"}
    edges = {
        name: {item.number: item.message_type.name for item in message.fields if item.message_type}
        for name, message in messages.items()
    }
    while grown := {name for name, fields in edges.items() if leads & set(fields.values())} - leads:
        leads |= grown
    leads.discard("TensorAnnotation")
    reachable = {name: {number: to for number, to in edges[name].items() if to in leads} for name in leads}
    assert {**reachable, "TensorProto": {13: "StringStringEntryProto"}} == external_data._INSIDE


def in_initializer(location: str) -> onnx.ModelProto:
    return make_model(external(location))


def with_node(**attributes: Any) -> onnx.ModelProto:
    model = make_model(numpy_helper.from_array(np.ones(4, np.float32), "weight"))
    model.graph.node.append(helper.make_node("Any", [], ["z"], **attributes))
    return model


def in_constant(location: str) -> onnx.ModelProto:
    return with_node(value=external(location))


def in_tensors(location: str) -> onnx.ModelProto:
    return with_node(values=[external("model.onnx.data"), external(location)])


def in_subgraph(location: str) -> onnx.ModelProto:
    return with_node(then_branch=in_initializer(location).graph)


def in_subgraphs(location: str) -> onnx.ModelProto:
    return with_node(branches=[in_constant(location).graph])


def in_function(location: str) -> onnx.ModelProto:
    model = with_node()
    node = helper.make_node("Constant", [], ["z"], value=external(location))
    model.functions.append(helper.make_function("own", "F", [], ["z"], [node], [helper.make_opsetid("", 17)]))
    return model


def in_sparse(location: str) -> onnx.ModelProto:
    model = with_node()
    model.graph.sparse_initializer.add().indices.CopyFrom(external(location))
    return model


def in_training(location: str) -> onnx.ModelProto:
    model = with_node()
    model.training_info.add().algorithm.CopyFrom(in_initializer(location).graph)
    return model


PLACES = [in_initializer, in_constant, in_tensors, in_subgraph, in_subgraphs, in_function, in_sparse, in_training]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../secret.data", "/etc/passwd", "other.data", "./model.onnx.data", "", "*/_ORT_MEM_ADDR_/*"]
)
def test_external_data_stays_inside(bundle: Path, place: Callable[[str], onnx.ModelProto], location: str) -> None:
    (bundle / "model.onnx").write_bytes(place(location).SerializeToString())
    with pytest.raises(BundleError, match=r"'model\.onnx'.*") as caught:
        write_manifest(bundle, name="demo", model=MODEL, **FIELDS)
    assert repr(location) in caught.value.message


@pytest.mark.parametrize("place", PLACES)
def test_listed_external_data_is_fine(bundle: Path, place: Callable[[str], onnx.ModelProto]) -> None:
    content = place("model.onnx.data").SerializeToString()
    assert "model.onnx.data" in external_data.locations(content, 0, len(content))
    (bundle / "model.onnx").write_bytes(content)
    write_manifest(bundle, name="demo", model=MODEL, **FIELDS)
    verify(bundle)


def test_external_data_is_relative_to_the_model(bundle: Path) -> None:
    (bundle / "drafts").mkdir()
    (bundle / "drafts/draft.onnx").write_bytes(in_initializer("draft.data").SerializeToString())
    (bundle / "draft.data").write_bytes(b"x" * 16)
    with pytest.raises(BundleError, match=r"drafts/draft\.onnx"):
        write_manifest(bundle, name="demo", model=MODEL, **FIELDS)
    (bundle / "draft.data").rename(bundle / "drafts/draft.data")
    write_manifest(bundle, name="demo", model=MODEL, **FIELDS)


def test_opening_checks_external_data_too(bundle: Path) -> None:
    content = in_initializer("../secret").SerializeToString()
    (bundle / "model.onnx").write_bytes(content)
    found = document(bundle)
    found["files"]["model.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (bundle / MANIFEST).write_bytes(sealed(found))
    for is_verified in (True, False):
        with pytest.raises(BundleError, match="secret"):
            open_bundle(bundle, verify=is_verified)


def test_nesting_is_limited(bundle: Path) -> None:
    content = b""
    for _ in range(80):  # GraphProto.node.attribute.g
        for tag in (0x32, 0x2A, 0x0A):
            length = len(content)
            content = bytes([tag, length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + content
    model = b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14]) + content
    with pytest.raises(BundleError, match="deep"):
        list(external_data.locations(model, 0, len(model)))


def seen_by_onnx(message: Any) -> Iterator[str]:
    for item, value in message.ListFields():
        if item.message_type is None:
            continue
        for inner in value if hasattr(value, "append") or hasattr(value, "add") else [value]:
            if item.name == "external_data" and inner.key == "location":
                yield inner.value
            yield from seen_by_onnx(inner)


@settings(deadline=None)
@given(data=st.data())
def test_fuzz_walker(data: st.DataObject) -> None:
    """Whatever onnx reads from damaged bytes, the walker has seen too, or it refused them."""
    content = bytearray(data.draw(st.sampled_from(PLACES))("model.onnx.data").SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    try:
        seen = set(external_data.locations(bytes(content), 0, len(content)))
        model = onnx.ModelProto.FromString(bytes(content))
    except (BundleError, DecodeError):
        return
    assert set(seen_by_onnx(model)) <= seen


@settings(deadline=None)
@given(content=st.binary(max_size=300))
def test_fuzz_walker_bytes(content: bytes) -> None:
    with contextlib.suppress(BundleError):
        list(external_data.locations(content, 0, len(content)))


# command line


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(group, ["bundle", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_verify_command(bundle: Path) -> None:
    assert invoke("verify", bundle).startswith(f"unchanged: {bundle} (demo, 7 files")
    found = json.loads(invoke("verify", bundle, "--json"))
    assert found["status"] == "unchanged"
    assert found["num_bytes"] == verify(bundle).num_bytes


def test_commands_take_the_bundle_of_the_project(bundle: Path) -> None:
    (bundle.parent / "edgedsl.toml").write_text('[export]\noutput = "bundle"\n')
    assert "unchanged" in invoke("verify", "--project", bundle.parent)


def test_show_command(bundle: Path) -> None:
    text = invoke("show", bundle)
    lines = [line.split() for line in text.splitlines()]
    assert ["quantization", "int8"] in lines
    assert ["quality", "exact_match", "parse_rate"] in lines
    assert ["quantised", "0.49", "1"] in lines
    assert ["parity", "max_abs_diff", "agreement", "rows"] in lines
    assert "a" * 64 in text
    assert json.loads(invoke("show", bundle, "--json")) == verify(bundle).to_dict()


def test_exit_code_names_the_file_and_loads_nothing(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[20] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('numpy', 'onnx', 'onnxruntime', 'torch') if m in sys.modules]))\n"
        "from edgedsl.cli import main\n"
        "main()\n"
    )
    result = python("-c", code, "bundle", "verify", bundle, check=False)
    assert result.returncode == 3
    assert "file 'model.onnx' was changed" in result.stderr
    assert result.stderr.count("\n") == 2
    assert result.stdout == "[]\n"
