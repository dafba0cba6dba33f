"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edgedsl import atomic


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_folders_and_a_file_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    atomic.write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(path.parent) == ["text.txt"]


def test_write_replaces(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "f", "old, and longer than the new one")
    atomic.write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    atomic.write_text(tmp_path / "f", "old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(tmp_path / "f", "new")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text(encoding="utf-8") == "old"


def test_content_is_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    atomic.write_bytes(tmp_path / "f", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # file, name, folder


def test_json_is_indented_unescaped_and_strict(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "f.json", {"b": "é", "a": [1]})
    text = (tmp_path / "f.json").read_text(encoding="utf-8")
    assert "é" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"b": "é", "a": [1]}
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "f.json", float("nan"))
    assert (tmp_path / "f.json").read_text(encoding="utf-8") == text


def test_staged_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with atomic.staged_directory(target) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "f").write_text("1", encoding="utf-8")
        assert staging.parent == target.parent
        assert not target.exists()
    assert (target / "sub" / "f").read_text(encoding="utf-8") == "1"
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert names(target.parent) == ["bundle"]


def test_staged_directory_replaces_the_whole_folder(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    with atomic.staged_directory(target) as staging:
        (staging / "new").write_text("2", encoding="utf-8")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt(), SystemExit(3)])
def test_a_block_that_raises_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    target = old_folder(tmp_path)

    def write() -> None:
        with atomic.staged_directory(target) as staging:
            (staging / "new").write_text("2", encoding="utf-8")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["bundle"]


def test_a_full_disk_at_the_end_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = old_folder(tmp_path)

    def write() -> None:
        with atomic.staged_directory(target) as staging:
            (staging / "new").write_text("2", encoding="utf-8")
            monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(OSError, match="No space"):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["bundle"]


def test_a_second_rename_that_fails_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = old_folder(tmp_path)
    real = os.rename

    def rename(source: Any, to: Any) -> None:
        if Path(to) == target and ".new-" in str(source):
            no_space()
        real(source, to)

    monkeypatch.setattr(os, "rename", rename)

    def write() -> None:
        with atomic.staged_directory(target) as staging:
            (staging / "new").write_text("2", encoding="utf-8")

    with pytest.raises(OSError, match="No space"):
        write()
    assert names(target) == ["old"]
    assert not [name for name in names(tmp_path) if ".new-" in name]


def old_folder(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("1", encoding="utf-8")
    return target
