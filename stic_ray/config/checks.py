"""What a setting must be."""


def require(met: bool, name: str, value: object, wanted: str) -> None:
    """Refuse a value of the field `name` unless the condition is met; `wanted` ends "it must be".

    Raises:
        ValueError: the condition is not met.
    """
    if not met:
        raise ValueError(f"{name} is {value!r}: it must be {wanted}")
