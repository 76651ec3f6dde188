"""What is sealed opens with its key alone, and only as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import SpecError
from trainer.checkpoints.sealing import CHUNK_BYTES, ENVIRONMENT, TAG_BYTES, read_key, seal_bytes, unseal_bytes
from trainer.errors import CheckpointError, SealError

KEY, OTHER = bytes(range(32)), bytes(32)
HEADER_BYTES = 45


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_opens_as_it_was(size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    sealed = seal_bytes(content, KEY, "run/a.pt")
    assert content[:64] not in sealed or size < 2
    assert unseal_bytes(sealed, KEY, "run/a.pt") == content


def test_same_content_is_never_sealed_alike() -> None:
    assert seal_bytes(b"content", KEY, "a") != seal_bytes(b"content", KEY, "a")


def test_other_key_is_told() -> None:
    with pytest.raises(SealError, match="was sealed with another key"):
        unseal_bytes(seal_bytes(b"content", KEY, "a"), OTHER, "a")


@given(st.integers(0, HEADER_BYTES + 7 + TAG_BYTES - 1), st.integers(0, 7))
def test_no_bit_can_be_changed(place: int, bit: int) -> None:
    sealed = bytearray(seal_bytes(b"content", KEY, "a"))
    sealed[place] ^= 1 << bit
    with pytest.raises(CheckpointError):
        unseal_bytes(bytes(sealed), KEY, "a")


def test_chunks_cannot_be_left_out_swapped_or_passed_off() -> None:
    sealed = seal_bytes(bytes(3 * CHUNK_BYTES), KEY, "a")
    chunk = CHUNK_BYTES + TAG_BYTES
    header, chunks = sealed[:HEADER_BYTES], [sealed[HEADER_BYTES + i * chunk :][:chunk] for i in range(3)]
    for changed in (chunks[:2], chunks[1:], [chunks[1], chunks[0], chunks[2]], [*chunks, chunks[2]], []):
        with pytest.raises(CheckpointError, match="was changed after it was sealed, or is cut short"):
            unseal_bytes(header + b"".join(changed), KEY, "a")
    with pytest.raises(CheckpointError, match="was changed"):
        unseal_bytes(sealed, KEY, "b")
    with pytest.raises(CheckpointError, match="is not sealed by this program"):
        unseal_bytes(b"PK\x03\x04", KEY, "a")


def test_key_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(ENVIRONMENT, OTHER.hex())
    assert read_key(None) == OTHER
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    assert read_key(path) == KEY


@pytest.mark.parametrize("text", ["", "secret", "00" * 31, "zz" * 32])
def test_what_is_no_key_is_told_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(SpecError, match="expected 64 hexadecimal digits; make one by: openssl rand -hex 32") as error:
        read_key(path)
    assert not text or text not in str(error.value)
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read_key(tmp_path / "nothing")
