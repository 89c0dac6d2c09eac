"""The C core: device memory, the KV ring's slot arithmetic, and counter-based random normals.

Memory crosses this border as integer addresses; who owns what is said at each call.
"""

from typing import Final

class Device:
    """Memory and pitched copies on one device. Made by :func:`host_device`, never directly.

    Attributes:
        name: "host".
        allocated_nbytes: Bytes that are allocated and not closed yet.
    """

    @property
    def name(self) -> str: ...
    @property
    def allocated_nbytes(self) -> int: ...
    def allocate(self, nbytes: int, /) -> Memory:
        """Allocate zero-filled memory, aligned to 64 bytes.

        Raises:
            ValueError: Not 1 <= nbytes < 2**63.
            DeviceError: The device has not that much memory.
        """

    def copy_3d(
        self,
        destination: int,
        source: int,
        *,
        width: int,
        height: int,
        depth: int,
        destination_pitch: int,
        destination_height: int,
        source_pitch: int,
        source_height: int,
    ) -> None:
        """Copy ``depth`` planes of ``height`` rows of ``width`` bytes.

        Row y of plane z lies at ``address + (z * plane_height + y) * pitch``. The caller owns both ranges and
        keeps them alive; they must not overlap. The GIL is released while bytes move.

        Raises:
            ValueError: A number is negative, an address is 0, ``width`` exceeds a pitch, ``height`` exceeds a
                plane's height, or a range runs past the end of the address space.
        """

    def zero_2d(self, address: int, *, width: int, height: int, pitch: int) -> None:
        """Set ``height`` rows of ``width`` bytes, ``pitch`` bytes apart, to zero.

        Raises:
            ValueError: A number is negative, ``address`` is 0, ``width`` exceeds ``pitch``, or the range runs
                past the end of the address space.
        """

class Memory:
    """One block of device memory. Made by :meth:`Device.allocate`; freed by ``close`` or with the object.

    Attributes:
        address: Address of the first byte; RuntimeError once closed.
        nbytes: Length.
    """

    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""

class Ring:
    """Which latent frame lies in which slot: frame f in slot f mod ``slots``. Holds no memory.

    Attributes:
        slots: Capacity in latent frames, 1 <= slots <= 65536.
        written: Latent frames written since the last reset; the absolute number of the next one.
        visible: Slots that hold a frame: min(written, slots).
    """

    def __new__(cls, slots: int) -> Ring: ...
    @property
    def slots(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def visible(self) -> int: ...
    def segments(self, count: int, /) -> tuple[tuple[int, int, int], ...]:
        """Plan where the next ``count`` latent frames go, without writing them.

        Returns:
            One or two runs ``(slot, first, length)``: frames ``first .. first + length - 1`` of the chunk go
            to slots ``slot .. slot + length - 1``.

        Raises:
            ValueError: Not 1 <= count <= slots.
        """

    def advance(self, count: int, /) -> None:
        """Count ``count`` latent frames as written.

        Raises:
            ValueError: Not 1 <= count <= slots.
        """

    def frame(self, slot: int, /) -> int:
        """Return the absolute number of the latent frame in ``slot``, or -1 for an empty slot.

        Raises:
            ValueError: Not 0 <= slot < slots.
        """

    def reset(self) -> None:
        """Forget all frames."""

INITIAL_NOISE: Final = 0
STEP_NOISE: Final = 1
PREFIX_NOISE: Final = 2

def host_device() -> Device:
    """Return the host's device: aligned host memory, copies by the CPU.

    Each call makes a device with an account (``allocated_nbytes``) of its own.
    """

def fill_normal(address: int, count: int, *, seed: int, frame: int, step: int, kind: int) -> None:
    """Write ``count`` float32 standard normals of one latent frame to host memory at ``address``.

    Philox4x32-10 (Salmon et al., SC 2011), keyed by ``seed``, counted by element, absolute latent frame,
    denoising step and kind, so that a request's noise depends on neither backend, row nor chunking. The
    GIL is released.

    Args:
        address: Host address, 4-byte aligned, of ``count`` float32 that the caller owns.
        count: Elements of one latent frame, channels * height * width, below 2**34.
        seed: 0 <= seed < 2**64.
        frame: Absolute number of the latent frame, 0 <= frame < 2**48.
        step: Denoising step, 0 <= step < 2**16.
        kind: INITIAL_NOISE, STEP_NOISE or PREFIX_NOISE.

    Raises:
        ValueError: An argument is out of range.
    """
