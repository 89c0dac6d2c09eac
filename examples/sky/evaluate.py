"""Evaluation of the demo model on skies outside its training set; exit status 1 if a gate is missed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from curves import draw_curves
from metrics import displacement, is_same_direction, psnr, shift_picture
from PIL import Image
from sky import SIZE, Sky

import vdmrt
from vdmrt.runtime.session.model import Model

__all__ = ["Gates", "measure_codec", "measure_lasting", "measure_prediction"]

SAMPLERS = ("iddpm", "ddim", "dpm-solver++")
STEPS = (10, 25, 50)
GIVEN, CHUNK = 9, 8
SKIES = 32
LASTING_SKIES, LASTING_FRAMES = 6, 200
_HERE = Path(__file__).parent

Pictures = npt.NDArray[np.uint8]


@dataclass
class Gates:
    """Checked gates.

    Attributes:
        missed: Sentences about gates that were missed.
        count: Gates checked.
    """

    missed: list[str] = field(default_factory=list)
    count: int = 0

    def check(self, name: str, value: float, *, least: float = -np.inf, most: float = np.inf) -> None:
        """Check one figure and print it beside its bounds."""
        self.count += 1
        held = least <= value <= most
        bounds = " and ".join(
            [f"at least {least:g}"] * bool(np.isfinite(least)) + [f"at most {most:g}"] * bool(np.isfinite(most))
        )
        click.echo(f"{'ok    ' if held else 'MISSED'}  {name}: {value:.3f} ({bounds})")
        if not held:
            self.missed.append(name)


@click.command()
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=_HERE / "bundle",
    help="The bundle.  [default: bundle/ beside this file]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Folder of pictures and figures.",
)
@click.option("--threads", default=None, type=int, help="Threads on the CPU.")
def main(bundle: Path, output: Path, threads: int | None) -> None:
    """Measure the bundle against every gate; about a quarter of an hour on two cores."""
    output.mkdir(parents=True, exist_ok=True)
    gates = Gates()
    with vdmrt.load(bundle, threads=threads) as model:
        figures = {
            "codec": measure_codec(model, gates),
            "prediction": measure_prediction(model, gates, output),
            "lasting": measure_lasting(model, gates, output),
        }
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if gates.missed:
        click.echo(f"missed {len(gates.missed)} of {gates.count} gates: {'; '.join(gates.missed)}")
        sys.exit(1)
    click.echo(f"all {gates.count} gates hold")


def measure_codec(model: Model, gates: Gates) -> dict[str, float]:
    """Encode and decode frames of unseen skies."""
    assert model.codec is not None
    pictures = np.concatenate([Sky(seed).frames(0, 1) for seed in range(2 * SKIES)])
    decoded = model.codec.decode(model.codec.encode(pictures))
    found = float(np.mean([psnr(one, other) for one, other in zip(decoded, pictures, strict=True)]))
    gates.check("autoencoder, PSNR on unseen skies in dB", found, least=30.0)
    return {"psnr": found}


def measure_prediction(
    model: Model, gates: Gates, output: Path, *, samplers: tuple[str, ...] = SAMPLERS, steps: tuple[int, ...] = STEPS
) -> dict[str, float]:
    """Predict 8 pixel frames after 9 given ones, for every sampler and number of steps."""
    skies = [Sky(seed) for seed in range(SKIES)]
    clips = [sky.frames(0, GIVEN + CHUNK) for sky in skies]
    figures = _measure_without_model(skies, clips)
    click.echo(f"        an oracle that shifts the last frame by the true wind: {figures['oracle']:.3f} dB")
    gates.check("repeating the last frame, PSNR in dB", figures["baseline"], least=20.0)
    for sampler in samplers:
        for count in steps:
            made = [predict(model, clip[:GIVEN], sampler, count, seed) for seed, clip in enumerate(clips)]
            found = float(np.mean([psnr(one, clip[GIVEN:]) for one, clip in zip(made, clips, strict=True)]))
            right = _share_right(made, skies)
            since_given = _share_right(
                [np.concatenate([c[GIVEN - 1 : GIVEN], m]) for c, m in zip(clips, made, strict=True)], skies
            )
            name = f"{sampler}, {count} steps"
            gates.check(f"{name}: dB above repeating the last frame", found - figures["baseline"], least=1.5)
            gates.check(f"{name}: share of skies that move the right way", right, least=0.9)
            click.echo(f"        the same, counted from the last given frame on: {since_given:.3f}")
            figures |= {f"{name}: psnr": found, f"{name}: right way": right, f"{name}: since given": since_given}
            if count == steps[0]:
                _paste_predictions(output / f"prediction-{sampler}.png", clips[:4], made[:4])
    return figures


def _share_right(clips: list[Pictures], skies: list[Sky]) -> float:
    """Return the share of clips whose clouds move within 45 degrees of their sky's wind."""
    return float(np.mean([is_same_direction(displacement(c), s.wind) for c, s in zip(clips, skies, strict=True)]))


