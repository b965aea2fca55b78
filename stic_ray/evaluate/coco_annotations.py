"""What images really hold, for CHAIR: annotated objects, and those that reference captions name.

Files are COCO's own (`instances_val2014.json`, `captions_val2014.json`) or JSON lines; one that cannot be read is an
error that names the file, the line or record, the field and the remedy.
"""

import json
from collections.abc import Iterable

from stic_ray.evaluate.objects import Vocabulary
from stic_ray.evaluate.rows import Row, json_lines, read_text


def read_objects(uri: str, vocabulary: Vocabulary, *, captions: str = "") -> dict[str, frozenset[str]]:
    """The objects of each image of a file, under their canonical names, by the image's name as the file has it.

    The file is COCO's instance annotations, or JSON lines with `image`, `objects` (names) or `instances` (of a
    `category` each), and, where there are any, `captions` (texts). `captions` is a file of COCO's captions. An image
    holds what is annotated and what its reference captions name, as CHAIR's authors have it.

    Raises:
        ValueError: a file cannot be reached, a record is malformed, the vocabulary lacks an annotated object, or an
            image has no caption in the captions' file.
    """
    whole = _whole(uri)
    if whole is not None and "annotations" in whole.values:
        objects = _annotated(whole, vocabulary)
    else:
        objects = _listed(uri, vocabulary)
    if captions:
        named = _captioned(captions, objects.keys(), vocabulary)
        for image in objects:
            if image not in named:
                raise ValueError(
                    f"{captions} has no caption of {image}, which {uri} has: give captions of the same images, or none"
                )
            objects[image] |= named[image]
    return {image: frozenset(names) for image, names in objects.items()}


def _annotated(whole: Row, vocabulary: Vocabulary) -> dict[str, set[str]]:
    """The objects by image of COCO's instance annotations."""
    names = {}
    for category in whole.rows("categories"):
        names[category.key("id")] = _object_named(category, "name", category.text("name"), vocabulary)
    images = _image_names(whole)
    objects: dict[str, set[str]] = {image: set() for image in images.values()}
    for annotation in whole.rows("annotations"):
        image = images.get(annotation.key("image_id"))
        if image is None:
            annotation.fail("image_id", "the id of one of the file's images")
        name = names.get(annotation.key("category_id"))
        if name is None:
            annotation.fail("category_id", "the id of one of the file's categories")
        objects[image].add(name)
    return objects


def _captioned(uri: str, wanted: Iterable[str], vocabulary: Vocabulary) -> dict[str, set[str]]:
    """What COCO's captions of the wanted images name, by image; an image without captions is not there."""
    whole = _whole(uri)
    if whole is None:
        raise ValueError(f"{uri} is not one JSON object: give a file like COCO's captions_val2014.json")
    images = _image_names(whole)
    wanted = frozenset(wanted)
    objects: dict[str, set[str]] = {}
    for annotation in whole.rows("annotations"):
        image = images.get(annotation.key("image_id"))
        if image is None:
            annotation.fail("image_id", "the id of one of the file's images")
        if image in wanted:
            objects.setdefault(image, set()).update(vocabulary.mentions(annotation.text("caption")))
    return objects


def _image_names(whole: Row) -> dict[str, str]:
    """The file name of each image of one of COCO's files, by its id."""
    names: dict[str, str] = {}
    for image in whole.rows("images"):
        if names.setdefault(image.key("id"), image.text("file_name")) != image.text("file_name"):
            image.fail("id", "different from another image's")
    return names


def _listed(uri: str, vocabulary: Vocabulary) -> dict[str, set[str]]:
    """The objects by image of JSON lines."""
    objects: dict[str, set[str]] = {}
    for row in json_lines(uri, ("image",)):
        if "instances" in row.values:
            given = [instance.text("category") for instance in row.rows("instances")]
            names = {_object_named(row, "instances", name, vocabulary) for name in given}
        else:
            names = {_object_named(row, "objects", name, vocabulary) for name in row.texts("objects", empty=True)}
        for caption in row.texts("captions", empty=True) if "captions" in row.values else ():
            names.update(vocabulary.mentions(caption))
        objects[row.text("image")] = names
    return objects


def _object_named(row: Row, field: str, given: str, vocabulary: Vocabulary) -> str:
    found = vocabulary.canonical(given)
    if found is None:
        raise ValueError(
            f"{row.uri}, {row.place}: {field} has {given!r}, which is no object of the vocabulary: correct it, or add "
            "it to a synonyms file"
        )
    return found


def _whole(uri: str) -> Row | None:
    """The JSON object that a file is, None where it is something else (JSON lines, too)."""
    try:
        values = json.loads(read_text(uri))
    except json.JSONDecodeError:
        return None
    return Row(uri, "top level", values) if isinstance(values, dict) else None
