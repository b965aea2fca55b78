"""Images small enough to stand in a page."""

import base64
import io

from stic_ray import images, sources
from stic_ray.images import BadImageError


class Thumbnails:
    """The images of a page. Once a server does not answer, which takes many seconds to find out, no more are asked."""

    def __init__(self) -> None:
        self._failure = ""

    def take(self, uri: str, side_px: int) -> tuple[str, str]:
        """An image as a small data URI, or why there is none: it is broken or gone, or its server does not answer."""
        if not uri or self._failure:
            return "", self._failure or "no image"
        try:
            image = images.decode(sources.read_image(uri))
        except BadImageError as error:
            return "", str(error)
        except ValueError as error:
            self._failure = str(error)
            return "", self._failure
        image.thumbnail((side_px, side_px))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", ""
