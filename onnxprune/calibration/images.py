"""A folder of images as calibration data of a model with one image input.

Each channel is normalized as (x / scale - mean) / std with x from 0 to 255, after resizing to the model's input size.
EXIF orientation is not applied, as in the image loaders that most networks are trained with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.calibration.disk_cache import DiskCache
from onnxprune.calibration.model_input import Feed, ModelInput, kind
from onnxprune.calibration.samples import Source
from onnxprune.calibration.selection import Selection
from onnxprune.calibration.signature import Signature
from onnxprune.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
"""File name extensions of images."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Size = tuple[int, int]
"""Height and width."""


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """Preprocessing of images.

    Attributes:
        mean: One number, or one per channel, in units after scaling.
        std: One number, or one per channel, in units after scaling.
        scale: Divisor of the pixel values 0 to 255. None: 255 for a float input, or 1 if a mean or std above 1 shows
            that they are in units of 0 to 255; 1 for an integer input.
        layout: ``nchw`` or ``nhwc``; None to infer it from the model.
        resize: Height and width to resize to, or the length of the shorter side.
        crop: Height and width of a center crop.
        color: ``rgb`` or ``bgr``.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float | None = None
    layout: str | None = None
    resize: Size | int | None = None
    crop: Size | None = None
    color: str = "rgb"


class Images(Source):
    """Images, decoded on demand.

    Without `resize` and `crop` an image is stretched to the model's height and width; with an integer `resize` alone,
    it is center-cropped to them. If the model's height and width are free, images keep their size by default. Resizing
    is bilinear with antialiasing.

    Args:
        paths: The files, in the order of samples.
        options: The preprocessing.
        signature: The model's inputs.
        where: Name of the source in messages.
        memory: Maximum size in bytes of the pictures to keep in memory for later passes; the rest is written to
            temporary files.

    Raises:
        InputError: The model does not have exactly one image input, pillow is missing, the options do not fit, or the
            first image cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], options: ImageOptions, signature: Signature, where: str, memory: int = 2**28
    ) -> None:
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise InputError(f"{where}: reading images needs pillow", "pip install 'onnxprune[images]'") from None
        self.where = where
        self._paths = paths
        self._input, self._channels_last = _image_input(signature, options.layout, where)
        dims = self._input.dims or ()
        channels, *size = (dims[3], dims[1], dims[2]) if self._channels_last else dims[1:]
        self._channels = channels if isinstance(channels, int) else 3
        self._size = (size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None
        if self._channels not in _MODES:
            raise DataError(f"{where}: the model takes {self._channels} channels, but pictures have 1, 3 or 4")
        if options.color == "bgr" and self._channels != 3:
            raise DataError(f"{where}: color=bgr is for 3 channels, but the model takes {self._channels}")
        self._options = options
        self._mean, self._std = (self._per_channel(n, v) for n, v in (("mean", options.mean), ("std", options.std)))
        self._scale = self._default_scale() if options.scale is None else options.scale
        self.axes = {self._input.name: 0}
        self.count = self.seen = len(paths)
        self._cache = DiskCache(signature, memory)
        self._places: dict[int, int] = {}
        self._picture(0)

    def _per_channel(self, name: str, values: tuple[float, ...]) -> np.ndarray:
        """Returns the numbers of an option as a float32 array of shape (1,) or (channels,)."""
        if len(values) not in (1, self._channels):
            raise DataError(f"{self.where}: {name} has {len(values)} numbers, but there are {self._channels} channels")
        return np.asarray(values, dtype=np.float32)

    def _default_scale(self) -> float:
        if kind(self._input.dtype) != "float":
            return 1.0
        return 1.0 if max(self._mean.max(), self._std.max()) > 1 else 255.0

    def feeds(self, selection: Selection, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        for position in range(len(self._paths)):
            if selection.exhausted(position):
                return
            if len(selection.within(position, position + 1)):
                yield self._picture(position)

    def _picture(self, position: int) -> Feed:
        """Returns a preprocessed image; it is decoded once."""
        if position not in self._places:
            self._cache.append({self._input.name: self._read(self._paths[position])})
            self._places[position] = len(self._cache) - 1
        return self._cache[self._places[position]]

    def _read(self, path: Path) -> np.ndarray:
        """Returns a preprocessed image with a batch axis of length 1."""
        from PIL import Image

        try:
            with Image.open(path) as picture:
                if picture.mode[0] in "IF":  # conversion to 8 bits would clip the values
                    raise DataError(f"{path}: has {picture.mode} pixels; only 8-bit pictures can be read")
                fitted = self._fit(picture.convert(_MODES[self._channels]), path)
                pixels = np.asarray(fitted, dtype=np.float32)
        except InputError:
            raise
        except Exception as error:  # pillow raises many types of exceptions for a damaged file
            raise DataError(f"{path}: cannot be read as a picture: {error}") from error
        pixels = pixels.reshape(*pixels.shape[:2], self._channels)
        if self._options.color == "bgr":
            pixels = pixels[:, :, ::-1]
        values = (pixels / np.float32(self._scale) - self._mean) / self._std
        array = np.ascontiguousarray(values if self._channels_last else values.transpose(2, 0, 1))[None]
        self._input.check_shape(array.shape, str(path), any_batch=True)
        if kind(self._input.dtype) == "integer":
            array = np.rint(array).astype(np.int64)
        return self._input.cast(array, str(path))

    def _fit(self, picture: Picture, path: Path) -> Picture:
        """Resizes and crops an image."""
        from PIL.Image import Resampling

        resize, crop = self._options.resize, self._options.crop
        if isinstance(resize, int):
            short = min(picture.size)
            width, height = (max(resize, round(side * resize / short)) for side in picture.size)
            resize, crop = (height, width), crop or self._size
        elif crop is None and resize is None:
            resize = self._size
        if resize and (resize[1], resize[0]) != picture.size:
            picture = picture.resize((resize[1], resize[0]), Resampling.BILINEAR)
        if crop:
            left, top = (picture.width - crop[1]) // 2, (picture.height - crop[0]) // 2
            if left < 0 or top < 0:
                raise InputError(
                    f"{path}: {picture.height}x{picture.width} pixels are too few to crop {crop[0]}x{crop[1]}",
                    f"resize first: resize={max(crop)}",
                )
            picture = picture.crop((left, top, left + crop[1], top + crop[0]))
        return picture


def _image_input(signature: Signature, layout: str | None, where: str) -> tuple[ModelInput, bool]:
    """Returns the image input, and whether its channel axis is the last one."""
    model_input = signature.inputs[0]
    if len(signature.inputs) > 1:
        raise InputError(
            f"{where}: images feed one input, but the model has {', '.join(signature.names)}",
            "give .npz files with an array for each input",
        )
    if model_input.dims is None or len(model_input.dims) != 4:
        raise DataError(
            f"{where}: input '{model_input.name}' takes {model_input.declared}, which is no batch of images"
        )
    if kind(model_input.dtype) not in ("float", "integer"):
        raise DataError(f"{where}: input '{model_input.name}' takes {model_input.type_name}, not pixels")
    if layout is None:
        axes = [axis for axis in (1, 3) if model_input.dims[axis] in (1, 3)]
        if not axes:
            raise InputError(
                f"{where}: where input '{model_input.name}' ({model_input.declared}) has its channels is not clear",
                "say layout=nchw or layout=nhwc",
            )
        layout = "nchw" if axes[0] == 1 else "nhwc"
    return model_input, layout == "nhwc"
