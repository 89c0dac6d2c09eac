"""Training of the sky's two models: ``train.py codec``, then ``train.py transformer``."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from codec_training import CodecTraining
from curves import draw_curves

_CHECKPOINT_SECONDS = 300


@click.group()
def main() -> None:
    """Train the picture autoencoder, then the transformer on its latents."""


@main.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of checkpoints and curves.",
)
@click.option("--steps", default=900, show_default=True, help="Training steps in all; a checkpoint counts.")
@click.option("--seed", default=0, show_default=True, help="Of weights and data.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", default=2, show_default=True, help="Threads on the CPU.")
def codec(output: Path, steps: int, seed: int, device: str, threads: int) -> None:
    """Train the autoencoder; minutes on two cores."""
    torch.set_num_threads(threads)
    training = CodecTraining(output / "codec.pt", steps, seed, device)
    for loss in training.run():
        done = len(training.losses)
        if done % 10 == 0:
            click.echo(f"codec {done}/{steps}  loss {loss:.5f}", err=True)
    training.save()
    draw_curves(
        output / "codec-loss.png",
        {"loss": training.losses},
        title="autoencoder: MSE",
        logarithmic=True,
        smooth=10,
    )
    click.echo(training.path)


if __name__ == "__main__":
    main()
