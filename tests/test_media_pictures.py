"""Reading of pictures, clips and latents from real files, with one sentence for each failure."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vdmrt.errors import MediaError
from vdmrt.media.pictures import read_clip, read_latents, read_picture


def halves(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Red above, blue below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, :, 0] = 255
    picture[height // 2 :, :, 2] = 255
    return picture


def save_clip(path: Path, pictures: npt.NDArray[np.uint8], *, rotation: int = 0) -> Path:
    # With the index in front, so that a truncated clip can be opened.
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def noise(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def cut(path: Path, nbytes: int) -> Path:
    os.truncate(path, nbytes)
    return path


def save_latents(path: Path, latents: npt.NDArray[np.generic]) -> Path:
    np.save(path, latents)
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user may enter; root, who may read everything, becomes nobody meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(read: Callable[[], object]) -> None:
    if os.geteuid() != 0:
        read()
        return
    os.seteuid(65534)
    try:
        read()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_a_picture_is_read_as_one_pixel_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(halves(64, 48)).save(path)

    picture = read_picture(path, height=32, width=24)

    assert (picture.shape, picture.dtype) == ((1, 32, 24, 3), np.dtype(np.uint8))
    assert np.abs(picture[0, 4, 12].astype(int) - [255, 0, 0]).max() < 8
    assert np.abs(picture[0, 28, 12].astype(int) - [0, 0, 255]).max() < 8


def test_a_picture_of_the_wanted_size_is_unchanged(tmp_path: Path) -> None:
    Image.fromarray(noise(1)[0]).save(tmp_path / "picture.png")

    np.testing.assert_array_equal(read_picture(tmp_path / "picture.png", height=64, width=64), noise(1))


def test_a_wide_picture_is_cut_about_its_center(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")

    assert read_picture(tmp_path / "wide.png", height=16, width=16)[:, :, 2:-2].min() > 240


def test_fine_stripes_are_averaged_and_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")

    small = read_picture(tmp_path / "stripes.png", height=8, width=8)

    assert np.abs(small.astype(int) - 127).max() < 20


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(halves(32, 32)).save(tmp_path / "turned.png", exif=exif)

    picture = read_picture(tmp_path / "turned.png", height=32, width=32)

    np.testing.assert_array_equal(picture[0], halves(32, 32)[::-1])


def test_transparency_and_corrupt_exif_do_not_warn(tmp_path: Path) -> None:
    palette = Image.fromarray(halves(8, 8)).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    Image.fromarray(halves(8, 8)).save(tmp_path / "corrupt.jpg", exif=exif)

    assert read_picture(tmp_path / "palette.png", height=8, width=8).shape == (1, 8, 8, 3)
    assert read_picture(tmp_path / "corrupt.jpg", height=8, width=8).shape == (1, 8, 8, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(noise(1)[0]).save(path)

    cut(path, path.stat().st_size // 2)

    with pytest.raises(MediaError, match="is truncated or damaged: it starts as a (PNG|JPEG|TIFF) picture"):
        read_picture(path, height=8, width=8)


def test_a_picture_of_16_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")

    with pytest.raises(MediaError, match="pixels of mode 'I.*'; save it with 8 bits a channel"):
        read_picture(tmp_path / "deep.png", height=8, width=8)


@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))

    with pytest.raises(MediaError, match=rf"too large to be decoded safely: .*{side * side} pixels"):
        read_picture(tmp_path / "huge.png", height=8, width=8)


def test_the_first_pixel_frames_of_a_clip_are_read(tmp_path: Path) -> None:
    ramp = np.stack([np.full((32, 48, 3), 40 * i, np.uint8) for i in range(6)])
    path = save_clip(tmp_path / "clip.mp4", ramp)

    clip = read_clip(path, height=16, width=24, count=4)

    assert (clip.shape, clip.dtype) == ((4, 16, 24, 3), np.dtype(np.uint8))
    assert np.abs(clip.astype(int) - ramp[:4, ::2, ::2]).mean() < 3


def test_a_short_clip_gives_fewer_pixel_frames(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "clip.mp4", noise(3))

    assert len(read_clip(path, height=64, width=64, count=100)) == 3


def test_a_rotated_clip_is_turned_upright(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "clip.mp4", np.stack([np.rot90(halves(64, 64), -1)]), rotation=90)

    clip = read_clip(path, height=64, width=64, count=1)

    assert np.abs(clip[0].astype(int) - halves(64, 64)).mean() < 8


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_clip_is_refused_when_its_end_is_read(tmp_path: Path, kept: float) -> None:
    path = save_clip(tmp_path / "clip.mp4", noise(30))
    cut(path, int(path.stat().st_size * kept))

    with pytest.raises(MediaError, match="is truncated or damaged: it starts as an MP4 clip, then: "):
        read_clip(path, height=8, width=8, count=30)
    assert len(read_clip(path, height=8, width=8, count=2)) == 2


def test_a_clip_without_video_is_refused(tmp_path: Path) -> None:
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))

    with pytest.raises(MediaError, match=r"sound\.mp4' has no video stream"):
        read_clip(tmp_path / "sound.mp4", height=8, width=8, count=1)


def test_a_clip_in_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", noise(2))
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))

    with pytest.raises(MediaError, match="has a video stream in a codec that this PyAV does not know"):
        read_clip(clip, height=8, width=8, count=1)


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", noise(2))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n")

    with pytest.raises(MediaError, match="is not a clip: it starts with b'#EXTM3U"):
        read_clip(playlist, height=8, width=8, count=1)


def test_another_file_type_is_named(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip.mp4", noise(2))
    Image.fromarray(noise(1)[0]).save(tmp_path / "picture.png")
    np.savez(tmp_path / "many.npz", a=np.zeros(3))

    with pytest.raises(MediaError, match="is not a picture but an MP4 clip; give PNG, JPEG"):
        read_picture(clip, height=8, width=8)
    with pytest.raises(MediaError, match="is not a clip but a PNG picture; give MP4, MOV"):
        read_clip(tmp_path / "picture.png", height=8, width=8, count=1)
    with pytest.raises(MediaError, match=r"is not an array of latents but a zip archive .* give a \.npy file"):
        read_latents(tmp_path / "many.npz")


READERS: list[Callable[[Path], object]] = [
    lambda path: read_picture(path, height=8, width=8),
    lambda path: read_clip(path, height=8, width=8, count=1),
    read_latents,
]


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.bin' does not exist"):
        read(tmp_path / "nowhere.bin")


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_not_a_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(MediaError, match="is a folder; give the path of a file"):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS)
def test_a_path_below_a_file_cannot_be_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MediaError, match="cannot be read: Not a directory"):
        read(tmp_path / "file" / "below.png")


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_another_user_cannot_be_read(open_folder: Path, read: Callable[[Path], object]) -> None:
    secret = open_folder / "secret.png"
    secret.touch(mode=0o000)
    closed = open_folder / "closed"
    closed.mkdir(mode=0o000)

    with pytest.raises(MediaError, match=r"secret\.png' cannot be read: Permission denied"):
        as_nobody(lambda: read(secret))
    with pytest.raises(MediaError, match=r"within\.png' cannot be read: Permission denied"):
        as_nobody(lambda: read(closed / "within.png"))


@pytest.mark.parametrize("read", READERS)
def test_an_empty_file_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "empty").touch()

    with pytest.raises(MediaError, match="empty' is empty, wanted an? (picture|clip|array of latents)"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("read", READERS)
def test_text_is_refused_with_its_beginning(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "notes").write_text("to be done: all of it, and soon\n" * 20)

    with pytest.raises(MediaError, match="it starts with b'to be done: all '; give "):
        read(tmp_path / "notes")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff", "gif", "mp4", "npy"])
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_damage_anywhere_gives_a_media_error_or_an_array(
    tmp_path: Path, read: Callable[[Path], object], kind: str, data: st.DataObject
) -> None:
    path = tmp_path / f"file.{kind}"
    if kind == "mp4":
        save_clip(path, noise(2))
    elif kind == "npy":
        np.save(path, np.ones((2, 2, 2, 2), np.float32))
    else:
        Image.fromarray(noise(1)[0]).save(path)
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, min(len(content), 600) - 1))
    content[start : start + 4] = data.draw(st.binary(min_size=0, max_size=4))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        assert isinstance(read(path), np.ndarray)
    except MediaError as e:
        assert str(path) in str(e)


@pytest.mark.parametrize("number", ["height", "width", "count"])
def test_a_size_must_be_positive(tmp_path: Path, number: str) -> None:
    sizes = {"height": 8, "width": 8, "count": 1} | {number: 0}

    with pytest.raises(ValueError, match=f"{number} must be at least 1, got 0"):
        read_clip(tmp_path / "clip.mp4", **sizes)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_latents_are_converted_to_float32(tmp_path: Path, dtype: str, order: str) -> None:
    latents = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(dtype)
    np.save(tmp_path / "latents.npy", np.asarray(latents, order=order))  # type: ignore[call-overload]

    found = read_latents(tmp_path / "latents.npy")

    assert found.dtype == np.dtype("=f4") and found.flags.c_contiguous
    np.testing.assert_array_equal(found, latents.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "S4", "<M8[s]", "longdouble"])
def test_latents_of_another_type_are_refused(tmp_path: Path, dtype: str) -> None:
    path = save_latents(tmp_path / "latents.npy", np.zeros((1, 1, 1, 1), dtype))

    with pytest.raises(MediaError, match=r"contains .*, latents are float16, float32 or float64"):
        read_latents(path)


@pytest.mark.parametrize("shape", [(), (3,), (4, 8, 8), (1, 2, 3, 4, 5), (0, 4, 8, 8)])
def test_latents_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_latents(tmp_path / "latents.npy", np.zeros(shape, np.float32))

    with pytest.raises(MediaError, match=r"has shape \[.*\], latents are \[latent frames, channels, height, w"):
        read_latents(path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({}))

    with pytest.raises(MediaError, match="contains pickled Python objects, which are never loaded"):
        read_latents(tmp_path / "objects.npy")
    with pytest.raises(MediaError, match="is not an array of latents but a pickle"):
        read_latents(tmp_path / "pickle.npy")


@pytest.mark.parametrize("count", [3, 2**40, 2**62, 10**30])
def test_a_header_larger_than_the_file_is_refused(tmp_path: Path, count: int) -> None:
    with open(tmp_path / "latents.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, 4, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(2 * 4 * 8 * 8 * 4))

    with pytest.raises(MediaError, match=rf"is truncated: \[{count}, 4, 8, 8\] of float32 needs .* got 2048"):
        read_latents(tmp_path / "latents.npy")


def test_an_invalid_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latents.npy").write_bytes(b"\x93NUMPY\x01\x00\x06\x00{[(}\n\n")

    with pytest.raises(MediaError, match="is truncated or damaged: it starts as a NumPy array, then: "):
        read_latents(tmp_path / "latents.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_latents_that_are_not_finite_as_float32_are_refused(tmp_path: Path, value: float) -> None:
    latents = np.zeros((2, 3, 4, 5))
    latents[1, 2, 0, 3] = latents[1, 2, 0, 4] = value
    path = save_latents(tmp_path / "latents.npy", latents)

    with pytest.raises(MediaError, match=r"2 of 120 values are NaN or infinite, first at \[1, 2, 0, 3\]"):
        read_latents(path)
