"""``edgedsl doctor``: facts of the machine, providers that were really tried, and a mend for each problem."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from interpreter import python

from edgedsl import cli, doctor, machine, provider_probe
from edgedsl.doctor import GIB, Part, find_problems
from edgedsl.provider_probe import Probe

CPU = Probe("CPUExecutionProvider", works=True)
NO_CUDA = Probe("CUDAExecutionProvider", works=False, reason="libcublasLt.so.13 is missing; it failed")


def facts(**changes: Any) -> dict[str, Any]:
    """A machine without problems."""
    return {
        "machine": "x86_64",
        "python": "3.12.1",
        "instruction_sets": ["avx2"],
        "cores": {"logical": 8, "physical": 4, "usable": 8, "cgroup_limit": None},
        "memory": {"total": 16 * GIB, "available": 8 * GIB},
        "disk_free": {"here": 50 * GIB, "cache": 50 * GIB},
        "operators_missing": False,
        "gpus": [],
        "nvidia_driver": None,
        "versions": {"onnxruntime": "1.31.1"},
        **changes,
    }


def test_healthy_machine_has_no_problems() -> None:
    assert find_problems(facts(), (CPU,), (Part(""), Part("cpu"))) == []


GPU = {"gpus": ["NVIDIA H200"], "nvidia_driver": "580.65.06"}
BOTH = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
ONLY_GPU = {"onnxruntime-gpu": "1.31.1"}
NARROW = {"logical": 8, "physical": 4, "usable": 8, "cgroup_limit": 1.5}
CASES: list[tuple[dict[str, Any], tuple[Probe, ...], str, str, str]] = [
    ({"versions": BOTH}, (CPU,), "warning", "both installed", "pip install 'edgedsl[cpu]'"),
    (GPU | {"versions": BOTH}, (CPU,), "warning", "both installed", "pip install 'edgedsl[gpu]'"),
    (GPU, (CPU,), "warning", "NVIDIA H200 is not used", "pip install 'edgedsl[gpu]'"),
    (
        GPU | {"versions": ONLY_GPU | {"torch": "2.13.0+cpu"}},
        (CPU,),
        "warning",
        "torch 2.13.0+cpu is a CPU build",
        "pip",
    ),
    ({"versions": {}}, (CPU,), "error", "ONNX Runtime is not installed", "pip install 'edgedsl[cpu]'"),
    (GPU | {"versions": {}}, (CPU,), "error", "ONNX Runtime is not installed", "pip install 'edgedsl[gpu]'"),
    ({}, (Probe("CPUExecutionProvider", works=False, reason="signal 4"),), "error", "signal 4", "--force-reinstall"),
    ({"versions": ONLY_GPU}, (CPU, NO_CUDA), "warning", "libcublasLt.so.13 is missing", "install the NVIDIA driver"),
    (GPU | {"versions": ONLY_GPU}, (CPU, NO_CUDA), "warning", "CUDAExecutionProvider", "brings the CUDA 13 libraries"),
    (
        GPU | {"versions": ONLY_GPU, "nvidia_driver": "535.1"},
        (CPU, NO_CUDA),
        "warning",
        "CUDAExecutionProvider",
        "needs 580",
    ),
    ({"python": "3.14.0"}, (CPU,), "warning", "3.14.0", "environment"),
    ({"instruction_sets": []}, (CPU,), "warning", "AVX2", "host's CPU"),
    ({"cores": NARROW}, (CPU,), "warning", "may use 1.5 cores but sees 8", "num_threads = 1"),
    ({"memory": {"total": GIB, "available": GIB // 2}}, (CPU,), "warning", "0.5 GiB of memory", "smaller"),
    ({"operators_missing": True}, (CPU,), "warning", "own operators", "--force-reinstall"),
    ({"disk_free": {"here": GIB, "cache": None}}, (CPU,), "warning", "in this folder", "make room"),
    ({"disk_free": {"here": None, "cache": GIB}}, (CPU,), "warning", "in the cache", "EDGEDSL_CACHE"),
]


@pytest.mark.parametrize(
    ("change", "probes", "level", "message", "mend"), CASES, ids=[case[3] + " " + case[4][:12] for case in CASES]
)
def test_each_problem_comes_with_its_mend(
    change: dict[str, Any], probes: tuple[Probe, ...], level: str, message: str, mend: str
) -> None:
    (problem,) = find_problems(facts(**change), probes, ())
    assert problem.level == level
    assert message in problem.message
    assert mend in problem.mend


def test_requirements() -> None:
    parts = (
        Part("", missing=("llguidance",)),
        Part("train", missing=("peft",), mismatched=(("transformers<4.58", "5.1"),)),
    )
    problems = find_problems(facts(), (CPU,), parts)
    assert [(problem.level, problem.mend) for problem in problems] == [
        ("error", "pip install edgedsl"),
        ("warning", "pip install 'transformers<4.58'"),
    ]


def test_parts_come_from_our_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", {"lark": "0.1", "numpy": "2.4"}.get)
    core = doctor._part("")
    assert "llguidance" in core.missing
    assert "torch" not in core.missing
    assert [wanted.startswith("lark") for wanted, _ in core.mismatched] == [True]
    assert "fastapi" in doctor._part("serve").missing
    assert "llguidance" not in doctor._part("serve").missing


# --- execution providers ---


def test_hand_made_model_is_valid_onnx() -> None:
    model = onnx.load_from_string(provider_probe.one_node_model())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add"]


def test_varint_of_more_than_one_byte() -> None:
    assert provider_probe._varint(300) == b"\xac\x02"


def test_cpu_provider_runs_and_an_absent_one_does_not() -> None:
    assert provider_probe.probe("CPUExecutionProvider") == CPU
    absent = provider_probe.probe("MadeUpExecutionProvider")
    assert not absent.works
    assert "does not have it" in absent.reason
    assert "CPUExecutionProvider" in provider_probe.available()


def child_that(returncode: int = 0, stdout: str = "", stderr: str = "") -> Any:
    return lambda *_: subprocess.CompletedProcess([], returncode, stdout, stderr)


def test_a_provider_that_kills_its_process_is_only_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_probe, "_child", child_that(-4))
    assert provider_probe.probe("CPUExecutionProvider") == Probe(
        "CPUExecutionProvider", works=False, reason="the test process ended with signal 4"
    )
    assert provider_probe.available() == ()


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"provider": "CUDAExecutionProvider", "works": False, "reason": "it failed"})
    log = "Failed to load library with error: libcublasLt.so.13: cannot open shared object file: No such file"
    monkeypatch.setattr(provider_probe, "_child", child_that(0, answer, log))
    assert provider_probe.probe("CUDAExecutionProvider") == NO_CUDA


def test_fallback_to_cpu_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(provider_probe, "_options", lambda ort, provider: ort.SessionOptions())
    with pytest.warns(UserWarning, match="not in available"):
        found = provider_probe._run("CUDAExecutionProvider")
    assert (found.works, found.reason) == (False, "ONNX Runtime fell back to CPUExecutionProvider")


# --- facts ---


def test_fingerprint_is_json_without_host_name_or_path() -> None:
    found = machine.fingerprint()
    text = json.dumps(found)
    assert platform.node() not in text.split('"')
    for path in (Path.home(), Path.cwd(), sys.prefix):
        assert str(path) not in text
    assert found["cores"]["usable"] >= 1
    assert found["memory"]["total"] > 0
    assert found["versions"]["numpy"]


def cgroup(monkeypatch: pytest.MonkeyPatch, root: Path, membership: str, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: membership if str(path) == "/proc/self/cgroup" else read(path))
    monkeypatch.setattr(machine._cgroup_folders, "__defaults__", (root,))


@pytest.mark.parametrize(
    ("membership", "files", "cpus", "limit"),
    [
        (
            "0::/a/b\n",
            {
                "a/b/cpu.max": "max 100000",
                "a/cpu.max": "150000 100000",
                "cpu.max": "250000 100000",
                "a/memory.max": "1000",
            },
            1.5,
            1000,
        ),
        ("0::/\n", {"cpu.max": "50000 100000", "memory.max": "max"}, 0.5, None),
        ("0::/host/name/not/here\n", {"cpu.max": "200000 100000"}, 2.0, None),
        (
            "4:memory:/m\n3:cpu,cpuacct:/c\n",
            {"cpu/c/cpu.cfs_quota_us": "25000", "cpu/c/cpu.cfs_period_us": "100000"},
            0.25,
            None,
        ),
        (
            "4:memory:/m\n1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "memory/m/memory.limit_in_bytes": "77"},
            None,
            77,
        ),
        ("", {}, None, None),
    ],
)
def test_cgroup_limits(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    membership: str,
    files: dict[str, str],
    cpus: float | None,
    limit: int | None,
) -> None:
    cgroup(monkeypatch, tmp_path, membership, files)
    assert machine.cores()["cgroup_limit"] == cpus
    assert machine._cgroup_memory()[0] == limit


def test_memory_is_what_the_container_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cgroup(monkeypatch, tmp_path, "0::/\n", {"memory.max": "1000000", "memory.current": "400000"})
    assert machine.memory() == {"total": 1_000_000, "available": 600_000}


def test_arm_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"Features": "fp asimd asimddp i8mm sve", "Model": "Board 5"})
    assert machine.instruction_sets() == ["neon", "dotprod", "i8mm", "sve"]
    assert machine.cpu_model() == "Board 5"


def test_disk_free_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert machine.disk_free(tmp_path / "a" / "b") == machine.disk_free(tmp_path)


# --- the command ---


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgedsl", "doctor", *arguments])
    try:
        cli.main()
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def test_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_run"] is True
    assert found["probes"] == [{"provider": "CPUExecutionProvider", "works": True, "reason": ""}]


def test_command_exits_with_10_when_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provider_probe, "_child", child_that(-4))
    assert run(monkeypatch) == 10
    shown = capsys.readouterr()
    assert "error: CPUExecutionProvider does not run: the test process ended with signal 4" in shown.out
    assert "    mend: pip install --force-reinstall" in shown.out
    assert "error: programs cannot be generated here" in shown.err


def test_command_shows_where_a_bundles_nodes_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle: Path
) -> None:
    assert run(monkeypatch, "--bundle", str(tiny_bundle), "--json") == 0
    found = json.loads(capsys.readouterr().out)["bundle"]
    assert found["name"] == "tiny"
    assert found["execution_provider"] == "cpu"
    assert found["nodes"].keys() == {"CPUExecutionProvider"}
    assert run(monkeypatch, "--bundle", str(tiny_bundle)) == 0
    shown = capsys.readouterr().out
    assert f"  CPUExecutionProvider  {found['nodes']['CPUExecutionProvider']}" in shown.partition("nodes of the")[2]


def test_command_refuses_a_bundle_that_the_provider_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle: Path
) -> None:
    assert run(monkeypatch, "--bundle", str(tiny_bundle), "--execution-provider", "cuda") == 10
    printed = capsys.readouterr()
    assert "the bundle is for the CPU ('w8a8')" in printed.err
    assert "execution providers" in printed.out
    assert "no problems" not in printed.out


def test_doctor_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from edgedsl.doctor import diagnose; import edgedsl.cli.doctor as c;"
        "print(len(list(c._lines(diagnose(Path('.'), Path('.'))))) > 10,"
        " [m for m in ('torch', 'onnxruntime', 'transformers', 'onnx') if m in sys.modules])"
    )
    assert python("-c", code).stdout.split() == ["True", "[]"]
