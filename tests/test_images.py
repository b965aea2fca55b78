"""Decoding whatever people have, refusing what is no image, and corruptions that really corrupt."""

import io
import json
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from bad_files import bad_files
from PIL import Image, ImageOps

from stic_ray import images
from stic_ray.config import ColorJitter, Corruption, Downsize
from stic_ray.images import BadImageError, corrupt, decode, draw_corruption, encode, hash_bytes, hash_pixels

_DOWNSIZE = Downsize(short_side_px=5)
_JITTER = ColorJitter(brightness=0.5, hue=0.3, min_hue=0.1)


def _photo(width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpeg"), ("TIFF", ".tiff"), ("PPM", ".ppm")])
def test_suffix_of_is_one_of_the_format(kind: str, suffix: str) -> None:
    assert images.suffix_of(_encoded(_photo(), kind)) == suffix


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_suffix_of_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageError, match="not an image"):
        images.suffix_of(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_decode_lossless_gives_the_pixels(kind: str) -> None:
    decoded = decode(_encoded(_photo(), kind))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(_photo()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_decode_lossy_gives_nearly_the_pixels(kind: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    assert np.abs(np.asarray(decode(_encoded(image, kind)), dtype=int) - np.asarray(image)).max() <= 6


def test_decode_palette_gives_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    decoded = decode(_encoded(image, "PNG"))
    assert (_pixel(decoded, 0), _pixel(decoded, 1)) == ((10, 20, 30), (200, 100, 50))


def test_decode_cmyk_jpeg_gives_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = _pixel(decode(_encoded(image, "JPEG", quality=95)))
    assert red > 240 and green < 15 and blue < 15


def test_decode_16_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 64, 257 * 128, 65535]], dtype=np.uint16)
    decoded = decode(_encoded(Image.fromarray(values), "PNG"))
    assert [_pixel(decoded, x)[0] for x in range(4)] == [0, 64, 128, 255]
    assert np.ptp(np.asarray(decoded), axis=2).max() == 0


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.array([[0, 255]], dtype=np.uint16), "PNG", [0, 0]),  # as dark as its 16 bits say
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), "TIFF", [0, 127, 255]),
        (np.array([[0.0, 100.0, 255.0]], dtype=np.float32), "TIFF", [0, 100, 255]),
        (np.array([[np.nan, np.inf, 1.0]], dtype=np.float32), "TIFF", [0, 0, 255]),
        (np.array([[-5, 65535]], dtype=np.int32), "TIFF", [0, 255]),
    ],
)
def test_decode_many_bits_are_scaled_by_what_they_hold(
    values: "np.ndarray[Any, Any]", kind: str, expected: list[int]
) -> None:
    decoded = decode(_encoded(Image.fromarray(values), kind))
    assert [_pixel(decoded, x)[0] for x in range(values.shape[1])] == expected


def test_decode_gray_and_one_bit_give_equal_channels() -> None:
    assert _pixel(decode(_encoded(Image.new("L", (2, 2), 77), "PNG"))) == (77, 77, 77)
    assert _pixel(decode(_encoded(Image.new("1", (2, 2), 1), "PNG"))) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("LA", (0, 255), (0, 0, 0)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_decode_alpha_lies_over_white(mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert _pixel(decode(_encoded(Image.new(mode, (2, 2), colour), "PNG"))) == expected


def test_decode_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    decoded = decode(_encoded(image, "PNG", transparency=1))
    assert (_pixel(decoded, 0), _pixel(decoded, 1)) == ((10, 20, 30), (255, 255, 255))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_decode_animated_gives_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert _pixel(decode(data)) == (255, 0, 0)


def test_decode_exif_orientation_turns_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned by 90 degrees
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 16, 16))
    decoded = decode(_encoded(image, "JPEG", exif=exif, quality=95))
    assert decoded.size == (16, 32)
    assert _pixel(decoded, 8, 4)[0] < 30 and _pixel(decoded, 8, 28)[0] > 225


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG"])
def test_decode_turns_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(_photo(24, 16), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert decode(data).tobytes() == expected.tobytes()


def test_decode_damaged_exif_leaves_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(_photo(24, 16), "JPEG", exif=exif)
    place = data.index(b"Exif\0\0") + 6
    for count in (4, 12, 20):  # its header, its number of entries, its entry
        broken = data[:place] + b"\xff" * count + data[place + count :]
        assert decode(broken).size in ((24, 16), (16, 24))


def _psd() -> bytes:
    """Four pixels of gray, which Pillow does not write."""
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 2, 2, 8, 1)
    return header + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + bytes([0, 80, 160, 240])


def test_decode_psd_gives_the_pixels() -> None:
    decoded = decode(_psd())
    assert [_pixel(decoded, x, y)[0] for y in range(2) for x in range(2)] == [0, 80, 160, 240]


