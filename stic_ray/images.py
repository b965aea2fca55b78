"""Decoding with guards, and corruptions drawn from a seed.

Pixels are an RGB `PIL.Image`; encoded bytes travel, pixels do not. Corruptions: STIC, section 3 (downsizing and
colour jitter), their strengths from the configuration.
"""

import hashlib
import io
import json
import random

import numpy as np
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError

from stic_ray.config import Blur, ColorJitter, ConstantImage, Corruption, Crop, Downsize, to_tree
from stic_ray.records import make_seed

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # an image processor that scales the short side to 336 px makes 336 x 67200 of it: 270 MB as floats
MAX_BYTES = 200_000_000  # of a file: a worker holds several at once
# Of what Pillow opens, the images that it decodes by itself (EPS and WMF would start other programs), by file name.
FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DDS": (".dds",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICNS": (".icns",),
    "ICO": (".ico",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpf", ".jpx"),
    "PCX": (".pcx",),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_PREDICTOR = 317  # a TIFF's tag
_UPRIGHT = {  # what turns an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


class BadImageError(ValueError):
    """The bytes are no usable image; the message is the reason a reject carries."""


def suffix_of(data: bytes) -> str:
    """The ending that a file with these bytes should have.

    Raises:
        BadImageError: not an image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            suffixes = FORMATS[str(image.format)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise BadImageError("not an image, or of a kind that is not read") from None
    own = f".{str(image.format).lower()}"
    return own if own in suffixes else suffixes[0]


def decode(data: bytes) -> Image.Image:
    """RGB pixels of encoded bytes: upright by EXIF, the first frame, alpha over white.

    Raises:
        BadImageError: empty, truncated, not an image, more than MAX_PIXELS pixels, or a side more than MAX_ASPECT times
            the other.
    """
    if not data:
        raise BadImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(f"more than {MAX_PIXELS} pixels ({image.width} x {image.height})")
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise BadImageError(f"one side is more than {MAX_ASPECT} times the other ({image.width} x {image.height})")
        image.load()
        return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise BadImageError("not an image, or of a kind that is not read") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"more than {MAX_PIXELS} pixels") from None
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's readers of 18 formats raise whatever damage leads them to
        raise BadImageError(f"damaged image: {' '.join(str(error).split())[:120]}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged EXIF beside good pixels: they stay as they are stored
        orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
        white = _white(image.mode, float(values.max(initial=0.0)))
        image = Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _white(mode: str, most: float) -> float:
    """The value that stands for white: of 16 and more bits a whole number's largest, of floats one that holds all."""
    usual = (1.0, 255.0, 65535.0) if mode.startswith("F") else (65535.0,)
    return next((value for value in usual if most <= value), most)


def encode(image: Image.Image) -> bytes:
    """Lossless bytes: decoding them gives the same pixels.

    TIFF with LZW of differences: as small as the fastest PNG, and half its time (8 + 3 ms against 16 + 7 at 640 x 480).
    """
    buffer = io.BytesIO()
    image.save(buffer, format="TIFF", compression="tiff_lzw", tiffinfo={_PREDICTOR: 2})
    return buffer.getvalue()


def hash_bytes(data: bytes) -> str:
    """Hash of encoded bytes, 32 hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def hash_pixels(image: Image.Image) -> str:
    """Hash of the pixels and the size, 32 hex digits: what a model saw, whatever the encoding."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def draw_corruption(corruptions: tuple[Corruption, ...], seed: int) -> str:
    """One of the corruptions with all its numbers drawn, as JSON: applying it needs nothing else."""
    rng = random.Random(seed)
    corruption = rng.choice(corruptions)
    drawn = to_tree(corruption)
    if isinstance(corruption, ColorJitter):
        drawn["brightness"] = rng.uniform(1 - corruption.brightness, 1 + corruption.brightness)
        drawn["hue"] = rng.choice((-1, 1)) * rng.uniform(corruption.min_hue, corruption.hue)
    return json.dumps(drawn, sort_keys=True)


def corrupt(image: Image.Image, drawn: str) -> Image.Image:
    """The image under a corruption that `draw_corruption` drew; "" leaves it as it is."""
    if not drawn:
        return image
    numbers = json.loads(drawn)
    if numbers["type"] == Downsize.__name__:
        return _downsize(image, numbers["short_side_px"])
    return _jitter(image, numbers["brightness"], numbers["hue"])


def blind(image: Image.Image, view: Blur | ConstantImage | Crop) -> Image.Image:
    """What stands for an image that is not seen: its blur (VIG, section 3.1), one grey level of its size, or a part of
    it (mDPO, arXiv 2406.11839, section 4)."""
    if isinstance(view, Blur):
        return image.filter(ImageFilter.GaussianBlur(view.radius * min(image.size)))
    if isinstance(view, Crop):
        return _crop(image, view.area)
    return Image.new("RGB", image.size, (view.level,) * 3)


def _crop(image: Image.Image, area: float) -> Image.Image:
    size = [max(1, round(side * area**0.5)) for side in image.size]
    place = np.random.default_rng(make_seed(0, "crop", hash_pixels(image)))
    left, top = (int(place.integers(0, whole - part + 1)) for whole, part in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _downsize(image: Image.Image, short_side_px: int) -> Image.Image:
    scale = short_side_px / min(image.size)
    if scale >= 1:
        return image
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def _jitter(image: Image.Image, brightness: float, hue: float) -> Image.Image:
    hues, saturations, values = image.convert("HSV").split()
    turned = hues.point([(value + round(hue * 256)) % 256 for value in range(256)])
    scaled = values.point([min(255, max(0, round(value * brightness))) for value in range(256)])
    return Image.merge("HSV", (turned, saturations, scaled)).convert("RGB")