def predict(model: Model, given: Pictures, sampler: str, steps: int, seed: int) -> Pictures:
    """Return the chunk that follows the given pixel frames."""
    with model.session(seed=seed, sampler=sampler, steps=steps) as session:
        session.start(given)
        return session.step().pictures


def measure_lasting(model: Model, gates: Gates, output: Path, *, skies: int = LASTING_SKIES) -> dict[str, float]:
    """Generate 200 pixel frames of several skies, and compare their statistics with the real ones of the same skies."""
    real = np.stack([Sky(1000 + number).frames(0, GIVEN + LASTING_FRAMES) for number in range(skies)])
    made = np.stack([_generate(model, clip[:GIVEN], number) for number, clip in enumerate(real)])
    real = real[:, GIVEN:]
    figures: dict[str, float] = {}
    ratios = {"mean": made.mean((0, 1, 2, 3)) / real.mean((0, 1, 2, 3)), "variance": _spread(made) / _spread(real)}
    for kind, values in ratios.items():
        for channel, ratio in zip(("red", "green", "blue"), values, strict=True):
            gates.check(f"200 frames: {kind} of {channel} over the data's", float(ratio), least=0.85, most=1.15)
            figures[f"{kind} of {channel}"] = float(ratio)
    figures["motion"] = float(_motion(made).mean() / _motion(real).mean())
    figures["motion, last 50 frames"] = float(_motion(made)[:, -50:].mean() / _motion(real)[:, -50:].mean())
    gates.check("200 frames: change between neighbors over the data's", figures["motion"], least=0.5, most=2.0)
    _draw_lasting(output, real, made)
    return figures


def _measure_without_model(skies: list[Sky], clips: list[Pictures]) -> dict[str, float]:
    repeated = [psnr(clip[GIVEN - 1 : GIVEN], clip[GIVEN:]) for clip in clips]
    shifted = []
    for sky, clip in zip(skies, clips, strict=True):
        ahead = range(1, CHUNK + 1)
        frames = [shift_picture(clip[GIVEN - 1], sky.wind[0] * step, sky.wind[1] * step) for step in ahead]
        shifted.append(psnr(np.stack(frames), clip[GIVEN:]))
    return {"baseline": float(np.mean(repeated)), "oracle": float(np.mean(shifted))}


def _generate(model: Model, given: Pictures, seed: int) -> Pictures:
    """Return 200 pixel frames after the given ones, with the bundle's default sampler."""
    with model.session(seed=seed) as session:
        session.start(given)
        return np.concatenate([chunk.pictures for chunk in session.stream(LASTING_FRAMES // CHUNK)])


def _spread(clips: Pictures) -> npt.NDArray[np.float64]:
    spread: npt.NDArray[np.float64] = clips.reshape(-1, 3).astype(np.float64).var(axis=0)
    return spread


def _motion(clips: Pictures) -> npt.NDArray[np.float64]:
    """Return the mean absolute difference between neighboring frames, [clips, frames - 1]."""
    levels = clips.astype(np.float64)
    motion: npt.NDArray[np.float64] = np.abs(np.diff(levels, axis=1)).mean((2, 3, 4))
    return motion


def _draw_lasting(output: Path, real: Pictures, made: Pictures) -> None:
    over_time = {"generated": made, "real": real}
    draw_curves(
        output / "lasting-mean.png",
        {name: clips.mean((0, 2, 3, 4)).tolist() for name, clips in over_time.items()},
        title="mean level over time",
    )
    draw_curves(
        output / "lasting-variance.png",
        {name: clips.astype(np.float64).var((2, 3, 4)).mean(0).tolist() for name, clips in over_time.items()},
        title="variance within a frame over time",
    )
    draw_curves(
        output / "lasting-motion.png",
        {name: _motion(clips).mean(0).tolist() for name, clips in over_time.items()},
        title="mean absolute difference between neighbors over time",
    )
    shown = list(range(0, LASTING_FRAMES, 20))
    _paste(output / "lasting.png", [row for clip in made[:6] for row in [clip[shown]]])


def _paste_predictions(path: Path, clips: list[Pictures], made: list[Pictures]) -> None:
    """Write real and generated frames of some skies in rows, each starting with the last given frame."""
    rows = []
    for clip, chunk in zip(clips, made, strict=True):
        last = clip[GIVEN - 1 : GIVEN]
        rows += [np.concatenate([last, clip[GIVEN::1]]), np.concatenate([last, chunk])]
    _paste(path, rows)


def _paste(path: Path, rows: list[Pictures]) -> None:
    sheet = Image.new("RGB", (len(rows[0]) * (SIZE + 2), len(rows) * (SIZE + 2)), "white")
    for down, row in enumerate(rows):
        for right, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (right * (SIZE + 2), down * (SIZE + 2)))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
