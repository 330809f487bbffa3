"""The doctor on this machine, and what it says where something is missing."""

from pathlib import Path

import pytest

from cluster import doctor
from cluster.doctor import Finding, examine, print_findings


def test_it_looks_at_everything_that_a_run_needs() -> None:
    found = {finding.what for finding in examine()}
    assert {"Python", "cores", "free memory", "GPU", "C++ compiler", "ray", "torch", "sandbox", "shipped base"} <= found


def test_whatever_is_not_ok_has_a_remedy() -> None:
    assert all(finding.remedy for finding in examine() if finding.verdict != "ok")


def test_the_sandbox_runs_here() -> None:
    assert [finding.verdict for finding in doctor._sandbox()] == ["ok"]


def test_a_missing_package_names_the_stages_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", {"no-such-package": "sft"})
    (finding,) = doctor._packages()
    assert finding == Finding("no-such-package", "not installed", "missing", f"needed by sft; {doctor.REINSTALL}")


def test_another_version_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._judged("ray", "9.9.9").verdict == "note"
    assert doctor._judged("ray", "2.60.0").verdict == "ok"


def test_no_compiler_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert doctor._compiler()[0].verdict == "missing"


def test_little_memory_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_gib", lambda: 1.0)
    (finding,) = [f for f in doctor._machine() if f.what == "free memory"]
    assert finding.verdict == "missing"
    assert "close other programs" in finding.remedy


def test_the_table_ends_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("a", "none", "missing", "get one"), Finding("b", "1")])
    assert capsys.readouterr().out.strip().endswith("1 missing")
