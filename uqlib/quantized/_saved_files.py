"""Files of settings and arrays that notice when they are damaged.

A file is in the safetensors format. Its metadata are

    format     "uqlib quantized model", and the number of its version;
    library    the version of uqlib that wrote it, for information;
    settings   JSON;
    sha256     of the whole file, in which these 64 digits are zeros.

The digest finds every byte that changed by accident. It is no signature: whoever can
write the file can write the digest. What keeps a file from doing harm is that nothing
in it is ever run, and that no name in it is ever looked up but in lists of known ones.
"""

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from uqlib.quantized._safetensors import from_bytes, parsed, to_bytes

FORMAT = "uqlib quantized model"
FORMAT_VERSION = 1
_NO_DIGEST = "0" * hashlib.sha256().digest_size * 2
_DIGEST = "sha256"
# What reading numbers and names of any origin may raise.
DAMAGE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def write_file(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Write a file at once: what is at the path is the old one or the whole new one.

    Parameters
    ----------
    path : str or path-like
        Where to; an existing file is replaced.
    settings : mapping
        What JSON takes.
    arrays : mapping of str to ndarray
        By name.
    """
    metadata = {
        "format": f"{FORMAT} {FORMAT_VERSION}",
        "library": str(sys.modules["uqlib"].__version__),
        "settings": _json(settings),
        _DIGEST: _NO_DIGEST,
    }
    data = to_bytes(arrays, metadata)
    digest = hashlib.sha256(data).hexdigest().encode()
    _replace(Path(path), data.replace(_field(_NO_DIGEST), _field(digest.decode()), 1))


def read_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what `write_file` wrote.

    Parameters
    ----------
    path : str or path-like
        Of a file of any origin.

    Returns
    -------
    settings : dict
        From JSON.
    arrays : dict of str to ndarray
        By name.

    Raises
    ------
    ValueError
        If it is no such file, of another version of the format, or damaged.
    """
    data = Path(path).read_bytes()
    try:
        return _checked(data)
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no quantized model that can be read: {error}"
        ) from error


def _checked(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    arrays, metadata = from_bytes(data)
    name, _, version = metadata.get("format", "").rpartition(" ")
    if name != FORMAT:
        raise ValueError("it holds something else.")
    _check_version(version, metadata)
    digest = metadata.get(_DIGEST, "")
    plain = data.replace(_field(digest), _field(_NO_DIGEST), 1)
    if hashlib.sha256(plain).hexdigest() != digest:
        raise ValueError("its digest does not fit: it was changed or damaged.")
    return parsed(metadata.get("settings", "").encode()), arrays


def _check_version(version: str, metadata: Mapping[str, str]) -> None:
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"it has version {version[:20]!r} of the format, written by uqlib "
            f"{metadata.get('library', '')[:40]!r}; this uqlib reads version "
            f"{FORMAT_VERSION}."
        )


def _field(digest: str) -> bytes:
    """Return the digest as it stands in the header, with its name."""
    return f'"{_DIGEST}":{json.dumps(digest)}'.encode()


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(
        settings, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _replace(path: Path, data: bytes) -> None:
    """Write beside the path, then rename, which the file system does at once."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
