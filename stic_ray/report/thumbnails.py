"""Images small enough to stand in a page."""

import base64
import io

from stic_ray import images, sources


def thumbnail(uri: str, side_px: int) -> tuple[str, str]:
    """An image as a small data URI, or why there is none: it is broken or gone, or its server does not answer."""
    if not uri:
        return "", "no image"
    try:
        image = images.decode(sources.read_image(uri))
    except ValueError as error:
        return "", str(error)
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", ""
