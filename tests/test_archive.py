"""One-file bundles: round trip, hostile archives, fuzzing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bundle import external, invoke, make_bundle, make_model, sealed

from edgedsl.bundle import archive, ustar
from edgedsl.bundle.archive import pack, read_manifest, unpack, verify_archive
from edgedsl.bundle.manifest import open_bundle, verify
from edgedsl.bundle.names import MANIFEST
from edgedsl.errors import BundleError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


with tempfile.TemporaryDirectory() as _folder:
    _bundle = make_bundle(Path(_folder) / "bundle")
    pack(_bundle, Path(_folder) / "demo.edgedsl")
    FILES = contents(_bundle)
    PACKED = (Path(_folder) / "demo.edgedsl").read_bytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    (tmp_path / "demo.edgedsl").write_bytes(PACKED)
    return tmp_path / "demo.edgedsl"


# round trip


def test_round_trip(packed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    opened = unpack(packed, tmp_path / "target", on_progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "target") == FILES
    assert opened == open_bundle(tmp_path / "target")
    assert seen[-1] == (opened.manifest.num_bytes, opened.manifest.num_bytes)
    assert read_manifest(packed) == verify_archive(packed) == opened.manifest
    pack(tmp_path / "target", tmp_path / "again.edgedsl")
    assert (tmp_path / "again.edgedsl").read_bytes() == PACKED
    assert names(tmp_path) == {"demo.edgedsl", "target", "again.edgedsl"}


def test_times_and_modes_do_not_show(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(bundle, tmp_path / "a.edgedsl")
    assert (tmp_path / "a.edgedsl").read_bytes() == PACKED


def test_other_programs_read_it(packed: Path) -> None:
    with tarfile.open(packed, format=tarfile.USTAR_FORMAT) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == FILES  # type: ignore[union-attr]
        assert {(member.mode, member.uid, member.mtime, member.type) for member in tar} == {
            (0o644, 0, 0, tarfile.REGTYPE)
        }
        assert tar.getnames()[0] == MANIFEST
    if shutil.which("tar"):
        listed = subprocess.run(["tar", "tf", str(packed)], capture_output=True, text=True, check=True)
        assert set(listed.stdout.split()) == set(FILES)
        assert not listed.stderr


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1, 8**11, 2**40])
def test_header_sizes(size: int) -> None:
    header = ustar.encode_header("a" * 100, size)
    assert ustar.read_header(io.BytesIO(header)) == ("a" * 100, size)
    assert tarfile.TarInfo.frombuf(header, "ascii", "strict").size == size


def test_header_names() -> None:
    with pytest.raises(BundleError, match="longer than 100"):
        ustar.encode_header("a" * 101, 1)


def test_archives_of_gnu_tar_are_read(tmp_path: Path) -> None:
    (tmp_path / "gnu.edgedsl").write_bytes(tar_of([entry(name, content) for name, content in ordered()]))
    unpack(tmp_path / "gnu.edgedsl", tmp_path / "target")
    assert contents(tmp_path / "target") == FILES


# what is there already, and space


def test_pack_refuses_a_changed_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "prompt.json").write_text("[]")
    with pytest.raises(BundleError, match=r"prompt\.json"):
        pack(bundle, tmp_path / "a.edgedsl")
    assert names(tmp_path) == {"bundle"}


def test_pack_notices_a_change_after_verifying(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    (bundle / "prompt.json").write_text("[]")
    monkeypatch.setattr(archive, "open_bundle", lambda folder: opened)
    with pytest.raises(BundleError, match=r"prompt\.json"):
        pack(bundle, tmp_path / "a.edgedsl")
    assert names(tmp_path) == {"bundle"}


def test_existing_output(bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.edgedsl"
    output.write_text("mine")
    with pytest.raises(BundleError, match="exists"):
        pack(bundle, output)
    assert output.read_text() == "mine"
    pack(bundle, output, force=True)
    assert output.read_bytes() == PACKED
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="exists"):
        pack(bundle, tmp_path / "folder", force=True)
    with pytest.raises(BundleError, match="inside the bundle"):
        pack(bundle, bundle / "a.edgedsl")


def test_existing_target(packed: Path, bundle: Path, tmp_path: Path) -> None:
    (bundle / "prompt.json").write_text("[]")
    with pytest.raises(BundleError, match="exists"):
        unpack(packed, bundle)
    assert (bundle / "prompt.json").read_text() == "[]"
    unpack(packed, bundle, force=True)
    assert contents(bundle) == FILES


def test_force_replaces_bundles_only(packed: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    before = names(tmp_path)
    for name in ("home", "link", "dangling", "file"):
        with pytest.raises(BundleError, match="is not a bundle"):
            unpack(packed, tmp_path / name, force=True)
    assert names(tmp_path) == before
    assert (tmp_path / "home" / "thesis.txt").read_text() == "x"


def test_no_space(packed: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 0, 100))
    with pytest.raises(BundleError, match=r"bytes needed, 100 available"):
        unpack(packed, tmp_path / "deep" / "target")
    with pytest.raises(BundleError, match=r"bytes needed, 100 available"):
        pack(bundle, tmp_path / "a.edgedsl")
    assert names(tmp_path) == {"demo.edgedsl", "bundle"}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_errors_leave_nothing(packed: Path, bundle: Path, tmp_path: Path) -> None:
    with file_size_limit(400), pytest.raises(BundleError, match="cannot be written: File too large"):
        pack(bundle, tmp_path / "a.edgedsl")
    with file_size_limit(400), pytest.raises(BundleError, match="cannot be written: File too large"):
        unpack(packed, tmp_path / "target")
    assert names(tmp_path) == {"demo.edgedsl", "bundle"}


def test_interrupted(packed: Path, bundle: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(bundle, tmp_path / "a.edgedsl", on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(packed, tmp_path / "target", on_progress=stop)
    assert names(tmp_path) == {"demo.edgedsl", "bundle"}


# hostile archives


def ordered() -> list[tuple[str, bytes]]:
    return [(MANIFEST, FILES[MANIFEST]), *((name, FILES[name]) for name in sorted(FILES) if name != MANIFEST)]


def entry(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tar_of(entries: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def with_extra(*extra: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A good archive with more entries after the manifest."""
    first, *rest = [entry(name, content) for name, content in ordered()]
    return tar_of([first, *extra, *rest], form)


