"""Checkpoints of all formats are read, and checked against the model."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vdmrt.errors import CheckpointError
from vdmrt.export import CausalTransformer, TransformerConfig, load_model, random_model, read_checkpoint
from vdmrt.export.checkpoint_files import checkpoint_sha256

Weights = dict[str, Tensor]

SMALL = TransformerConfig(latent_size=(4, 4), hidden_size=16, depth=1, heads=2, position_count=6)
KEY = "blocks.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def model() -> CausalTransformer:
    made: CausalTransformer = random_model(SMALL, 3)
    return made


@pytest.fixture
def weights(model: CausalTransformer) -> Weights:
    """Yield the weights in a dictionary that a test may alter."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(path: Path, document: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(document, path)
    else:
        torch.save(document, path)
    return path


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def split(weights: Weights) -> tuple[Weights, Weights]:
    names = sorted(weights)
    return {name: weights[name] for name in names[::2]}, {name: weights[name] for name in names[1::2]}


def assert_loads(path: Path, wanted: CausalTransformer) -> None:
    loaded = load_model(SMALL, path).state_dict()

    assert all(torch.equal(loaded[name], tensor) for name, tensor in wanted.state_dict().items())


@pytest.mark.parametrize("name", ["it.safetensors", "it.pth", "it.pt", "it.bin", "it.ckpt"])
def test_one_file_is_read(tmp_path: Path, model: CausalTransformer, weights: Weights, name: str) -> None:
    assert_loads(save(tmp_path / name, weights), model)


NESTS: dict[str, Callable[[Weights], Any]] = {
    "ema": lambda weights: {"ema": weights, "model": {}, "epoch": 3},
    "state_dict": lambda weights: {"state_dict": weights},
    "model": lambda weights: {"model": weights, "opt": {"state": {0: torch.zeros(1)}}},
    "module": lambda weights: {"module": weights},
    "two deep": lambda weights: {"model": {"module": weights}},
    "module.": lambda weights: prefixed("module.", weights),
    "model.": lambda weights: prefixed("model.", weights),
    "_orig_mod.": lambda weights: prefixed("_orig_mod.", weights),
    "module._orig_mod.": lambda weights: prefixed("module._orig_mod.", weights),
    "nest and prefix": lambda weights: {"state_dict": prefixed("module.", weights), "step": 1},
    "beside a number": lambda weights: {**weights, "step": 1, 7: torch.zeros(1)},
}


@pytest.mark.parametrize("nest", NESTS)
def test_nested_sets_and_prefixes_are_unwrapped(
    tmp_path: Path, model: CausalTransformer, weights: Weights, nest: str
) -> None:
    assert_loads(save(tmp_path / "it.pth", NESTS[nest](weights)), model)


def with_several(weights: Weights) -> dict[str, Any]:
    raw = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    return {"model": raw, "state_dict": raw, "ema": weights, "opt": {"state": {0: torch.zeros(1)}}, "mine": raw}


def test_averaged_weights_are_preferred_and_named(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    path = save(tmp_path / "it.pth", with_several(weights))
    assert_loads(path, model)
    checkpoint = read_checkpoint(path)

    assert checkpoint.weights == "ema"
    assert checkpoint.sets == ("model", "state_dict", "ema", "mine")


@pytest.mark.parametrize("name", ["model", "mine"])
def test_other_weights_can_be_chosen(tmp_path: Path, weights: Weights, name: str) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "it.pth", with_several(weights)), weights=name)

    assert checkpoint.weights == name
    assert not checkpoint.tensors[KEY].any()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (with_several, "it.pth: has no weights named 'raw'; it has model, state_dict, ema, mine$"),
        (lambda weights: weights, "has no weights named 'raw'; it has one unnamed set, which is the default"),
    ],
)
def test_missing_weights_are_refused_with_the_existing_ones(
    tmp_path: Path, weights: Weights, document: Callable[[Weights], Any], sentence: str
) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(save(tmp_path / "it.pth", document(weights)), weights="raw")


