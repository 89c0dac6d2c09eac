"""Architectures from the reference's constructor arguments, and their errors."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import pytest

from vdmrt.bundle import SamplerDefaults
from vdmrt.errors import ExportError
from vdmrt.export import PRESETS, ExportOptions, TransformerConfig, export_bundle, load_config, random_model
from vdmrt.export.arguments import name_model
from vdmrt.export.families.ca2vdm.arguments import config_from_arguments
from vdmrt.export.families.ca2vdm.config import Positions
from vdmrt.export.options import make_geometry

PLAIN: dict[str, Any] = {"input_size": [8, 8, 12], "hidden_size": 64, "depth": 2, "num_heads": 4, "max_tpe_len": 9}
SMALL = TransformerConfig(latent_size=(4, 4), hidden_size=16, depth=1, heads=2, position_count=6)


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: case.name)
def test_every_recorded_config_is_read(case: golden.Case) -> None:
    recorded = case.config["model"]
    config = load_config(case.folder / "config.json")

    assert (config.hidden_size, config.depth, config.heads) == tuple(
        recorded[name] for name in ("hidden_size", "depth", "num_heads")
    )
    assert config.latent_size == tuple(recorded["input_size"][-2:])
    assert config.positions == (recorded["relative_tpe_mode"] or "absolute")
    assert config.text_width == (recorded["caption_channels"] or 0)
    assert config.chunk_causal is (recorded["is_causal"] is True)
    assert bool(config.context) is bool(case.config["effective_spatial_attn_enhance"])


@pytest.mark.parametrize(
    ("name", "hidden_size", "depth", "heads"),
    [
        ("CausalSTDiT2-XL/2", 1152, 28, 16),
        ("CausalSTDiT2-L/2", 1024, 24, 16),
        ("CausalSTDiT2-B/2", 768, 12, 12),
        ("CausalSTDiT2-S/2", 384, 12, 6),
    ],
)
def test_a_preset_has_the_sizes_of_its_name(name: str, hidden_size: int, depth: int, heads: int) -> None:
    config = load_config(name)

    assert (config.hidden_size, config.depth, config.heads) == (hidden_size, depth, heads)
    assert (config.latent_size, config.patch_size, config.positions) == ((32, 32), 2, "cyclic")
    assert (config.context, config.context_frames, config.position_count) == ("previous", 3, 33)


def test_every_preset_is_listed() -> None:
    assert list(PRESETS) == [f"CausalSTDiT2-{size}/2" for size in ("XL", "L", "B", "S")]


def test_the_latent_size_may_be_another(tmp_path: Path) -> None:
    path = write(tmp_path / "it.json", PLAIN)

    assert load_config(path).latent_size == (8, 12)
    assert load_config(path, latent_size=(16, 4)).latent_size == (16, 4)
    assert load_config("CausalSTDiT2-S/2", latent_size=(20, 36)).grid == (10, 18)


def test_a_type_that_names_a_preset_supplies_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "it.json", {"type": "CausalSTDiT2-B/2", "depth": 3})

    assert load_config(path) == dataclasses.replace(load_config("CausalSTDiT2-B/2"), depth=3)


@pytest.mark.parametrize("name", ["it.yaml", "it.yml", "it"])
def test_yaml_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(
        "model:\n  input_size: [8, 8, 12]\n  hidden_size: 64\n  depth: 2\n  num_heads: 4\n  max_tpe_len: 9\n"
        "  relative_tpe_mode: rope\n  spatial_attn_enhance: prev_frames_2  # P\n  caption_channels: null\n"
    )
    config = load_config(path)

    assert config.positions == "rope"
    assert (config.context, config.context_frames) == ("previous", 2)
    assert config.text_width == 0


def test_python_in_yaml_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(f"depth: !!python/object/apply:os.mkdir [{tmp_path}/ran]")
    with pytest.raises(ExportError, match="it.yaml: neither JSON nor YAML: could not determine a constructor"):
        load_config(tmp_path / "it.yaml")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "context"),
    [
        ({}, (None, 0)),
        ({"spatial_attn_enhance": "prev_frames_3"}, ("previous", 3)),
        ({"cross_frame_attn": "prev_prefix_2"}, ("previous", 2)),
        ({"spatial_attn_enhance": None, "cross_frame_attn": "prev_prefix_2"}, ("previous", 2)),
        ({"spatial_attn_enhance": "first_frame"}, ("first", 1)),
    ],
)
def test_both_spellings_of_the_context_are_read(arguments: dict[str, Any], context: tuple[str | None, int]) -> None:
    config = config_from_arguments(PLAIN | arguments)

    assert (config.context, config.context_frames) == context


def test_arguments_without_effect_on_sampling_are_ignored() -> None:
    more = {"class_dropout_prob": 0.1, "enable_flashattn": True, "dtype": "bf16", "from_pretrained": "x.pth"}

    assert config_from_arguments(PLAIN | more) == config_from_arguments(PLAIN)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"is_causal": False}, "is_causal must be true or 'partial', got False; other models cannot cache K and V"),
        ({"is_causal": "no"}, "is_causal must be true or 'partial', got 'no'"),
        ({"patch_size": [2, 2, 2]}, r"patch_size must be \[1, p, p\], got \[2, 2, 2\]"),
        ({"patch_size": [1, 2, 4]}, r"patch_size must be \[1, p, p\], got \[1, 2, 4\]"),
        ({"patch_size": [2, 2]}, r"patch_size must be a list of at least 3 numbers, got \[2, 2\]"),
        ({"patch_size": 2}, "patch_size must be a list of at least 3 numbers, got 2"),
        ({"patch_size": [1, 0, 0]}, "patch_size must be at least 1, got 0"),
        ({"flavor": 1}, "unknown argument 'flavor'; known are caption_channels, cross_frame_attn, depth"),
        ({3: 1, "x": 2}, "unknown argument '3'; known are"),
        (
            {"input_size": [8, 7, 8]},
            "input_size 7x8 is not two positive multiples of the patch size 2, at most 1048576",
        ),
        ({"input_size": [8, 0, 8]}, "input_size 0x8 is not two positive multiples of the patch size 2"),
        ({"input_size": 8}, "input_size must be a list of at least 2 numbers, got 8"),
        ({"input_size": [8, None, 8]}, "input_size must be a whole number, got None"),
        ({"hidden_size": 66}, "hidden_size must be a multiple of 4 and of num_heads=4, got 66"),
        ({"num_heads": 5}, "hidden_size must be a multiple of 4 and of num_heads=5, got 64"),
        ({"num_heads": 0}, "^num_heads must be at least 1, got 0"),
        ({"depth": -1}, "depth must be at least 1, got -1"),
        ({"depth": "deep"}, "depth must be a whole number, got 'deep'"),
        ({"depth": 2.5}, "depth must be a whole number, got 2.5"),
        ({"depth": True}, "depth must be a whole number, got True"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a number, got nan"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive and at most 1024, got 0"),
        ({"time_scale": 0}, "time_scale must be positive and at most 1024, got 0"),
        ({"max_tpe_len": 0}, "max_tpe_len must be at least 1, got 0"),
        ({"caption_channels": -4}, "caption_channels must be at least 0, got -4"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"model_max_length": 0}, "model_max_length must be at least 1, got 0"),
        ({"hidden_size": 10**9}, "hidden_size must be at most 131072, got 1000000000"),
        ({"depth": 10**9}, "depth must be at most 1024, got 1000000000"),
        ({"mlp_ratio": 1e300}, "mlp_ratio must be positive and at most 1024, got 1e[+]300"),
        ({"pred_sigma": "false"}, "pred_sigma must be true or false, got 'false'"),
        ({"temp_extra_in_channels": 2}, "temp_extra_in_channels must be 0 or 1, got 2"),
        (
            {"temp_extra_in_all_block": True},
            "temp_extra_in_all_block must be false; a mask channel in every block is not supported",
        ),
        ({"relative_tpe_mode": "alibi"}, "relative_tpe_mode must be 'cyclic', 'rope' or null, got 'alibi'"),
        (
            {"relative_tpe_mode": "rope", "hidden_size": 60, "num_heads": 4},
            "RoPE rotates pairs and needs an even head size, got 15",
        ),
        (
            {"spatial_attn_enhance": "prev_frames_0"},
            "spatial_attn_enhance must be 'prev_frames_N', 'first_frame' or null, got 'prev_frames_0'",
        ),
        ({"spatial_attn_enhance": "next_frames_2"}, "or null, got 'next_frames_2'"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        config_from_arguments(PLAIN | arguments)


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "depth", "num_heads", "max_tpe_len"])
def test_a_missing_argument_is_named(name: str) -> None:
    arguments = {other: value for other, value in PLAIN.items() if other != name}
    with pytest.raises(ExportError, match=f"argument '{name}' is missing, and no preset supplies it"):
        config_from_arguments(arguments)


def test_errors_in_a_file_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"^{tmp_path}/it.json: depth must be at least 1, got 0$"):
        load_config(write(tmp_path / "it.json", PLAIN | {"depth": 0}))


def test_a_missing_file_lists_the_presets() -> None:
    with pytest.raises(ExportError, match=r"^XL/2: not a readable .* no preset \(CausalSTDiT2-XL/2, .*No such file"):
        load_config("XL/2")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("it.json", '{"depth": ', "it.json: not JSON: Expecting value"),
        ("it.json", "[1]", "it.json: wanted a mapping of constructor arguments, found list"),
        ("it.yaml", "depth: [", "it.yaml: neither JSON nor YAML: while parsing"),
        ("it.yaml", "depth: 2024-13-45", "it.yaml: neither JSON nor YAML: month must be in 1..12"),
        ("it.yaml", "", "it.yaml: wanted a mapping of constructor arguments, found NoneType"),
        ("it.py", "model = dict(depth=2)", "it.py: wanted a mapping of constructor arguments, found str"),
    ],
)
def test_a_file_without_arguments_is_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ExportError, match=sentence):
        load_config(tmp_path / name)


def with_rope(config: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(config, positions="rope")


def absolute(config: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(config, positions="absolute")


def with_context(config: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(config, context="previous", context_frames=3)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (with_context, {"chunk_frames": 2}, "chunk_frames must be at least context_frames=3, got 2"),
        (None, {"chunk_frames": 5, "slots": 4}, "slots must be at least chunk_frames=5, got 4"),
        (with_rope, {"chunk_frames": 3, "slots": 4}, "there are 6 rope positions .*, got slots=4, chunk_frames=3; use"),
        (None, {"chunk_frames": 2, "slots": 5}, "there are 6 cyclic positions .*, got slots=5, .*; use slots=4 or"),
        (None, {"chunk_frames": 2, "slots": 10**6}, "there are 6 cyclic positions .*, got slots=1000000"),
        (None, {"chunk_frames": 4, "slots": 4}, "got slots=4, chunk_frames=4; use chunk_frames=3 or fewer"),
        (absolute, {"chunk_frames": 2, "slots": 7}, "there are 6 absolute positions, .*, got slots=7; use slots=6 or"),
        (None, {"chunk_frames": 0}, "chunk_frames must be at least 1, got 0"),
        (None, {"slots": 0}, "slots must be at least 1, got 0"),
        (None, {"requests": 0}, "requests must be at least 1 and at most 65536, got 0"),
        (None, {"max_steps": 99999999999}, "max_steps must be at least 1 and at most 1000, got 99999999999"),
        (None, {"precisions": ()}, r"precisions must be fp32 or fp16 or both, got \[\]"),
        (None, {"precisions": ("int8",)}, r"precisions must be fp32 or fp16 or both, got \['int8'\]"),
        (
            None,
            {"max_steps": 4, "sampler": SamplerDefaults("ddim", 12)},
            "max_steps must be at least the default of sampler 'ddim', 12 steps, got 4",
        ),
    ],
)
def test_options_that_do_not_fit_the_model_write_nothing(
    tmp_path: Path,
    change: Callable[[TransformerConfig], TransformerConfig] | None,
    options: dict[str, Any],
    sentence: str,
) -> None:
    model = random_model(change(SMALL) if change else SMALL, 1)
    with pytest.raises(ValueError, match=sentence):
        export_bundle(model, tmp_path / "bundle", ExportOptions(**options), name="it")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("slots", "warned"), [(3, True), (4, False)])
def test_rope_positions_that_are_not_slots_and_chunk_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, slots: int, warned: bool
) -> None:
    class Stop(Exception):
        pass

    def stop(stage: str) -> None:
        raise Stop  # before the first graph is traced

    with pytest.raises(Stop), caplog.at_level(logging.WARNING, "vdmrt"):
        options = ExportOptions(chunk_frames=2, slots=slots)
        export_bundle(random_model(with_rope(SMALL), 1), tmp_path / "it", options, name="it", progress=stop)

    assert ("RoPE has 6 positions, slots + chunk frames are 5" in caplog.text) is warned


@pytest.mark.parametrize("positions", ["cyclic", "rope", "absolute"])
def test_slots_may_be_as_many_as_there_are_positions_for(positions: Positions) -> None:
    config = dataclasses.replace(SMALL, positions=positions)
    slots = 6 if positions == "absolute" else 4

    assert make_geometry(config, ExportOptions(chunk_frames=2, slots=slots)).slots == slots


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("CausalSTDiT2-XL/2", "CausalSTDiT2-XL/2"),
        ("runs/clouds/config.json", "clouds"),
        ("runs/clouds/Config.yaml", "clouds"),
        ("runs/clouds.json", "clouds"),
        ("/config.json", "config"),
    ],
)
def test_a_model_is_named_by_its_preset_file_or_folder(path: str, name: str) -> None:
    assert name_model(path) == name


def test_a_field_is_named_as_the_dataclass_has_it() -> None:
    with pytest.raises(ExportError, match="^heads must be at least 1, got 0$"):
        dataclasses.replace(SMALL, heads=0)


def test_a_model_beyond_the_memory_is_refused() -> None:
    config = dataclasses.replace(SMALL, latent_size=(10**5, 10**5), hidden_size=1152)
    sentence = r"hidden size 1152, depth 1 and latents of 100000x100000 needs 10\.6 TiB of memory, and .* available"
    with pytest.raises(ExportError, match=sentence):
        random_model(config, 1)


def test_a_codec_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    model = random_model(dataclasses.replace(SMALL, latent_size=(2**19, 2)), 1)
    with pytest.raises(ExportError, match="the preview codec of latents of 524288x2 needs 8 TiB of memory, and"):
        export_bundle(model, tmp_path / "it", ExportOptions(chunk_frames=2, slots=4), name="it")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"must be 0 <= seed < 2\*\*63, got {seed}"):
        random_model(SMALL, seed)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = (random_model(SMALL, seed).state_dict() for seed in (1, 1, 2))

    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)