def with_files(**files: tuple[str, bytes]) -> bytes:
    """A good archive but for files that the manifest lists as well."""
    changed = {**FILES, **dict(files.values())}
    return repacked(changed, {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.values()})


def repacked(files: dict[str, bytes], listed: dict[str, tuple[str, int]]) -> bytes:
    document = json.loads(FILES[MANIFEST])
    document["files"] |= {name: {"sha256": sha256, "size": size} for name, (sha256, size) in listed.items()}
    rest = [entry(name, data) for name, data in files.items() if name != MANIFEST]
    return tar_of([entry(MANIFEST, sealed(document)), *rest])


def shuffled() -> bytes:
    return tar_of([entry(name, content) for name, content in reversed(ordered())])


def with_size(size: int) -> bytes:
    header = ustar.encode_header("grammar.lark", size)
    old = PACKED.index(b"grammar.lark\0")
    return PACKED[:old] + header + PACKED[old + 512 :]


HOSTILE = {
    "parent": (with_extra(entry("../evil.json", b"x")), "'../evil.json' is not listed"),
    "absolute": (with_extra(entry("/tmp/evil.json", b"x")), "'/tmp/evil.json' is not listed"),
    "listed parent": (with_files(a=("../evil.json", b"x")), "'../evil.json' is not allowed"),
    "listed absolute": (with_files(a=("/evil.json", b"x")), "'/evil.json' is not allowed"),
    "listed code": (with_files(a=("evil.py", b"x")), "'evil.py' is of a kind"),
    "listed collision": (with_files(a=("Model.onnx", b"x")), "'Model.onnx' collides with 'model.onnx'"),
    "symlink": (with_extra(entry("grammar.lark", kind=tarfile.SYMTYPE, link="/etc/passwd")), "is a symbolic link"),
    "hard link": (with_extra(entry("grammar.lark", kind=tarfile.LNKTYPE, link="model.onnx")), "is a hard link"),
    "character device": (with_extra(entry("grammar.lark", kind=tarfile.CHRTYPE)), "is a device"),
    "block device": (with_extra(entry("grammar.lark", kind=tarfile.BLKTYPE)), "is a device"),
    "pipe": (with_extra(entry("grammar.lark", kind=tarfile.FIFOTYPE)), "is a pipe"),
    "folder": (with_extra(entry("eval", kind=tarfile.DIRTYPE)), "is a folder"),
    "contiguous": (with_extra(entry("grammar.lark", kind=tarfile.CONTTYPE)), "of an unknown kind"),
    "old regular": (with_extra(entry("grammar.lark", kind=tarfile.AREGTYPE)), "of an unknown kind"),
    "GNU long name": (with_extra(entry("a" * 200 + ".json"), form=tarfile.GNU_FORMAT), "foreign header"),
    "pax": (with_extra(entry("ü.json"), form=tarfile.PAX_FORMAT), "of an unknown kind"),
    "prefix": (with_extra(entry("a" * 90 + "/" + "b" * 90)), "name prefix"),
    "duplicate": (with_extra(entry("grammar.lark", FILES["grammar.lark"])), "'grammar.lark' occurs twice"),
    "second manifest": (with_extra(entry(MANIFEST, FILES[MANIFEST])), "'manifest.json' occurs twice"),
    "other case": (with_extra(entry("Grammar.lark", b"x")), "'Grammar.lark' is not listed"),
    "manifest last": (shuffled(), "does not begin with manifest.json"),
    "larger than listed": (with_extra(entry("grammar.lark", b"x" * 99)), "has 99 bytes, expected 10"),
    "bomb": (with_size(2**62), "has 4611686018427387904 bytes"),
    "negative size": (PACKED[:124] + b"\xff" * 12 + PACKED[136:], "foreign header"),
    "listed bomb": (repacked(FILES, {"zeros.data": ("a" * 64, 2**35)}), "smaller than its files"),
    "large manifest": (ustar.encode_header(MANIFEST, 2**30) + bytes(2048), "does not begin with manifest.json"),
    "missing file": (repacked(FILES, {"zeros.data": (hashlib.sha256().hexdigest(), 0)}), "'zeros.data' is missing"),
    "external data": (
        with_files(a=("model.onnx", make_model(external("../secret")).SerializeToString())),
        "'model.onnx': file name '../secret' is not allowed",
    ),
    "not a model": (with_files(a=("model.onnx", b"\x0b\x0c")), "'model.onnx': not an ONNX model"),
    "empty": (b"", "ends early"),
    "zeros": (bytes(10240), "does not begin with manifest.json"),
    "zip": (b"PK\x03\x04" + bytes(1020), "foreign header"),
    "trailing byte": (PACKED + b"\0", "does not end where it should"),
    "trailing data": (PACKED + b"x" * 512, "does not end where it should"),
    "trailing archive": (PACKED + PACKED, "does not end where it should"),
    "endless zeros": (PACKED + bytes(1 << 20), "does not end where it should"),
    "one end block": (PACKED[:-512], "does not end where it should"),
    "no end": (PACKED[:-1024], "ends early"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "evil.edgedsl"
    path.write_bytes(content)
    for use in (verify_archive, lambda path: unpack(path, tmp_path / "target")):
        with pytest.raises(BundleError) as caught:
            use(path)
        assert message in caught.value.message
        assert str(path) in caught.value.message
    assert names(tmp_path) == {"evil.edgedsl"}


@pytest.mark.parametrize("name", ["missing", "folder", "pipe", "device"])
def test_not_an_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=name):
        unpack(tmp_path / name, tmp_path / "target")


def test_every_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.edgedsl"
    for size in (*range(0, len(PACKED), 97), *range(len(PACKED) - 1030, len(PACKED), 7), len(PACKED) - 1):
        path.write_bytes(PACKED[:size])
        with pytest.raises(BundleError):
            verify_archive(path)


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """Headers and the zeros between files included; 13 has no factor in common with the block size."""
    path, whole = tmp_path / "a.edgedsl", json_without_digest(FILES[MANIFEST])
    for position in range(0, len(PACKED), 13):
        content = bytearray(PACKED)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        try:
            manifest = verify_archive(path)
        except BundleError:
            continue
        assert 512 <= position < 512 + len(FILES[MANIFEST]), position
        assert manifest.to_dict() == whole


# fuzzing


def mend_checksums(content: bytearray) -> None:
    """Make every block that is still at the place of a header a valid one, so that fuzzing gets past the checksum."""
    for start in range(0, len(content) - 511, 512):
        block = content[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(block)


def flip(data: st.DataObject, content: bytearray) -> None:
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))


