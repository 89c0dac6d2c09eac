"""Renderer of sky time-lapses: two layers of clouds that move with the wind over a dark horizon, of any length.

Only the wind changes a sky, so that the next frames are predictable, except at the edge where new clouds enter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SIZE", "Layer", "Sky"]

SIZE = 64
"""Side of a pixel frame."""

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]

# Period of the clouds in pixels; the layers differ in speed, so that the sky itself does not repeat.
_FIELD = (128, 256)
# Wavelengths of the octaves in pixels, and their weights.
_OCTAVES = ((64.0, 1.0), (32.0, 0.8), (16.0, 0.25))
_SLOWEST, _FASTEST = 0.5, 2.0
_STEEPEST = np.deg2rad(12.0)

_DAY_TOP, _DUSK_TOP = (0.13, 0.32, 0.68), (0.12, 0.12, 0.33)
_DAY_LOW, _DUSK_LOW = (0.62, 0.80, 0.95), (0.95, 0.50, 0.25)
_DAY_CLOUD, _DUSK_CLOUD = (0.98, 0.98, 0.98), (0.93, 0.62, 0.55)
_DAY_SHADE, _DUSK_SHADE = (0.68, 0.72, 0.79), (0.52, 0.36, 0.44)
_GROUND = (0.05, 0.06, 0.07)


class Layer(NamedTuple):
    """One layer of clouds.

    Attributes:
        field: Periodic noise of about unit variance.
        origin: Position of the window in the field at frame 0: row, column.
        wind: Pixels per frame that the clouds move: down, right.
    """

    field: Floats
    origin: tuple[float, float]
    wind: tuple[float, float]


class Sky:
    """One sky, the same for the same seed.

    Attributes:
        wind: Pixels per frame that the low, opaque clouds move: down, right.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng([seed, 0x5C1])
        heading = random.uniform(-_STEEPEST, _STEEPEST) + np.pi * random.integers(2)
        speed = random.uniform(_SLOWEST, _FASTEST)
        direction = (float(np.sin(heading)), float(np.cos(heading)))
        self.wind = (speed * direction[0], speed * direction[1])
        high = max(0.6 * speed, _SLOWEST)
        self._low = _make_layer(random, self.wind)
        self._high = _make_layer(random, (high * direction[0], high * direction[1]))
        self._cover = float(random.uniform(-0.1, 0.5))
        dusk = float(random.uniform(0.0, 1.0))
        self._light, self._shade = _mix(_DAY_CLOUD, _DUSK_CLOUD, dusk), _mix(_DAY_SHADE, _DUSK_SHADE, dusk)
        self._backdrop = _paint_backdrop(random, dusk)
        self._ground = _draw_ground(random)

    def frames(self, first: int, count: int) -> Pictures:
        """Render ``count`` pixel frames from ``first`` on, uint8 [count, 64, 64, 3]; any ``first`` costs the same."""
        numbers = np.arange(first, first + count)
        thickness = _look_at(self._low, numbers) + self._cover
        low = _smooth_step(thickness, -0.4, 1.4)
        high = _smooth_step(_look_at(self._high, numbers), 0.2, 2.0) * np.float32(0.5)
        # Thick clouds are darker in the middle.
        shade = _smooth_step(thickness, 0.6, 2.6)[..., None]
        picture = _blend(self._backdrop, self._light, high[..., None])
        picture = _blend(picture, _blend(self._light, self._shade, shade), low[..., None] * np.float32(0.92))
        picture = _blend(picture, np.array(_GROUND, np.float32), self._ground[..., None])
        levels: Pictures = (picture * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
        return levels


def _make_layer(random: np.random.Generator, wind: tuple[float, float]) -> Layer:
    origin = random.uniform(0, _FIELD[0]), random.uniform(0, _FIELD[1])
    return Layer(_make_noise(random), origin, wind)


def _make_noise(random: np.random.Generator) -> Floats:
    """Return periodic noise of a few octaves, of unit variance, stretched horizontally by half."""
    rows, columns = _FIELD
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None] * 1.5)
    frequency[0, 0] = np.inf
    amplitude = sum(
        weight * wavelength * np.exp(-8.0 * np.log2(np.minimum(frequency, 1e6) * wavelength) ** 2 / 4.0)
        for wavelength, weight in _OCTAVES
    )
    spectrum = random.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2(amplitude * (spectrum[0] + 1j * spectrum[1]), s=_FIELD)
    scaled: Floats = (noise / noise.std()).astype(np.float32)
    return scaled


def _look_at(layer: Layer, numbers: npt.NDArray[np.int64]) -> Floats:
    """Return the window of every frame, [frames, 64, 64], between pixels by bilinear interpolation."""
    rows, row_share = _grid(layer, numbers, 0)
    columns, column_share = _grid(layer, numbers, 1)
    block = layer.field[rows[:, :, None], columns[:, None, :]]
    tall = block[:, :-1] + row_share[:, None, None] * (block[:, 1:] - block[:, :-1])
    wide: Floats = tall[..., :-1] + column_share[:, None, None] * (tall[..., 1:] - tall[..., :-1])
    return wide


def _grid(layer: Layer, numbers: npt.NDArray[np.int64], axis: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the field's indices in the window, [frames, 65], and the weight of the later neighbor."""
    start = (layer.origin[axis] - layer.wind[axis] * numbers) % _FIELD[axis]
    whole = np.floor(start)
    index = (whole.astype(np.int64)[:, None] + np.arange(SIZE + 1)) % _FIELD[axis]
    return index, (start - whole).astype(np.float32)


def _paint_backdrop(random: np.random.Generator, dusk: float) -> Floats:
    """Return the cloudless sky with its sun, [64, 64, 3]."""
    height = np.linspace(0.0, 1.0, SIZE, dtype=np.float32)[:, None, None]
    sky = _blend(_mix(_DAY_TOP, _DUSK_TOP, dusk), _mix(_DAY_LOW, _DUSK_LOW, dusk), height**1.5)
    sun = SIZE * (0.2 + 0.6 * dusk), random.uniform(8, SIZE - 8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(rows - sun[0], columns - sun[1]).astype(np.float32)
    glow = 0.5 * np.exp(-distance / 14.0) + 0.5 * _smooth_step(-distance, -6.0, -3.0)
    warm = _mix((1.0, 0.98, 0.90), (1.0, 0.80, 0.45), dusk)
    return _blend(np.broadcast_to(sky, (SIZE, SIZE, 3)), warm, glow[..., None])


def _draw_ground(random: np.random.Generator) -> Floats:
    """Return the share of dark ground in every pixel, [64, 64]: low hills along the horizon."""
    along = np.arange(SIZE) / SIZE
    hills = sum(
        random.normal() / octave * np.sin(2 * np.pi * (octave * along + random.uniform())) for octave in (1, 2, 3)
    )
    top = SIZE - random.uniform(6, 10) - 1.5 * np.asarray(hills)
    return _smooth_step(np.arange(SIZE)[:, None] - top[None], -0.5, 1.0)


def _smooth_step(values: npt.NDArray[Any], low: float, high: float) -> Floats:
    share = np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return share * share * (3.0 - 2.0 * share)


def _mix(one: tuple[float, float, float], other: tuple[float, float, float], share: float) -> Floats:
    return _blend(np.array(one, np.float32), np.array(other, np.float32), np.float32(share))


def _blend(one: Floats, other: Floats, share: Any) -> Floats:
    blended: Floats = one + (other - one) * share
    return blended
