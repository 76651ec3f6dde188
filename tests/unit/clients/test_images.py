"""Images of every kind become RGB pixels or one clear error."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clients import images
from clients.errors import ImageError
from clients.images import ChannelOrder, Pixels, read_image, read_pixels


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth RGB picture without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) % 256], axis=-1).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def as_opencv_reads_it(data: bytes) -> np.ndarray:
    """RGB pixels."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 75, "subsampling": "4:2:0"}),
        ("JPEG", {"quality": 100, "subsampling": "4:4:4"}),
        ("JPEG", {"quality": 85, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("WebP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("size", [(48, 64), (37, 53), (1, 1), (1, 90), (90, 1)])
def test_pixels_equal_those_of_opencv(file_format: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(scene(*size), file_format, **options)
    pixels = read_image(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, as_opencv_reads_it(data))


def test_path_bytes_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    data = encoded(scene(), "PNG")
    path = tmp_path / "scene.png"
    path.write_bytes(data)
    sources = [path, str(path), data, bytearray(data), memoryview(data), cv2.imread(str(path))]
    for source in sources:
        np.testing.assert_array_equal(read_image(source), scene())


def test_decoded_pixels_are_a_source_themselves() -> None:
    pixels = read_pixels(encoded(scene(), "PNG"))
    assert pixels.order is ChannelOrder.RGB
    assert (pixels.height, pixels.width) == (48, 64)
    assert read_pixels(pixels) is pixels
    np.testing.assert_array_equal(pixels.bgr(), scene()[:, :, ::-1])


def test_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(scene(), "PNG"))
    np.testing.assert_array_equal(read_image(path), scene())


def test_file_that_cannot_be_rewound_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(encoded(scene(), "PNG"),))
    writer.start()
    np.testing.assert_array_equal(read_image(pipe), scene())
    writer.join()


class TestConversions:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP"])
    def test_grey_is_repeated_over_three_channels(self, file_format: str) -> None:
        data = encoded(scene()[:, :, 0], file_format)
        np.testing.assert_array_equal(read_image(data), as_opencv_reads_it(data))
        assert read_image(data).shape == (48, 64, 3)

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_sixteen_bit_grey_is_scaled_not_clipped(self, file_format: str) -> None:
        deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
        expected = np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        np.testing.assert_array_equal(read_image(encoded(deep, file_format)), expected)

    def test_sixteen_bit_grey_png_equals_that_of_opencv(self) -> None:
        data = encoded(np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64), "PNG")
        np.testing.assert_array_equal(read_image(data), as_opencv_reads_it(data))

    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    def test_sixteen_bit_colour_is_scaled(self, suffix: str) -> None:
        deep = scene().astype(np.uint16) * 256 + 77
        data = cv2.imencode(suffix, deep[:, :, ::-1])[1].tobytes()
        np.testing.assert_array_equal(read_image(data), scene())

    def test_big_endian_sixteen_bit_tiff_is_scaled(self) -> None:
        deep = np.array([[0, 256, 0x1234], [0x8000, 0xFF00, 0xFFFF]], ">u2")
        entries = [(256, 3, 3), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
        entries += [(278, 3, 2), (279, 4, deep.nbytes)]
        directory = b"".join(
            struct.pack(">HHI", tag, kind, 1)
            + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
            for tag, kind, value in entries
        )
        offset = 8 + deep.nbytes
        data = b"MM\0*" + struct.pack(">I", offset) + deep.tobytes()
        data += struct.pack(">H", len(entries)) + directory + struct.pack(">I", 0)
        np.testing.assert_array_equal(read_image(data)[:, :, 1], deep >> 8)

    def test_thirty_two_bit_pixels_are_refused(self) -> None:
        with pytest.raises(ImageError, match="expected 8 or 16 bits per channel, got 32"):
            read_image(encoded(np.ones((4, 4), np.float32), "TIFF"))

    @pytest.mark.parametrize("file_format", ["PNG", "WebP", "TIFF"])
    def test_alpha_is_dropped(self, file_format: str) -> None:
        # The WebP encoder may change colours that nobody sees, unless it is told to be exact.
        rgba = np.dstack([scene(), np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)])
        options = {"lossless": True, "exact": True} if file_format == "WebP" else {}
        np.testing.assert_array_equal(read_image(encoded(rgba, file_format, **options)), scene())

    def test_grey_with_alpha_drops_alpha(self) -> None:
        grey = scene()[:, :, 2]
        data = encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(scene()[:, :, 0])]), "PNG")
        np.testing.assert_array_equal(read_image(data), np.repeat(grey[:, :, None], 3, axis=2))

    @pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
    def test_palette_becomes_colour_without_a_warning(self, transparency: int | bytes | None) -> None:
        palette = Image.fromarray(scene()).quantize(16)
        options = {} if transparency is None else {"transparency": transparency}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = read_image(encoded(palette, "PNG", **options))
        np.testing.assert_array_equal(pixels, np.asarray(palette.convert("RGB")))

    def test_one_bit_becomes_black_and_white(self) -> None:
        bits = Image.fromarray(scene()[:, :, 0] > 100)
        pixels = read_image(encoded(bits, "PNG"))
        np.testing.assert_array_equal(pixels[:, :, 0], np.where(scene()[:, :, 0] > 100, 255, 0))

    def test_premultiplied_tiff_is_read(self) -> None:
        rgba = np.dstack([scene(), np.full((48, 64), 255, np.uint8)])
        # ExtraSamples (tag 338): 2 is plain alpha, 1 premultiplied (TIFF 6.0).
        plain, premultiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
        data = encoded(rgba, "TIFF")
        assert plain in data
        np.testing.assert_array_equal(read_image(data.replace(plain, premultiplied)), scene())

    @pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
    def test_cmyk_has_the_right_colours(self, file_format: str) -> None:
        colours = {
            "red": (255, 0, 0),
            "green": (0, 255, 0),
            "blue": (0, 0, 255),
            "white": (255,) * 3,
            "black": (0,) * 3,
        }
        strip = np.repeat(np.array(list(colours.values()), np.uint8)[None], 16, axis=0).repeat(16, axis=1)
        # Pillow writes a CMYK JPEG as Adobe does: inverted, with an Adobe marker.
        data = encoded(Image.fromarray(strip).convert("CMYK"), file_format)
        pixels = read_image(data).astype(int)
        assert np.abs(pixels - strip).max() <= 8
        assert np.abs(pixels - as_opencv_reads_it(data).astype(int)).max() <= 8

    def test_first_of_several_pictures_is_read(self) -> None:
        second = Image.fromarray(scene()[::-1].copy())
        for file_format in ("TIFF", "PNG", "MPO"):
            data = encoded(scene(), file_format, save_all=True, append_images=[second])
            np.testing.assert_allclose(read_image(data).astype(int), scene(), atol=40 if file_format == "MPO" else 0)


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "TIFF"])
    def test_picture_is_turned_upright(self, orientation: int, file_format: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if file_format == "WebP" else {}
        data = encoded(scene(), file_format, exif=exif, **options)
        stored = read_image(encoded(scene(), file_format, **options))
        pixels = read_image(data)
        np.testing.assert_array_equal(pixels, UPRIGHT[orientation](stored))
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg_is_turned_as_by_opencv(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(scene(), "JPEG", exif=exif)
        np.testing.assert_array_equal(read_image(data), as_opencv_reads_it(data))

    def test_sixteen_bit_picture_is_turned_too(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        deep = (scene()[:, :, 0].astype(np.uint16) << 8).copy()
        np.testing.assert_array_equal(
            read_image(encoded(deep, "PNG", exif=exif))[:, :, 0], np.rot90(scene()[:, :, 0], -1)
        )

    @pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + bytes(40)])
    @pytest.mark.filterwarnings("ignore")
    def test_damaged_exif_does_not_lose_the_picture(self, exif: bytes) -> None:
        np.testing.assert_array_equal(
            read_image(encoded(scene(), "JPEG", exif=exif)), read_image(encoded(scene(), "JPEG"))
        )

    @pytest.mark.parametrize("orientation", [0, 9, 4711])
    def test_orientation_out_of_range_is_upright(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(read_image(encoded(scene(), "PNG", exif=exif)), scene())


class TestDamage:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "BMP", "TIFF"])
    @pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9])
    def test_truncated_image_is_an_error(self, file_format: str, kept: float) -> None:
        noise = np.random.default_rng(7).integers(0, 256, (120, 160, 3), np.uint8)
        data = encoded(noise, file_format)
        with pytest.raises(ImageError):
            read_image(data[: max(12, int(len(data) * kept))])

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WebP", {}),
            ("WebP", {"lossless": True}),
            ("BMP", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_deflate"}),
        ],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_cut_anywhere_an_image_is_an_error_or_still_whole(self, file_format: str, options: dict[str, Any]) -> None:
        noise = np.random.default_rng(7).integers(0, 256, (24, 32, 3), np.uint8)
        data = encoded(noise, file_format, **options)
        whole = read_image(data)
        errors = 0
        for kept in range(1, len(data), 7):
            try:
                np.testing.assert_array_equal(read_image(data[:kept]), whole)
            except ImageError:
                errors += 1
        assert errors > len(range(1, len(data), 7)) * 0.8

    def test_message_is_one_line_and_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "half.png"
        path.write_bytes(encoded(scene(), "PNG")[:100])
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_empty_file_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.jpg"
        path.touch()
        with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
            read_image(path)
        with pytest.raises(ImageError, match="empty"):
            read_image(b"")

    @pytest.mark.parametrize(
        "data", [b"<html><body>Not found</body></html>", b"GIF89a" + bytes(40), b"%!PS-Adobe", b"x"]
    )
    def test_other_files_are_not_images(self, data: bytes) -> None:
        with pytest.raises(ImageError, match="expected JPEG, PNG, WebP, BMP or TIFF"):
            read_image(data)

    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no such file"):
            read_image(tmp_path / "absent.jpg")

    def test_directory_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="got a directory"):
            read_image(tmp_path)

    def test_path_that_no_file_can_have_is_an_error(self) -> None:
        with pytest.raises(ImageError, match="cannot be read"):
            read_image("nul\0byte.jpg")
        with pytest.raises(ImageError, match="cannot be read"):
            read_image("x" * 5000)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_unreadable_file_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.png"
        path.write_bytes(encoded(scene(), "PNG"))
        path.chmod(stat.S_IWUSR)
        with pytest.raises(ImageError, match="Permission denied"):
            read_image(path)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        file_format=st.sampled_from(["JPEG", "PNG", "WebP", "BMP", "TIFF"]),
        seed=st.integers(0, 2**32),
        changes=st.integers(1, 20),
    )
    @pytest.mark.filterwarnings("ignore")
    def test_damaged_bytes_give_pixels_or_an_image_error(self, file_format: str, seed: int, changes: int) -> None:
        dice = random.Random(seed)
        data = bytearray(encoded(scene(20, 24), file_format))
        for _ in range(changes):
            # Headers lie at either end of a file.
            position = dice.choice(
                [dice.randrange(len(data)), dice.randrange(min(60, len(data))), -dice.randrange(1, 60)]
            )
            data[position] = dice.randrange(256)
        try:
            pixels = read_image(bytes(data))
        except ImageError:
            return
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


