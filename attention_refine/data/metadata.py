"""Metadata files beside images: their lines, whatever the format, each with where it stands."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_refine.data.labels import DataError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def metadata_lines(file: Path) -> Iterator[tuple[str, dict]]:
    """(where, fields) of each line; where is ``<file> line <n>`` (``row <n>`` in parquet)."""
    if file.suffix == ".parquet":
        for i, row in enumerate(_parquet_rows(file)):
            yield f"{file} row {i}", row
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            at = f"{file} line {reader.line_num}"
            if any(row.get(None) or ()):
                more = ", ".join(row[None])
                raise DataError(
                    f"{at} has more cells than the {len(reader.fieldnames)} columns, {more!r}: quote commas"
                )
            if not any(value for name, value in row.items() if name):  # as tables end when they are written by hand
                continue
            # A cell has no type: a list is written as JSON, an empty cell is no value.
            yield at, {k: _json(v, at) if v and v.startswith("[") else v or None for k, v in row.items() if k}
        return
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _json(line, f"{file} line {n}", " (of .jsonl, each line is an object by itself)")
            if not isinstance(row, dict):
                raise DataError(
                    f"{file} line {n} is not a JSON object but {line.strip()[:40]!r}: an object a line, "
                    '{"file_name": ..., "label": ...}, without a list around them'
                )
            yield f"{file} line {n}", row


def file_field(row: dict, image_column: str | None, at: str) -> str:
    """The field of a line that holds the image's file name."""
    wanted = [image_column, f"{image_column}_file_name"] if image_column else ["file_name"]
    for name in wanted:
        if name in row:
            return name
    divided = next((mark for mark in (";", "\t", "|") if len(row) == 1 and mark in next(iter(row))), None)
    remedy = "name the field that has it (image_column=), or give the file another name if it is of something else"
    if divided is not None:
        remedy = f"its columns are divided by {divided!r}, save it with commas"
    raise DataError(f"{at} has no field {wanted[0]!r} with the image's file name: it has {', '.join(row)}; {remedy}")


def existing(metadata: Path, name: str | None, field: str, at: str, folders: bool = False) -> str:
    """The path of a file, or of a folder, that a line names, beside its metadata file; a backslash divides folders, too."""
    for given in (str(name), str(name).replace("\\", "/")) if name else ():
        if os.path.isabs(given):  # said as a name in the folder, so that it is not taken for another image than that
            within = os.path.relpath(given, os.path.abspath(metadata.parent))
            given = given if within.startswith(os.pardir) else within
        path = os.path.normpath(os.path.join(metadata.parent, given))
        if os.path.isfile(path) or folders and os.path.isdir(path):
            return path
    raise DataError(
        f"{at}: {field} {name!r} is not a file in {metadata.parent}: {_alike(metadata.parent, str(name))}put it back, or take "
        "it out of the metadata"
    )


def _alike(folder: Path, name: str) -> str:
    """A file that may have been meant, as the beginning of a remedy: one in another case, or with an ending."""
    place = folder / os.path.dirname(name)
    there = sorted(os.listdir(place)) if os.path.isdir(place) else []
    wanted = os.path.basename(name).lower()
    meant = [each for each in there if wanted and wanted in (each.lower(), os.path.splitext(each)[0].lower())]
    return f"write {os.path.join(os.path.dirname(name), meant[0])!r}, if that is meant, " if meant else ""


def _parquet_rows(file: Path) -> list[dict]:
    import pyarrow.parquet  # slow to import, and few folders have such a file

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a readable parquet file ({error})") from error


def _json(text: str, at: str, hint: str = "") -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{at} is not JSON ({error.msg} at column {error.colno}){hint}") from None
