"""Files that are no good images, of every kind that people's folders hold: name, bytes, what the reject must say."""

import base64
import gzip
import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from stic_ray.images import MAX_BYTES

DAMAGED = "damaged image"
NO_IMAGE = "not an image"
TOO_MANY_PIXELS = "more than 64000000 pixels"


def _encoded(kind: str, **options: Any) -> bytes:
    pixels = random.Random(kind).randbytes(3 * 64 * 48)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 48), pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _png(width: int, height: int, data: bytes = b"\0" * 100, *, depth: int = 8) -> bytes:
    """A PNG that says what size it is, whatever its data are."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)), (b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _resized(data: bytes, at: int, form: str, *size: int) -> bytes:
    """An image file whose header says another size."""
    packed = struct.pack(form, *size)
    return data[:at] + packed + data[at + len(packed) :]


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "text")
    return buffer.getvalue()


def bad_files() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and the beginning or a part of the reason."""
    jpeg, png, gif, webp, tiff, bmp = (_encoded(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"))
    yield "empty.jpg", b"", "the file is empty"
    for name, data in (("cut.jpg", jpeg), ("cut.png", png), ("cut.gif", gif), ("cut.webp", webp), ("cut.bmp", bmp)):
        yield name, data[: len(data) // 2], DAMAGED
    yield "cut.tif", tiff[:-4000], DAMAGED
    yield "header.jpg", jpeg[:20], NO_IMAGE
    yield "signature.png", png[:8], NO_IMAGE
    yield "signature.gif", gif[:6], NO_IMAGE
    yield "end.jpg", jpeg[:-200], DAMAGED
    yield "scrambled.png", png[:60] + bytes(reversed(png[60:])), DAMAGED
    yield "checksum.png", png[:29] + b"\0\0\0\0" + png[33:], "image"
    yield "bomb.png", _png(100_000, 100_000), TOO_MANY_PIXELS
    yield "bomb.gif", _resized(gif, 6, "<HH", 65535, 65535), TOO_MANY_PIXELS
    yield "bomb.bmp", _resized(bmp, 18, "<ii", 50_000, 50_000), TOO_MANY_PIXELS
    start = jpeg.index(b"\xff\xc0") + 5
    yield "bomb.jpg", _resized(jpeg, start, ">HH", 65500, 65500), TOO_MANY_PIXELS
    yield "sliver.png", _png(10_000, 10), "one side is more than 200 times the other"
    yield "nothing.png", _png(0, 10), "image"
    yield "error.png", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", NO_IMAGE
    yield "login.jpg", b'{"error": "not logged in"}', NO_IMAGE
    yield "pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", NO_IMAGE
    yield (
        "drawing.png",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        NO_IMAGE,
    )
    yield "paper.png", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", NO_IMAGE
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", NO_IMAGE
    yield "archive.jpg", _zip("a.txt"), NO_IMAGE
    yield "packed.jpg", gzip.compress(jpeg, mtime=0), NO_IMAGE
    yield "text.jpg", base64.b64encode(jpeg), NO_IMAGE
    yield "film.jpg", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(500), NO_IMAGE
    yield "sound.png", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100), NO_IMAGE
    yield "array.png", pickle.dumps([0] * 100), NO_IMAGE
    yield "program.jpg", b"\x7fELF\2\1\1" + bytes(300), NO_IMAGE
    yield "zeros.png", bytes(10_000), NO_IMAGE
    yield "noise.jpg", random.Random(0).randbytes(5000), NO_IMAGE


def write_bad_files(folder: Path) -> dict[str, str]:
    """All of them, a link to nothing and a file that is too large: what each reject must say, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons = {}
    for name, data, reason in bad_files():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    return {**reasons, "gone.jpg": "the image file is missing", "huge.jpg": f"more than {MAX_BYTES}"}
