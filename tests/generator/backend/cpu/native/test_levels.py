"""Levels by what a processor says it has."""

import pytest

from services.generator.backend.cpu.native import levels
from services.generator.config import GeneratorSettings

V3 = {"avx2", "fma", "f16c", "bmi2"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("machine", "features", "names"),
    [
        ("x86_64", {"sse2"}, []),
        ("AMD64", V3, ["avx2"]),
        ("x86_64", V4 | {"avx512_vnni"}, ["avx2", "avx512", "avx512_vnni"]),
        ("aarch64", {"fp", "asimd"}, ["neon"]),
        ("arm64", {"fp", "asimd", "asimddp"}, ["neon", "neon_dotprod"]),
        ("riscv64", {"asimd"}, []),
    ],
)
def test_a_processor_has_the_levels_of_its_instructions(
    machine: str, features: set[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the lowest up, and none of another architecture."""
    monkeypatch.setattr(levels.platform, "machine", lambda: machine)
    monkeypatch.setattr(levels, "_features", lambda: frozenset(features))
    monkeypatch.setattr(levels, "_is_chosen", False)
    assert [level.name for level in levels.available.__wrapped__()] == names


@pytest.mark.parametrize("name", levels.NAMES)
def test_every_level_may_be_asked_for(name: str) -> None:
    """Whether the processor has it is known only where it serves."""
    assert GeneratorSettings(cpu_level=name).engine_config().cpu_level == name
