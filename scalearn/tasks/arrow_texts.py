"""Columns of parquet and Arrow files as text, whatever their type."""

import pyarrow as pa
import pyarrow.compute as pc

from scalearn.errors import UserError
from scalearn.tasks.spelling import cut
from scalearn.tasks.text_files import refuse_characters


def is_list(values: pa.Array) -> bool:
    """Tell whether each row holds a list."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(values.type) for kind in kinds)


def as_texts(where: str, column: str, values: pa.Array, parents: pa.Array | None = None) -> pa.Array:
    """Return texts and labels as text. Among numbers, NaN counts as missing, like null.

    Args:
        where: Task and file, for error sentences.
        column: The column's name.
        values: Its values, or the elements of its lists.
        parents: For elements of lists, the row of each.

    Returns:
        An array of strings, valid UTF-8.

    Raises:
        UserError: A value is not UTF-8, or the type has no text.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    if pa.types.is_nested(values.type):
        raise UserError(f"{where}: column {column!r} holds {cut(str(values.type))}; give a text, a number or a list of such.")
    try:
        texts = values if pa.types.is_large_string(values.type) else values.cast(pa.string())
        texts.validate(full=True)
    except pa.ArrowNotImplementedError:
        raise UserError(f"{where}: column {column!r} holds {cut(str(values.type))}, which is no text; write it as text.") from None
    except pa.ArrowInvalid:
        for number, value in enumerate(values.cast(pa.large_binary()).to_pylist()):
            row = number if parents is None else parents[number].as_py()
            refuse_characters(f"{where}, row {row}", f"column {column!r}", (value or b"").decode("utf-8", "surrogateescape"))
        raise
    return texts


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in an equal type that `datasets` knows, if there is one: for extensions, bytes and lists."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in values.chunks], kind.storage_type))
    if pa.types.is_map(kind):
        return values.cast(pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])))
    if pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.binary())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return values.cast(pa.large_list(kind.value_type))
    return values
