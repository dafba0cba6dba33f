"""Fixtures that several test files share; each is made once per session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_export import TinyOnnx

    from edgedsl.config import Config


@pytest.fixture(scope="session", autouse=True)
def own_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What calls of the tiny models cost is not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgedsl.runtime.calibration.default_cache", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> TinyOnnx:
    """The tiny random Llama, exported with the shared and with the growing KV cache."""
    import torch
    from tiny import tiny_llama
    from tiny_export import HAS_OPTIMUM, ONLY_WITH_4, TinyOnnx, export_tiny
    from transformers import AutoModelForCausalLM

    if not HAS_OPTIMUM:
        pytest.skip(ONLY_WITH_4)
    folder = tmp_path_factory.mktemp("onnx")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(folder / "base"), dtype=torch.float32).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgedsl.exporters.optimum.is_fusable", lambda config: False)
        growing = export_tiny(model, folder / "growing")
    return TinyOnnx(model, export_tiny(model, folder / "shared"), growing)


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny project with a random adapter; tests must not write into it."""
    from tiny_export import write_project

    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_project: Config) -> Path:
    """The bundle of the tiny project (w8a8); tests must not write into it."""
    from edgedsl.exporters.pipeline import export

    return export(tiny_project, offline=True)


@pytest.fixture
def project(tiny_project: Config, tiny_bundle: Path, tmp_path: Path) -> Config:
    """A copy of the tiny project, with its bundle, that a test may write into."""
    from edgedsl.config import load_config

    return load_config(Path(shutil.copytree(tiny_project.root, tmp_path / "project")))
