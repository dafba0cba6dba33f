"""Base models by Hugging Face id."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from edgedsl.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Data only, top level only: no pickles, no code, none of the ONNX or GGUF copies that many repositories carry.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "tokenizer*", "README.md", "LICENSE*", "NOTICE*"]
_REFUSED = ["*/*", "*.bin", "*.py", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.h5", "*.msgpack"]
_ELSEWHERE = "use the alias smollm2-135m, which comes through the package mirror, or copy the folder here and name it"


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the shape ``org/name``."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def fetch_from_hub(name: str, *, offline: bool, cache_dir: Path | None) -> Path:
    """Folder of the newest snapshot of ``org/name``; its folder name is the commit. Offline, no connection is tried.

    Raises:
        ModelError: no connection, no such model, no permission, or (offline) not in the local hub cache.
    """
    # The library reads this once, when it is imported: no user statistics in its requests.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as exc:
        raise ModelError("huggingface_hub is not installed", hint="pip install 'edgedsl[train]'") from exc
    if not sys.stderr.isatty():
        disable_progress_bars()
    # That of its HTTP client: requests before 1.0, whose errors are OSErrors; httpx since, whose are not.
    http_error: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    try:
        folder = snapshot_download(
            name,
            local_files_only=offline,
            cache_dir=None if cache_dir is None else str(cache_dir / "hub"),
            allow_patterns=_WANTED,
            ignore_patterns=_REFUSED,
        )
    except errors.GatedRepoError as exc:
        raise ModelError(
            f"{name} asks for permission", hint="accept its terms on the hub, then `hf auth login`"
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise ModelError(
            f"the hub has no model {name}", hint="check the spelling; a private model needs `hf auth login`"
        ) from exc
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as exc:
        where = "the local hub cache (offline)" if offline else "the local hub cache, and the hub cannot be reached"
        raise ModelError(f"{name} is not in {where}", hint=_ELSEWHERE) from exc
    except (errors.HfHubHTTPError, errors.HFValidationError, http_error, OSError) as exc:
        raise ModelError(f"cannot fetch {name} from the hub: {_first_line(exc)}", hint=_ELSEWHERE) from exc
    return Path(folder)


def _first_line(exc: Exception) -> str:
    return next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