def test_weights_of_an_unknown_name_have_to_be_chosen(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.pth", {"mine": weights, "yours": weights, "step": 3})
    with pytest.raises(CheckpointError, match="has weights named mine, yours; choose with weights='mine'"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["it.safetensors", "it.pth"])
def test_a_configuration_that_contradicts_the_shapes_is_refused_before_anything_is_allocated(
    tmp_path: Path, weights: Weights, name: str
) -> None:
    config = dataclasses.replace(SMALL, hidden_size=2**17, position_count=2**20)
    with pytest.raises(CheckpointError, match=r"\d+ misshapen \(.* wanted \[131072.*give the --config it was trained"):
        load_model(config, save(tmp_path / name, weights))


@pytest.mark.parametrize("name", ["it.safetensors", "it.pth"])
def test_weights_are_mapped_from_the_file(tmp_path: Path, weights: Weights, name: str) -> None:
    path = save(tmp_path / name, weights)
    checkpoint = read_checkpoint(path)

    assert (checkpoint.weights, checkpoint.sets) == (None, ())
    assert str(path) in Path("/proc/self/maps").read_text()
    assert torch.equal(checkpoint.tensors[KEY], weights[KEY])


def test_a_folder_of_several_files_is_read(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    for number, part in enumerate(split(weights)):
        save(tmp_path / f"part{number}.safetensors", part)

    assert_loads(tmp_path, model)


def test_a_folder_of_one_pth_is_read(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    save(tmp_path / "it.pth", weights)

    assert_loads(tmp_path, model)


def sharded(folder: Path, weights: Weights) -> Path:
    shards = dict(zip(("a.safetensors", "b.safetensors"), split(weights), strict=True))
    for name, part in shards.items():
        save(folder / name, part)
    places = {key: name for name, part in shards.items() for key in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_an_index_names_the_shards(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    index = sharded(tmp_path, weights)
    save(tmp_path / "optimizer.safetensors", {"foreign": torch.zeros(1)})

    assert_loads(index, model)
    assert_loads(tmp_path, model)


def test_one_hash_covers_all_files(tmp_path: Path, weights: Weights) -> None:
    index = sharded(tmp_path, weights)
    before = checkpoint_sha256(index)
    save(tmp_path / "b.safetensors", {"foreign": torch.zeros(1)})

    assert len(before) == 64
    assert checkpoint_sha256(index) != before


def test_half_precision_is_read_as_float32(tmp_path: Path, weights: Weights) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    loaded = load_model(SMALL, save(tmp_path / "it.safetensors", half))

    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.state_dict()[KEY], half[KEY].float())


def test_buffers_of_another_size_are_rebuilt(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    weights["pos_embed"] = torch.zeros(1, 64, 16)
    weights["pos_embed_temporal"] = torch.full((1, 2, 16), torch.nan)
    weights["bov_token"] = torch.zeros(4, 8, 8)
    weights["blocks.0.attn_temp.cache_kv"] = torch.zeros(3)

    assert_loads(save(tmp_path / "it.pth", weights), model)


def test_buffers_may_be_absent(tmp_path: Path, model: CausalTransformer, weights: Weights) -> None:
    for name in ("pos_embed", "pos_embed_temporal", "bov_token"):
        del weights[name]

    assert_loads(save(tmp_path / "it.safetensors", weights), model)


def test_mismatches_are_counted_and_named(tmp_path: Path, weights: Weights) -> None:
    del weights["blocks.0.mlp.fc2.bias"]
    weights["blocks.9.mlp.fc1.weight"] = torch.zeros(1)
    weights[KEY] = torch.zeros(3, 5)
    sentence = (
        rf"is not a checkpoint of this model: 1 missing \(blocks.0.mlp.fc2.bias\); 1 unexpected "
        rf"\(blocks.9.mlp.fc1.weight\); 1 misshapen \({KEY} wanted \[64, 16\], found \[3, 5\]\); "
        "give the --config it was trained with$"
    )
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_model(SMALL, save(tmp_path / "it.safetensors", weights))

    assert caught.value.missing == ("blocks.0.mlp.fc2.bias",)
    assert caught.value.unexpected == ("blocks.9.mlp.fc1.weight",)
    assert caught.value.misshapen == ((KEY, (64, 16), (3, 5)),)


def test_a_long_list_is_shortened(tmp_path: Path) -> None:
    path = save(tmp_path / "it.safetensors", {"foreign": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"\d\d missing \((\S+, ){5}…\); 1 unexpected \(foreign\)") as caught:
        load_model(SMALL, path)

    assert len(caught.value.missing) > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, weights: Weights, value: float) -> None:
    weights[KEY][3, 4] = value
    with pytest.raises(CheckpointError, match=f"'{KEY}' contains NaN or Inf; its training has diverged"):
        load_model(SMALL, save(tmp_path / "it.safetensors", weights))


def test_integer_weights_are_refused(tmp_path: Path, weights: Weights) -> None:
    weights[KEY] = weights[KEY].to(torch.int8)
    with pytest.raises(CheckpointError, match=f"'{KEY}' is torch.int8, wanted floating point"):
        load_model(SMALL, save(tmp_path / "it.safetensors", weights))


@pytest.mark.parametrize("name", ["it.safetensors", "it.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, weights: Weights, name: str, kept: float) -> None:
    path = save(tmp_path / name, weights)
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(CheckpointError, match=f"{name}: is (truncated or not a checkpoint: .|damaged, or contains)"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["it.safetensors", "it.pth"])
@pytest.mark.parametrize("content", [b"weights", b"\x80\x02.", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 100, b"{}"])
def test_a_foreign_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: "):
        read_checkpoint(tmp_path / name)


class Payload:
    """Creates a folder if it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, weights: Weights, protocol: int, plain: bool) -> None:
    path, mark = tmp_path / "it.pth", tmp_path / "it-ran"
    document = {"model": weights, "args": Payload(mark)}
    if plain:
        path.write_bytes(pickle.dumps(document, protocol=protocol))
    else:
        torch.save(document, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="contains more than tensors and would run code .* as .safetensors"):
        read_checkpoint(path)

    assert not mark.exists()


def test_a_list_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wanted a mapping of names to tensors, found list"):
        read_checkpoint(save(tmp_path / "it.pth", [torch.zeros(1)]))


def test_a_mapping_without_tensors_lists_its_keys(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it.pth: contains no tensors; found 'epoch', 'step'"):
        read_checkpoint(save(tmp_path / "it.pth", {"epoch": 1, "step": 2}))


def test_a_foreign_suffix_is_refused(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.pth", weights).rename(tmp_path / "it.onnx")
    with pytest.raises(CheckpointError, match="wanted .safetensors, .pth, .pt, .bin or .ckpt, found '.onnx'"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere.pth: no such checkpoint; wanted a file or a folder with"):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_an_empty_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder has no .safetensors, .pth, .pt, .bin or .index.json file"):
        read_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path, weights: Weights) -> None:
    index = sharded(tmp_path, weights)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="index.json: shard 'b.safetensors' is missing; fetch the checkpoint"):
        read_checkpoint(index)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", 3])
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, name: object) -> None:
    index = tmp_path / "it.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=f"shard {name!r} is outside the index's folder"):
        read_checkpoint(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": [1]}}'])
def test_an_index_without_a_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="it.index.json: wanted JSON with a 'weight_map' from keys to files"):
        read_checkpoint(tmp_path / "it.index.json")


def test_an_empty_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="its 'weight_map' is empty; fetch the checkpoint again"):
        read_checkpoint(tmp_path / "it.index.json")


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it.index.json: cannot be read: No such file or directory"):
        read_checkpoint(tmp_path / "it.index.json")