def overwrite(data: st.DataObject, content: bytearray) -> None:
    start = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.binary(min_size=1, max_size=16))
    content[start : start + len(new)] = new


def overwrite_header(data: st.DataObject, content: bytearray) -> None:
    headers = [start for start in range(0, len(content) - 511, 512) if content[start + 257 : start + 262] == b"ustar"]
    if headers:
        start = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 511))
        new = data.draw(
            st.binary(min_size=1, max_size=12) | st.sampled_from([b"../x\0", b"/etc/x\0", b"1", b"2", b"\x80"])
        )
        content[start : start + len(new)] = new


def cut(data: st.DataObject, content: bytearray) -> None:
    start = data.draw(st.integers(0, len(content) - 1))
    del content[start : start + data.draw(st.integers(1, 1024))]


def repeat_blocks(data: st.DataObject, content: bytearray) -> None:
    blocks = len(content) // 512
    start, stop, to = (512 * data.draw(st.integers(0, blocks)) for _ in range(3))
    content[to:to] = content[start:stop]


MUTATIONS: list[Callable[[st.DataObject, bytearray], None]] = [flip, overwrite, overwrite_header, cut, repeat_blocks]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_fuzz_archive(data: st.DataObject) -> None:
    """A damaged archive is refused or gives the very same bundle, and nothing is written anywhere else."""
    content = bytearray(PACKED)
    for _ in range(data.draw(st.integers(1, 3))):
        if content:
            data.draw(st.sampled_from(MUTATIONS))(data, content)
    if data.draw(st.booleans()):
        mend_checksums(content)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "inner").mkdir()
        path, target = root / "inner" / "a.edgedsl", root / "inner" / "target"
        path.write_bytes(content)
        try:
            unpack(path, target)
        except BundleError:
            assert names(root / "inner") == {"a.edgedsl"}
        else:
            assert names(root / "inner") == {"a.edgedsl", "target"}
            assert {**contents(target), MANIFEST: b""} == {**FILES, MANIFEST: b""}
            assert verify(target).to_dict() == read_manifest(path).to_dict()
            assert read_manifest(target).to_dict() == json_without_digest(FILES[MANIFEST])
        assert names(root) == {"inner"}


