"""The formats by name."""

from stic_ray.exchange import bpo, llama_factory, llava, ms_swift, stic, trl
from stic_ray.exchange.format import Format

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (trl.FORMAT, llama_factory.FORMAT, ms_swift.FORMAT, llava.FORMAT, bpo.FORMAT, stic.FORMAT)
}
