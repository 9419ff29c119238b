"""Shipped profiles, their parser's complaints, and matching."""

from __future__ import annotations

import pytest

import profiles
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.kernels import SCHEMES
from profiles.schema import Profile, RuntimeSupport, parse_profile

GOOD = """
name = "x"
title = "X"
sensors = ["rapl"]
[match]
machine = ["x86_64"]
[[runtime]]
name = "onnx"
format = "onnx"
versions = ">=1.20,<2"
schemes = ["u8s8", "fp32"]
calibration = "patch"
"""
RUNTIME = """
[[runtime]]
name = "onnx"
format = "onnx"
schemes = ["fp32"]
calibration = "none"
"""


def fingerprint(**hardware: str) -> Fingerprint:
    empty = Facet.of({})
    return Fingerprint(chassis=empty, hardware=Facet.of(hardware), stack=empty, condition=empty)


def rule(name: str, match: str) -> Profile:
    return parse_profile(f'name = "{name}"\ntitle = "T"\n{match}\n{RUNTIME}', name)


def test_what_ships() -> None:
    assert [profile.name for profile in profiles.all_profiles()] == [
        "android-snapdragon-8", "generic-arm64", "generic-x86_64", "imx93", "jetson-orin-nano",
        "raspberry-pi-5", "rk3588",
    ]  # fmt: skip


@pytest.mark.parametrize("profile", profiles.all_profiles(), ids=lambda p: p.name)
def test_a_shipped_profile_is_honest(profile: Profile) -> None:
    assert profile.runtimes
    for runtime in profile.runtimes:
        assert set(runtime.schemes) <= set(SCHEMES)
        assert runtime.accepts("1.32" if runtime.name == "onnx" else "2.3")
    assert all(part.why and not part.available for part in profile.accelerators)
    assert profile.budget == type(profile.budget)()  # no limit without a source
    assert profiles.load_profile(profile.name) is profile


def test_generic_x86_is_what_the_fit_expects() -> None:
    profile = profiles.load_profile("generic-x86_64")
    onnx, litert = profile.runtime("onnx"), profile.runtime("litert")
    assert onnx is not None
    assert litert is not None
    assert set(onnx.schemes) == set(SCHEMES)
    assert (onnx.calibration, litert.calibration) == ("patch", "none")
    assert set(litert.schemes) == {"fp32", "s8s8"}
    assert profile.runtime("tensorrt") is None


def test_an_unused_npu_says_why() -> None:
    (sentence,) = profiles.load_profile("rk3588").unused_accelerators()
    assert sentence.startswith("RKNPU is not used (rknn): ")