def blank_png(width: int, height: int, *, rows: int) -> bytes:
    """A grey PNG of ``height`` rows by its header, of which ``rows`` are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    compressor = zlib.compressobj(1)
    row = bytes(1 + width)
    data = b"".join(compressor.compress(row) for _ in range(rows)) + compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class TestSize:
    def test_image_of_12000_by_12000_is_read_without_a_warning(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = read_pixels(blank_png(12000, 12000, rows=12000))
        assert (pixels.height, pixels.width) == (12000, 12000)

    def test_image_beyond_the_limit_is_refused_by_its_header(self) -> None:
        # The rows are not there: to decode first would be another error.
        with pytest.raises(ImageError, match=r"20000x20000 pixels are more than the limit of 178 megapixels"):
            read_image(blank_png(20000, 20000, rows=0))

    def test_settings_of_pillow_are_left_alone(self) -> None:
        before = Image.MAX_IMAGE_PIXELS
        read_image(encoded(scene(), "PNG"))
        assert before == Image.MAX_IMAGE_PIXELS

    def test_limit_lies_below_that_of_pillows_own_decoders(self) -> None:
        assert 12000 * 12000 < images.MAX_PIXELS < 2 * Image.MAX_IMAGE_PIXELS


class TestArrays:
    def test_bgr_array_is_taken_as_it_is(self) -> None:
        bgr = np.ascontiguousarray(scene()[:, :, ::-1])
        pixels = read_pixels(bgr)
        assert pixels.array_HWC is bgr
        np.testing.assert_array_equal(pixels.rgb(), scene())

    @pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1)])
    def test_grey_array_is_repeated(self, shape: tuple[int, ...]) -> None:
        grey = scene()[:, :, 2].reshape(shape)
        np.testing.assert_array_equal(read_image(grey), np.repeat(grey.reshape(48, 64, 1), 3, axis=2))

    def test_alpha_of_an_array_is_dropped(self) -> None:
        bgra = np.dstack([scene()[:, :, ::-1], np.zeros((48, 64), np.uint8)])
        np.testing.assert_array_equal(read_image(bgra), scene())

    @pytest.mark.parametrize("view", [np.s_[::2, ::3], np.s_[::-1], np.s_[5:20, 7:30], np.s_[:, :, ::-1]])
    def test_views_are_read_right(self, view: Any) -> None:
        bgr = np.ascontiguousarray(scene()[:, :, ::-1])[view]
        pixels = read_image(bgr)
        np.testing.assert_array_equal(pixels, bgr[:, :, ::-1])
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64, bool])
    def test_other_types_are_refused(self, dtype: type) -> None:
        with pytest.raises(ImageError, match="expected a uint8 array"):
            read_image(np.ones((4, 4, 3), dtype))

    @pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 5), (1, 4, 4, 3), (3, 48, 64)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ImageError, match="got shape"):
            read_image(np.ones(shape, np.uint8))

    @pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0,), (4, 4, 0)])
    def test_empty_arrays_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ImageError, match="empty array"):
            read_image(np.ones(shape, np.uint8))

    @pytest.mark.parametrize("source", [None, 7, [1, 2], Image.new("RGB", (4, 4))])
    def test_other_objects_are_refused_by_their_type(self, source: Any) -> None:
        with pytest.raises(ImageError, match=f"cannot read an image from {type(source).__name__}"):
            read_image(source)


def test_pixels_in_either_order_convert() -> None:
    pixels = Pixels(scene(), ChannelOrder.RGB)
    np.testing.assert_array_equal(pixels.rgb(), scene())
    np.testing.assert_array_equal(Pixels(pixels.bgr(), ChannelOrder.BGR).rgb(), scene())
