"""manifest.json as dataclasses, read strictly: what is not known is refused."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime
from typing import Annotated, Any

from edgedsl.bundle.names import check_names
from edgedsl.errors import BundleError

SCHEMA_VERSION = 1
REQUIRED = ("model.onnx", "tokenizer.json", "prompt.json", "grammar.lark")
MAX_FILES = 1000
MAX_BYTES = 64 << 30
MAX_MANIFEST_BYTES = 4 << 20
_DIGEST = "manifest_sha256"
_ANEW = "copy the bundle again, or export it anew"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)


def _is_text(value: Any) -> bool:
    # Printable keeps terminal control sequences out of whatever shows the manifest.
    return isinstance(value, str) and 0 < len(value) <= 500 and value.isprintable()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_utc(value: Any) -> bool:
    if not isinstance(value, str) or not _UTC.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_object(value: Any, entries: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and entries(entry) for key, entry in value.items())


@dataclass(frozen=True)
class _Rule:
    """What a value in the file has to be."""

    expected: str
    is_valid: Callable[[Any], bool]


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


Text = Annotated[str, _Rule("1 to 500 printable characters", _is_text)]
Sha256 = Annotated[str, _Rule("64 lower-case hexadecimal digits", _is_sha256)]
OptionalSha256 = Annotated[
    str, _Rule("64 lower-case hexadecimal digits, or '' for none", lambda value: value == "" or _is_sha256(value))
]
Utc = Annotated[str, _Rule("a UTC time like 2026-11-21T09:30:00+00:00", _is_utc)]
KvLayout = Annotated[str, _Rule("'shared' or 'growing'", lambda value: value in ("shared", "growing"))]
KvDtype = Annotated[
    str,
    _Rule("'float32', 'float16' or 'bfloat16'", lambda value: value in ("float32", "float16", "bfloat16")),
]
HeadTokens = Annotated[int, _Rule("0 (all) or a positive integer", lambda value: _is_int(value, 0, 2**31 - 1))]
Count = Annotated[int, _Rule("a positive integer", lambda value: _is_int(value, 1, 2**31 - 1))]
Size = Annotated[int, _Rule(f"0 to {MAX_BYTES} bytes", lambda value: _is_int(value, 0, MAX_BYTES))]
Version = Annotated[int, _Rule(f"{SCHEMA_VERSION}", lambda value: _is_int(value, SCHEMA_VERSION, SCHEMA_VERSION))]
Object = Annotated[Mapping[str, Any], _Rule("an object", _is_dict)]
Hops = Annotated[
    Mapping[str, Mapping[str, Any]], _Rule("an object of objects", lambda value: _is_object(value, _is_dict))
]
Texts = Annotated[Mapping[str, str], _Rule("an object of texts", lambda value: _is_object(value, _is_text))]


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    sha256: Sha256
    size: Size


@dataclass(frozen=True)
class ModelInfo:
    """The model, where it comes from, and the shapes the runtime needs before it opens the graph.

    ``num_head_tokens``: tokens that have a logit, listed in the bundle; the others are never decoded, with the grammar
    or without. 0 is all of them; older bundles do not say.
    """

    architecture: Text
    base_model: Text
    base_sha256: OptionalSha256
    adapter_sha256: OptionalSha256
    num_layers: Count
    num_kv_heads: Count
    head_dim: Count
    vocab_size: Count
    context_length: Count
    kv_layout: KvLayout
    quantization: Text
    kv_dtype: KvDtype = "float32"
    num_head_tokens: HeadTokens = 0


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, what is in it, and what was measured of it. ``files`` leaves out manifest.json itself."""

    schema_version: Version
    edgedsl_version: Text
    name: Text
    created: Utc
    files: Annotated[Mapping[str, FileEntry], _Rule("an object", _is_dict)]
    model: Annotated[ModelInfo, _Rule("an object", _is_dict)]
    config: Object
    parity: Hops
    quality: Hops
    versions: Texts

    @property
    def num_bytes(self) -> int:
        """Size of all files but manifest.json."""
        return sum(entry.size for entry in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in manifest.json but for the digest."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The content of manifest.json.

        Raises:
            BundleError: a number is not finite or a text not Unicode.
        """
        document = json.loads(json.dumps(self.to_dict()))  # as a reader gets it: lists for tuples, text for keys
        document[_DIGEST] = _digest_of(document)
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def parse_manifest(content: bytes) -> Manifest:
    """Read manifest.json.

    The digest inside finds damage, not forgery: who can write the folder can write a new digest.

    Raises:
        BundleError: not JSON, unknown schema version, unknown or missing key, wrong value, digest of another content.
    """
    document = _load_json(content)
    if not isinstance(document, dict):
        raise BundleError(f"manifest.json holds a {type(document).__name__}, expected an object", hint=_ANEW)
    digest = document.pop(_DIGEST, None)
    _check_version(document)
    manifest = _manifest(document)
    if digest != _digest_of(document):
        raise BundleError("manifest.json was changed after it was written: its digest differs", hint=_ANEW)
    return manifest


def _check_version(document: Mapping[str, Any]) -> None:
    version = document.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise BundleError(
            f"manifest.json: schema_version is {str(version)[:20]}, this edgedsl reads {SCHEMA_VERSION}",
            hint="install the edgedsl that wrote the bundle, or a newer one",
        )


def _manifest(document: dict[str, Any]) -> Manifest:
    values = _checked(Manifest, document, "")
    names = values["files"]
    if len(names) > MAX_FILES:
        raise BundleError(f"manifest.json: files lists {len(names)} files, expected at most {MAX_FILES}")
    check_names(names)
    files = {name: FileEntry(**_checked(FileEntry, entry, f"files[{name!r}].")) for name, entry in names.items()}
    model = ModelInfo(**_checked(ModelInfo, values["model"], "model."))
    manifest = Manifest(**{**values, "files": files, "model": model})
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"manifest.json: files does not list '{missing[0]}'", hint=_ANEW)
    if manifest.num_bytes > MAX_BYTES:
        raise BundleError(f"manifest.json: the files have {manifest.num_bytes} bytes, expected at most {MAX_BYTES}")
    return manifest


def _checked(kind: type, document: Any, where: str) -> dict[str, Any]:
    """The values of one object, none missing but those with a default, none unknown, each as its rule says."""
    if not isinstance(document, dict):
        raise BundleError(f"manifest.json: {where[:-1]} is {_shown(document)}, expected an object", hint=_ANEW)
    rules = _rules(kind)
    for key in document:
        if key not in rules:
            raise BundleError(f"manifest.json: key {where + key!r} is not known", hint=_ANEW)
    optional = {field.name for field in fields(kind) if field.default is not MISSING}
    for key, rule in rules.items():
        if key not in document:
            if key in optional:
                continue
            raise BundleError(f"manifest.json: key {where + key!r} is missing", hint=_ANEW)
        if not rule.is_valid(document[key]):
            raise BundleError(
                f"manifest.json: {where}{key} is {_shown(document[key])}, expected {rule.expected}", hint=_ANEW
            )
    return document


@functools.cache
def _rules(kind: type) -> dict[str, _Rule]:
    return {key: hint.__metadata__[0] for key, hint in typing.get_type_hints(kind, include_extras=True).items()}


def _shown(value: Any) -> str:
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**30 else "a very large number"
    return text if len(text) <= 80 else text[:80] + "..."


def _load_json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"manifest.json is not JSON: {str(exc)[:200]}", hint=_ANEW) from exc


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return document


def _digest_of(document: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"manifest.json: a value is not JSON: {str(exc)[:200]}") from exc