def test_an_unknown_profile_lists_those_there_are() -> None:
    with pytest.raises(profiles.ProfileError, match=r"no profile 'pi' .*|no profile 'pi';"):
        profiles.load_profile("pi")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "X"', "", "x.toml: 'title' is missing: add a text"),
        ('title = "X"', "title = 3", "'title' is 3: write a text"),
        ('title = "X"', 'titel = "X"\ntitle = "X"', "unknown key 'titel': did you mean 'title'"),
        ("schemes =", "scheme =", r"number 1: unknown key 'scheme': did you mean 'schemes'"),
        ("schemes =", 'rules = ["per_layer"]\nschemes =', "'rules' names 'per_layer': choose from"),
        ('"u8s8", "fp32"', '"u8s8"', "schemes lack 'fp32'"),
        ('"u8s8", "fp32"', '"int8", "fp32"', "'schemes' names 'int8': choose from fp32"),
        ('"u8s8", "fp32"', '"fp32", "fp32"', "names something twice"),
        ('"u8s8", "fp32"', '3, "fp32"', "no text: write a list of texts"),
        ('format = "onnx"', 'format = "tflite"', "'onnx' does not read 'tflite': write 'onnx'"),
        ('name = "onnx"', 'name = "rknn"', "'name' names 'rknn': choose from onnx, litert"),
        (">=1.20,<2", "1.20", "does not begin with >="),
        (">=1.20,<2", ">=new", "not a version"),
        ('machine = ["x86_64"]', "", r"\[match\]: no condition"),
        ('machine = ["x86_64"]', 'machine = "x86_64"', "write a list of texts"),
        ('sensors = ["rapl"]', "channels_multiple_of = 0", "write a whole number of at least 1"),
        ('sensors = ["rapl"]', "channels_multiple_of = true", "whole number"),
        ('sensors = ["rapl"]', 'sensors = ["sonar"]', "'sensors' names 'sonar'"),
        ("[match]", "[budget]\nagreement_min = 1.5\n[match]", "at least 0 and at most 1"),
        ("[match]", "[budget]\nfile_bytes_max = -1\n[match]", "at least 1"),
        ("[match]", "[budget]\nfile_bytes_max = 9\npeak_memory_max_bytes = 8\n[match]",
         r"\[budget\]: peak_memory_max_bytes \(8\) is below file_bytes_max \(9\)"),
        ('sensors = ["rapl"]', "budget = { energy_max_mj = 3 }", "no sensor measures energy"),
        ("[match]", "[[accelerator]]\nname='N'\ntoolchain='t'\n[match]", "contradict"),
        ("[match]", "[[accelerator]]\nname='N'\ntoolchain='t'\navailable=true\nwhy='x'\n[match]",
         "contradict"),
        ("[[runtime]]", "[runtime]", r"write tables \[\[runtime\]\]"),
        ("[match]", "[match", "x.toml: not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_mend(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(profiles.ProfileError, match=message):
        parse_profile(GOOD.replace(old, new, 1), "x.toml")


def test_no_runtime_and_twice_the_same() -> None:
    head, runtime = GOOD.split("[[runtime]]")
    with pytest.raises(profiles.ProfileError, match=r"no \[\[runtime\]\]"):
        parse_profile(head, "x.toml")
    with pytest.raises(profiles.ProfileError, match="given twice"):
        parse_profile(GOOD + "[[runtime]]" + runtime, "x.toml")


def test_a_good_one_is_read_whole() -> None:
    profile = parse_profile(
        GOOD.replace("[match]", "[budget]\nlatency_p95_max_ms = 5\nenergy_max_mj = 2\n[match]"), "x"
    )
    assert (profile.budget.latency_p95_max_ms, profile.budget.energy_max_mj) == (5.0, 2.0)
    assert profile.channels_multiple_of == 1


@pytest.mark.parametrize(
    ("versions", "version", "accepted"),
    [
        ("", "0.1", True),
        (">=1.20", "1.20", True),
        (">=1.20", "1.3", False),  # numbers, not text
        (">=1.20", "1.20.1", True),
        (">=1.20,<2", "2.0", False),
        ("==2.14", "2.14.0", True),
        ("<=1.9", "1.10", False),
        (">1.9,<1.11", "1.10", True),
    ],
)
def test_version_ranges(versions: str, version: str, accepted: bool) -> None:
    assert (
        RuntimeSupport(name="onnx", format="onnx", versions=versions).accepts(version) == accepted
    )


PI = {"machine": "aarch64", "compatible": "raspberrypi,5-model-b brcm,bcm2712"}


@pytest.mark.parametrize(
    ("hardware", "name", "reason", "specific"),
    [
        (PI, "raspberry-pi-5",
         "device-tree compatible 'raspberrypi,5-model-b' is profile raspberry-pi-5", True),
        ({"machine": "aarch64", "compatible": "raspberrypi,5-compute-module brcm,bcm2712"},
         "raspberry-pi-5", "device-tree compatible 'brcm,bcm2712' is profile raspberry-pi-5", True),
        ({"machine": "x86_64"}, "generic-x86_64",
         "machine x86_64, no board profile matched: generic-x86_64", False),
        ({"machine": "aarch64", "compatible": "raspberrypi,4-model-b brcm,bcm2711"},
         "generic-arm64", "machine aarch64, no board profile matched: generic-arm64", False),
        ({"machine": "aarch64", "platform": "android", "android_soc_model": "SM8650"},
         "android-snapdragon-8", "SoC 'SM8650' is profile android-snapdragon-8", True),
        ({"machine": "aarch64", "platform": "android", "android_soc_model": "MT6989"},
         "generic-arm64", "machine aarch64, no board profile matched: generic-arm64", False),
        ({"machine": "aarch64", "compatible": "nvidia,p3768-0000+p3767-0005-super nvidia,tegra234"},
         "jetson-orin-nano",
         "device-tree compatible 'nvidia,p3768-0000+p3767-0005-super' is profile jetson-orin-nano",
         True),
    ],
)  # fmt: skip
def test_matching(hardware: dict[str, str], name: str, reason: str, specific: bool) -> None:
    matched = profiles.match(fingerprint(**hardware), profiles.all_profiles())
    assert (matched.profile.name, matched.reason, matched.specific) == (name, reason, specific)


def test_nothing_matches_and_the_facts_are_named() -> None:
    with pytest.raises(profiles.ProfileError, match="machine 'riscv64', model 'VisionFive 2'"):
        profiles.match(
            fingerprint(machine="riscv64", model="VisionFive 2"), profiles.all_profiles()
        )
    with pytest.raises(profiles.ProfileError, match="matches no facts"):
        profiles.match(fingerprint(), profiles.all_profiles())


def test_the_board_beats_its_chip_and_ties_go_by_name() -> None:
    chip = rule("chip", 'match = { compatible = ["brcm,bcm2712"] }')
    board = rule("board", 'match = { compatible = ["raspberrypi,5-model-b"] }')
    twin = rule("a-twin", 'match = { compatible = ["raspberrypi,5-model-b"] }')
    pi = fingerprint(**PI)
    assert profiles.match(pi, [chip, board]).profile is board
    assert profiles.match(pi, [board, twin]).profile is twin
    named = rule("named", 'match = { model = ["ROCK 5"] }')
    assert profiles.match(fingerprint(model="Radxa ROCK 5B"), [named]).reason == (
        "model 'Radxa ROCK 5B' is profile named"
    )


def test_all_conditions_must_hold() -> None:
    both = rule("both", 'match = { machine = ["aarch64"], model = ["ROCK"] }')
    with pytest.raises(profiles.ProfileError):
        profiles.match(fingerprint(machine="x86_64", model="ROCK"), [both])
