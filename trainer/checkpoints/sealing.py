"""Encryption at rest: AES-256-GCM in chunks, so that neither a byte, nor the order, nor the end can be changed unseen.

    sealed      magic, salt (16 bytes), check of the key (8 bytes), chunks
    chunk       1 MiB of content and a tag of 16 bytes; the last is shorter or as long
    nonce       number of the chunk (11 bytes, from 0), 1 for the last chunk or 0: STREAM, Hoang et al. 2015
    key         HKDF-SHA256 of the user's key and the salt: no two files share one, so that nonces may count

A label, the name of what is sealed, is authenticated with every chunk: one file cannot pass for another.
"""

from __future__ import annotations

import hmac
import io
import os
from pathlib import Path
from typing import BinaryIO

from builder.errors import SpecError
from trainer.errors import CheckpointError, SealError

ENVIRONMENT = "TRAINER_STORE_KEY"
"""A key that no file holds."""
MAGIC = b"yolo-triton sealed 1\n"
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
_KEY_BYTES = 32
_SALT_BYTES = 16
_CHECK_BYTES = 8


def read_key(path: Path | None) -> bytes | None:
    """The key of a file or, without one, of the environment; None where there is neither.

    Raises:
        SpecError: it cannot be read, or is no key.
    """
    try:
        text = path.read_text(encoding="ascii") if path else os.environ.get(ENVIRONMENT)
    except (OSError, ValueError) as e:
        raise SpecError(f"the key {path} cannot be read: {getattr(e, 'strerror', None) or 'it is no text'}.") from e
    if text is None:
        return None
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        # What came is never shown: it may be a key with a slip in it.
        raise SpecError(
            f"{path or ENVIRONMENT} holds no key: expected {2 * _KEY_BYTES} hexadecimal digits; make one by: "
            f"openssl rand -hex {_KEY_BYTES}"
        )
    return key


def seal(source: BinaryIO, target: BinaryIO, key: bytes, label: str) -> None:
    """Write ``source`` to ``target`` encrypted."""
    salt = os.urandom(_SALT_BYTES)
    cipher, check = _cipher(key, salt)
    target.write(MAGIC + salt + check)
    number, piece = 0, source.read(CHUNK_BYTES)
    while True:
        following = source.read(CHUNK_BYTES)
        target.write(cipher.encrypt(_nonce(number, last=not following), piece, label.encode()))
        if not following:
            return
        number, piece = number + 1, following


def unseal(source: BinaryIO, target: BinaryIO, key: bytes, label: str) -> None:
    """Write what ``seal`` was given to ``target``; of a damaged file the chunks before the damage.

    Raises:
        SealError: it was sealed with another key.
        CheckpointError: it was sealed under another label, or something was changed.
    """
    from cryptography.exceptions import InvalidTag

    header = source.read(len(MAGIC) + _SALT_BYTES + _CHECK_BYTES)
    salt, check = header[len(MAGIC) : -_CHECK_BYTES], header[-_CHECK_BYTES:]
    if not header.startswith(MAGIC) or len(salt) != _SALT_BYTES:
        raise CheckpointError(f"{label} is not sealed by this program, or is cut short.")
    cipher, expected = _cipher(key, salt)
    if not hmac.compare_digest(check, expected):
        raise SealError(f"{label} was sealed with another key: give that by --key-file or {ENVIRONMENT}.")
    number, piece = 0, source.read(CHUNK_BYTES + TAG_BYTES)
    while True:
        following = source.read(CHUNK_BYTES + TAG_BYTES)
        try:
            target.write(cipher.decrypt(_nonce(number, last=not following), piece, label.encode()))
        except InvalidTag as e:
            raise CheckpointError(f"{label} was changed after it was sealed, or is cut short (chunk {number}).") from e
        if not following:
            return
        number, piece = number + 1, following


def seal_bytes(content: bytes, key: bytes, label: str) -> bytes:
    """``seal`` in memory."""
    target = io.BytesIO()
    seal(io.BytesIO(content), target, key, label)
    return target.getvalue()


def unseal_bytes(content: bytes, key: bytes, label: str) -> bytes:
    """``unseal`` in memory, with its errors."""
    target = io.BytesIO()
    unseal(io.BytesIO(content), target, key, label)
    return target.getvalue()


class _Cipher:
    """AES-256-GCM, which wants a tag in every message."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)

    def encrypt(self, nonce: bytes, piece: bytes, label: bytes) -> bytes:
        return self._cipher.encrypt(nonce, piece, label)

    def decrypt(self, nonce: bytes, piece: bytes, label: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        if len(piece) < TAG_BYTES:
            raise InvalidTag
        return self._cipher.decrypt(nonce, piece, label)


def _cipher(key: bytes, salt: bytes) -> tuple[_Cipher, bytes]:
    """The cipher of one file, and the check by which another key is known before anything is read."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    made = HKDF(algorithm=SHA256(), length=_KEY_BYTES + _CHECK_BYTES, salt=salt, info=MAGIC).derive(key)
    return _Cipher(made[:_KEY_BYTES]), made[_KEY_BYTES:]


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