def json_without_digest(content: bytes) -> dict[str, object]:
    document: dict[str, object] = json.loads(content)
    del document["manifest_sha256"]
    return document


@settings(deadline=None)
@given(content=st.binary(max_size=2048))
def test_fuzz_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.edgedsl").write_bytes(content)
        with pytest.raises(BundleError):
            unpack(Path(folder) / "a.edgedsl", Path(folder) / "target")
        assert names(Path(folder)) == {"a.edgedsl"}


@settings(deadline=None)
@given(data=st.data())
def test_fuzz_folder(data: st.DataObject) -> None:
    """A damaged bundle folder is refused or the very same bundle."""
    changed = {name: bytearray(content) for name, content in FILES.items()}
    for _ in range(data.draw(st.integers(1, 2))):
        content = changed[data.draw(st.sampled_from(sorted(changed)))]
        if content:
            data.draw(st.sampled_from([flip, overwrite, cut]))(data, content)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in changed.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        try:
            manifest = verify(Path(folder))
        except BundleError:
            assert changed != FILES
        else:
            assert {**contents(Path(folder)), MANIFEST: b""} == {**FILES, MANIFEST: b""}
            assert manifest.to_dict() == json_without_digest(FILES[MANIFEST])


# command line


def test_commands(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("pack", bundle).startswith("packed: demo.edgedsl (demo, 7 files")
    assert invoke("verify", "demo.edgedsl").startswith("unchanged: demo.edgedsl")
    assert "int8" in invoke("show", "demo.edgedsl")
    assert json.loads(invoke("unpack", "demo.edgedsl", "--json"))["path"] == "demo"
    assert contents(tmp_path / "demo") == FILES
    invoke("unpack", "demo.edgedsl", "other", "--force")
    invoke("pack", "other", "-o", "x.edgedsl")
    assert (tmp_path / "x.edgedsl").read_bytes() == PACKED
