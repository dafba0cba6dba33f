#!/usr/bin/env bash
# transformers5.sh FOLDER: an environment of the packages of requirements-transformers5.lock alone. That of $PYTHON lends it the rest
# (torch is large) and stays as it is.
set -euo pipefail
folder=$1
lock=$(cd "$(dirname "$0")/.." && pwd)/requirements-transformers5.lock
packages='import sysconfig; print(sysconfig.get_path("purelib"))'

"$PYTHON" -m venv --clear --without-pip "$folder"
# Before what is lent can be seen: pip must not take it for installed.
"$PYTHON" -m pip --python "$folder/bin/python" install --quiet --no-compile --disable-pip-version-check --no-deps --requirement "$lock"
# addsitedir reads the .pth files of the other environment too, where edgedsl's own checkout is named. Its packages come after ours.
printf 'import site; site.addsitedir("%s")\n' "$("$PYTHON" -c "$packages")" >"$("$folder/bin/python" -c "$packages")/lent.pth"

"$folder/bin/python" - "$lock" <<'PYTHON'
import sys
from importlib.metadata import distribution
from pathlib import Path

import torch
import transformers

for line in Path(sys.argv[1]).read_text().splitlines():
    name, _, version = line.partition("==")
    if version and ";" not in version:  # those of some machines only are left to pip
        found = distribution(name)
        assert found.version == version, f"{name} {found.version} is seen, not {version}"
        assert str(found.locate_file("")).startswith(sys.prefix), f"{name} is lent"
assert transformers.__file__.startswith(sys.prefix), transformers.__file__
assert not torch.__file__.startswith(sys.prefix), torch.__file__
PYTHON
