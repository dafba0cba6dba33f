"""From the name of a base model to a folder on this disk."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgedsl.basemodels.aliases import ALIASES, Alias
from edgedsl.basemodels.cache import exclusive
from edgedsl.basemodels.mirror import build, built
from edgedsl.basemodels.model import BaseModel, check_folder, fingerprint, licence_of, source_of
from edgedsl.errors import ModelError
from edgedsl.user_cache import default_cache


def resolve(name: str, *, offline: bool = False, cache_dir: Path | None = None) -> BaseModel:
    """Find, fetch or build the base model called ``name``.

    Args:
        name: an alias (``smollm2-135m``, ``gemma3-270m``), a local folder, or a Hugging Face id ``org/name``. An alias
            wins over a folder of that name; write ``./smollm2-135m`` for the folder.
        offline: open no connection and start no process that could; what is missing is an error that says what to do.
        cache_dir: instead of ``EDGEDSL_CACHE`` and the user's cache. The hub keeps its own cache unless this is given.

    Raises:
        ModelError: unknown name, missing or altered files, no connection, or a folder that is not a usable model.
    """
    if name in ALIASES:
        return _from_mirror(ALIASES[name], offline, cache_dir or default_cache())
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _from_folder(name, folder.resolve())
    from edgedsl.basemodels.hub import fetch_from_hub, is_hub_id

    if is_hub_id(name):
        return _from_hub(name, fetch_from_hub(name, offline=offline, cache_dir=cache_dir))
    raise _unknown(name)


def _from_mirror(alias: Alias, offline: bool, cache: Path) -> BaseModel:
    ready = built(alias, cache)
    if ready is not None:
        return ready
    try:
        with exclusive(cache, alias.name):
            # Another process may have finished it while this one waited.
            return built(alias, cache) or build(alias, cache, offline=offline)
    except OSError as exc:
        raise ModelError(
            f"cannot keep {alias.name} under {cache}: {exc.strerror or exc}",
            hint="set EDGEDSL_CACHE to a folder with about 1 GB of free space that you may write to",
        ) from exc


def _from_folder(name: str, folder: Path) -> BaseModel:
    from edgedsl.basemodels.tokenizer_check import check_tokenizer

    check_folder(folder)
    check_tokenizer(folder)
    return BaseModel(name, folder, source_of(folder), fingerprint(folder), licence_of(folder))


def _from_hub(name: str, folder: Path) -> BaseModel:
    from edgedsl.basemodels.tokenizer_check import check_tokenizer

    check_folder(folder)
    check_tokenizer(folder)
    return BaseModel(name, folder, f"hf:{name}", folder.name, licence_of(folder))


def _unknown(name: str) -> ModelError:
    near = difflib.get_close_matches(name.lower(), ALIASES, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return ModelError(
        f"no base model {name!r}: not an alias ({', '.join(ALIASES)}), not a folder, not an id of the form org/name",
        hint=f"{guess}set base_model to one of these",
    )