def _bomb() -> bytes:
    """A PNG of a few bytes whose header claims 20000 x 20000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image, or of a kind that is not read"),
        (b"\0" * 1000, "not an image, or of a kind that is not read"),
        (_encoded(_photo(64, 64), "PNG")[:3000], "damaged image: .*truncated"),
        (_encoded(_photo(64, 64), "JPEG")[:1000], "damaged image: .*truncated"),
        (_encoded(_photo(64, 64), "PNG")[:20], "damaged image|not an image"),
        (_bomb(), "more than 64000000 pixels"),
    ],
    ids=["empty", "html", "zeros", "truncated png", "truncated jpeg", "header alone", "bomb"],
)
def test_decode_no_image_says_why_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=f"^(?:{reason})[^\n]*$"):
        decode(data)


def test_decode_just_above_the_limit_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encoded(_photo(24, 16), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16)
    assert decode(data).size == (24, 16)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16 - 1)
    with pytest.raises(BadImageError, match=r"more than 383 pixels \(24 x 16\)"):
        decode(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "DDS", "ICO", "JPEG2000", "PCX", "PPM", "SGI", "TGA"]
)
def test_decode_damaged_bytes_give_an_image_or_a_bad_image_error(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = _encoded(_photo(), kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF") else {}))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        data = bytearray(whole)
        for place in [*rng.integers(0, len(data), 8), *rng.integers(0, min(200, len(data)), 4)]:
            data[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(data)).mode == "RGB"
        except BadImageError as error:
            refused += 1
            assert str(error)
    assert refused > 0 or kind in ("PPM", "TGA")  # nearly all of them is pixels


def test_encode_decodes_to_the_same_pixels() -> None:
    assert hash_pixels(decode(encode(_photo()))) == hash_pixels(_photo())


def test_hash_pixels_does_not_depend_on_the_encoding() -> None:
    encodings = [
        _encoded(_photo(), "PNG"),
        _encoded(_photo(), "PNG", compress_level=9),
        _encoded(_photo(), "BMP"),
        _encoded(_photo(), "WEBP", lossless=True),
    ]
    assert len({hash_bytes(data) for data in encodings}) == len(encodings)
    assert len({hash_pixels(decode(data)) for data in encodings}) == 1


def test_hash_pixels_sees_one_pixel_and_the_shape() -> None:
    other = _photo()
    other.putpixel((3, 3), (0, 0, 1))
    plain = [Image.new("RGB", size) for size in ((4, 2), (2, 4), (8, 1))]
    assert len({hash_pixels(image) for image in (_photo(), other, *plain)}) == 5


@pytest.mark.parametrize("corruption", [_DOWNSIZE, _JITTER], ids=["downsize", "jitter"])
def test_corrupt_is_a_function_of_the_drawn_json_and_changes_the_pixels(corruption: Corruption) -> None:
    for seed in range(20):
        drawn = draw_corruption((corruption,), seed)
        assert drawn == draw_corruption((corruption,), seed)
        seen = corrupt(_photo(), drawn)
        assert (seen.size, seen.mode) == (_photo().size, "RGB")
        assert hash_pixels(seen) == hash_pixels(corrupt(_photo(), drawn)) != hash_pixels(_photo())
        difference = np.abs(np.asarray(seen, dtype=int) - np.asarray(_photo(), dtype=int))
        assert difference.mean() > 4  # levels of 256: not a rounding


def test_corrupt_with_nothing_drawn_is_the_image_itself() -> None:
    image = _photo()
    assert corrupt(image, "") is image


def test_draw_corruption_is_complete_json_within_the_recipe() -> None:
    drawn = [json.loads(draw_corruption((_DOWNSIZE, _JITTER), seed)) for seed in range(400)]
    downsized = [each for each in drawn if each["type"] == "Downsize"]
    jittered = [each for each in drawn if each["type"] == "ColorJitter"]
    assert len(downsized) + len(jittered) == 400 and 150 < len(downsized) < 250
    assert all(each == {"type": "Downsize", "short_side_px": 5} for each in downsized)
    assert all(0.5 <= each["brightness"] <= 1.5 and 0.1 <= abs(each["hue"]) <= 0.3 for each in jittered)
    assert min(each["hue"] for each in jittered) < -0.25 and max(each["hue"] for each in jittered) > 0.25
    assert min(each["brightness"] for each in jittered) < 0.6 and max(each["brightness"] for each in jittered) > 1.4
    assert len({each["hue"] for each in jittered}) == len(jittered)


def test_downsize_keeps_no_more_than_the_small_image_holds() -> None:
    stripes = Image.fromarray(np.tile(np.array([[[0] * 3, [255] * 3]], dtype=np.uint8), (40, 20, 1)))
    seen = np.asarray(corrupt(stripes, '{"type": "Downsize", "short_side_px": 4}'))
    assert seen.std() < 10 < np.asarray(stripes).std()
    flat = Image.new("RGB", (40, 20), (9, 99, 199))
    assert hash_pixels(corrupt(flat, '{"type": "Downsize", "short_side_px": 4}')) == hash_pixels(flat)


def test_downsize_of_an_image_that_is_smaller_already_leaves_it() -> None:
    image = _photo(8, 4)
    assert hash_pixels(corrupt(image, '{"type": "Downsize", "short_side_px": 4}')) == hash_pixels(image)


def test_jitter_turns_the_hue_and_scales_the_brightness() -> None:
    red = Image.new("RGB", (2, 2), (200, 0, 0))
    drawn = {"type": "ColorJitter", "brightness": 0.5, "hue": 1 / 3}
    seen = _pixel(corrupt(red, json.dumps(drawn)))
    assert np.abs(np.array(seen) - np.array((0, 100, 0))).max() <= 4
    seen = _pixel(corrupt(red, json.dumps({**drawn, "hue": -1 / 3, "brightness": 2.0})))
    assert np.abs(np.array(seen) - np.array((0, 0, 255))).max() <= 6


@pytest.mark.parametrize(
    ("size", "refused"), [((2, 400), False), ((400, 2), False), ((2, 401), True), ((8000, 2), True)]
)
def test_decode_one_side_far_longer_than_the_other_is_refused(size: tuple[int, int], refused: bool) -> None:
    data = _encoded(_photo(*size), "PNG")
    if refused:
        with pytest.raises(BadImageError, match=rf"^one side is more than 200 times .*\({size[0]} x {size[1]}\)$"):
            decode(data)
    else:
        assert decode(data).size == size


@pytest.mark.parametrize(("name", "data", "reason"), list(bad_files()), ids=lambda value: str(value)[:20])
def test_decode_of_no_good_image_says_why(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=re.escape(reason)):
        decode(data)
