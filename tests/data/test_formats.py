"""What image files are by their bytes; damage is what a decoder finds."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from backdrop.common.errors import ConfigError, DataError
from backdrop.data import damage, formats
from backdrop.data.orientation import turn

HEIC = Path(__file__).parent / "files" / "two-colors.heic"
AVIF = HEIC.with_suffix(".avif")  # 10 bits, Display P3
TAILS = [b"", bytes(6000), struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + bytes(range(250)) * 40, b"\xff\xd9" * 9]


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)


def saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def by_opencv(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 99),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.sampled_from([40, 90, 100]),
    st.sampled_from(["RGB", "L", "CMYK"]),
)
def test_a_jpeg_has_the_pixels_that_opencv_reads(
    height: int, width: int, seed: int, sampling: int, progressive: bool, quality: int, mode: str
) -> None:
    file = io.BytesIO()
    options = {"subsampling": sampling} if mode == "RGB" else {}
    image = Image.fromarray(scene(height, width, seed)).convert(mode)
    image.save(file, "JPEG", quality=quality, progressive=progressive, **options)
    assert np.array_equal(formats.decode_photo(file.getvalue(), "a"), by_opencv(file.getvalue()))


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 3}, {"optimize": True}])
@pytest.mark.parametrize("tail", TAILS, ids=["none", "padding", "video", "markers"])
def test_a_whole_file_with_a_tail_is_whole(tail: bytes, options: dict[str, object]) -> None:
    data = saved(scene(40, 60), "JPEG", **options)
    assert np.array_equal(formats.decode_photo(data + tail, "a"), by_opencv(data))
    for kind in ("PNG", "GIF", "WEBP"):
        data = saved(scene(20, 30), kind)
        assert np.array_equal(formats.decode_levels(data + tail, "a"), formats.decode_levels(data, "a"))


@pytest.mark.parametrize("tail", [*TAILS, saved(scene(10, 10), "JPEG"), b"\xff\xda" * 9])
def test_padding_before_the_end_of_a_jpeg_costs_no_pixel(tail: bytes) -> None:
    data = saved(scene(40, 60), "JPEG")
    padded = data[:-2] + bytes(31) + data[-2:] + tail
    assert np.array_equal(formats.decode_photo(padded, "a"), by_opencv(data))
    with pytest.raises(DataError, match=r"^a is damaged inside \(Corrupt JPEG data: \d+ extraneous bytes"):
        formats.decode_photo(data[:-2] + b"garbage" * 4 + b"123" + data[-2:], "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BigTIFF"])
def test_photographs_are_turned_as_a_viewer_shows_them(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"big_tiff": True} if kind == "BigTIFF" else {}
    data = saved(scene(20, 30), kind.removeprefix("Big"), exif=exif, **options)
    assert np.array_equal(formats.decode_photo(data, "a"), by_opencv(data))
    assert formats.shape_of(data) == by_opencv(data).shape[:2]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((kind, "XML:com.adobe.xmp") for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
        ("PNG", "Raw profile type exif"),
    ],
)
def test_only_exif_turns_a_photograph(kind: str, text: str) -> None:
    """Pillow turns by XMP, and by the text that ImageMagick leaves in a PNG, too; no browser does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    texts = PngImagePlugin.PngInfo()
    texts.add_text(text, xmp if text.startswith("XML") else f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700], tags.tagtype[700] = xmp.encode(), 1
    options = {"PNG": {"pnginfo": texts}, "TIFF": {"tiffinfo": tags}}
    data = saved(scene(20, 30), kind, **options.get(kind, {"xmp": xmp.encode()}))
    plain = saved(scene(20, 30), kind)
    assert data != plain
    assert np.array_equal(formats.decode_photo(data, "a"), formats.decode_photo(plain, "a"))
    assert np.array_equal(formats.decode_levels(data, "a"), formats.decode_levels(plain, "a"))
    assert formats.shape_of(data) == (20, 30)


def test_exif_behind_a_png_s_pixels_turns_it() -> None:
    """As exiftool writes it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(scene(20, 30), "PNG", exif=exif)
    start, pixels = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4
    late = data[:start] + data[pixels:-12] + data[start:pixels] + data[-12:]
    assert np.array_equal(formats.decode_photo(late, "a"), turn(scene(20, 30), 6))
    assert formats.shape_of(late) == (30, 20)


@given(st.integers(128, 600), st.integers(128, 600), st.sampled_from([0, 1, 2]), st.booleans(), st.integers(1, 8))
def test_a_shrunk_jpeg_has_the_thumbnail_of_the_whole(
    height: int, width: int, sampling: int, progressive: bool, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = cv2.GaussianBlur(scene(height, width), (0, 0), 3)  # still rougher than photographs
    data = saved(image, "JPEG", quality=95, subsampling=sampling, progressive=progressive, exif=exif)
    shrunk, whole = formats.decode_photo(data, "a", least=128), formats.decode_photo(data, "a")
    assert min(shrunk.shape[:2]) >= 128
    thumbnails = [cv2.resize(each, (32, 32), interpolation=cv2.INTER_AREA).astype(int) for each in (shrunk, whole)]
    assert np.sqrt(np.square(thumbnails[0] - thumbnails[1]).mean()) < 1.5  # near duplicates differ by less than 2


def test_a_hole_in_a_jpeg_is_found_with_libjpeg_s_own_words() -> None:
    data = saved(scene(200, 300), "JPEG", quality=95)
    middle = len(data) // 2
    holed = data[:middle] + bytes(2000) + data[middle + 2000 :]
    with pytest.raises(DataError, match=r"^photo\.jpg is damaged inside \(Corrupt JPEG data: .*\)\. Copy it again"):
        formats.decode_photo(holed, "photo.jpg")


def warned_by_libjpeg(data: bytes, capfd: pytest.CaptureFixture[str]) -> bool:
    """OpenCV reads a damaged JPEG all the same, and libjpeg prints its warning."""
    capfd.readouterr()
    by_opencv(data)
    return bool(capfd.readouterr().err)


def damage_of(data: bytes, least: int) -> str:
    try:
        formats.decode_photo(data, "a", least)
    except DataError as error:
        return error.what
    return ""


def test_what_libjpeg_warns_of_is_damage_and_nothing_else_is(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    data = saved(scene(100, 150), "JPEG", quality=90)
    scan = data.index(b"\xff\xda") + 14
    count = 0
    for _ in range(200):
        changed = bytearray(data)
        changed[int(random.integers(scan, len(data) - 2))] ^= int(random.integers(1, 256))
        found = [damage_of(bytes(changed), least) for least in (0, 8, 32)]
        assert bool(found[0]) == warned_by_libjpeg(bytes(changed), capfd)
        assert len({*found}) == 1
        count += bool(found[0])
    assert count > 50


def without_checksum(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_no_images(kind: str) -> None:
    data = saved(scene(90, 90), kind)
    formats.decode_levels(data, "a")
    for share in (0.05, 0.3, 0.6, 0.95):
        for decode in (formats.decode_photo, formats.decode_levels):
            with pytest.raises(DataError, match=r"^a (is truncated|is not a readable image)\. Copy"):
                decode(data[: int(len(data) * share)], "a")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"exif": b"Exif\0\0II*\0" + bytes(9)}),
        ("AVIF", {}),
    ],
)
def test_a_copy_that_was_cut_short_and_filled_with_zeros_is_damaged(kind: str, options: dict, share: float) -> None:
    data = saved(scene(360, 480), kind, **options)
    lost = int(len(data) * share)
    for decode in (formats.decode_photo, formats.decode_levels):
        decode(data, "a")
        with pytest.raises(DataError, match=r"^a (is|ends) .*\. Copy it again"):
            decode(data[:-lost] + bytes(lost), "a")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("path", [HEIC, AVIF], ids=lambda path: path.suffix)
def test_zeros_count_inside_the_box_of_pixels_only(path: Path, large: bool) -> None:
    data = path.read_bytes()
    formats.decode_photo(data + bytes(300), "a")
    start = data.index(b"mdat") - 4
    head, content = data[:start], data[start + 8 :]
    size = len(content) + 300 + 8 * large
    box = struct.pack(">I4sQ", 1, b"mdat", size + 8) if large else struct.pack(">I4s", size + 8, b"mdat")
    assert damage.find_heif_damage(head + box + content + bytes(300))
    assert not damage.find_heif_damage(head + box + content + bytes(299) + b"1" + bytes(300))
    assert not damage.find_heif_damage(head + struct.pack(">I4s", 0, b"mdat") + content + bytes(300))


def test_a_lossless_webp_may_end_in_zeros() -> None:
    mask = np.zeros((1400, 2000, 3), np.uint8)
    mask[300:700, 500:1000] = 255
    data = saved(mask, "WEBP", lossless=True, method=0, quality=20)
    assert data.endswith(bytes(1000))
    assert np.array_equal(formats.decode_photo(data, "a"), mask)


@given(st.integers(0, 255), st.integers(0, 60), st.sampled_from([0, 1, 3]), st.sampled_from(["WEBP", "AVIF"]))
@settings(max_examples=30)
def test_plain_images_do_not_end_in_zeros(level: int, quality: int, slope: int, kind: str) -> None:
    rows, columns = np.mgrid[:400, :600]
    plain = np.uint8((level + slope * rows + (slope == 3) * columns) % 256)
    formats.decode_photo(saved(np.dstack([plain] * 3), kind, quality=quality), "a")


def test_a_changed_byte_in_a_png_is_found_by_its_checksum() -> None:
    with pytest.raises(DataError, match="damaged inside"):
        formats.decode_photo(without_checksum(saved(scene(30, 40), "PNG")), "a")


def test_damage_in_a_gif_is_found_though_it_has_no_checksum() -> None:
    """All that OpenCV finds, which decodes it; a code that is exchanged for another of as many pixels stays unseen."""
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (80, 60), 40, 255, -1)
    data = saved(mask, "GIF")
    start = data.index(b",") + 1
    random, changes, unseen = np.random.default_rng(1), 0, 0
    for _ in range(600):
        changed = bytearray(data)
        changed[int(random.integers(start, len(data) - 4))] ^= 1 << int(random.integers(8))
        try:
            levels = np.asarray(Image.open(io.BytesIO(changed)).convert("L"))
        except (OSError, ValueError, SyntaxError):
            continue
        if not np.array_equal(levels, mask):
            changes += 1
            with contextlib.suppress(DataError):
                formats.decode_levels(bytes(changed), "a")
                unseen += 1
                assert cv2.imdecode(np.frombuffer(changed, np.uint8), cv2.IMREAD_GRAYSCALE) is not None
    assert changes > 100
    assert unseen <= 0.05 * changes


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 256), st.sampled_from([1, 8]), st.booleans())
def test_a_whole_gif_has_no_damage(height: int, width: int, levels: int, block: int, interlaced: bool) -> None:
    noise = np.random.default_rng(height * width).integers(0, levels, (height // block + 1, width // block + 1))
    image = np.kron(noise, np.ones((block, block))).astype(np.uint8)[:height, :width]
    assert damage.find_gif_damage(saved(image, "GIF", interlace=interlaced)) == ""


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP", "PNG"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    image = scene(21, 34)
    data = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(formats.decode_photo(data, "a"), image)


def test_sixteen_bits_and_palettes_are_photographs_too() -> None:
    _, deep = cv2.imencode(".tiff", cv2.cvtColor(scene(9, 9), cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)
    assert np.array_equal(formats.decode_photo(deep.tobytes(), "a"), scene(9, 9))
    gray = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    _, deep = cv2.imencode(".tiff", gray)
    assert np.array_equal(formats.decode_photo(deep.tobytes(), "a")[..., 1], gray >> 8)


def tiff(
    planes: list[np.ndarray], photometric: int, more: dict[int, int] | None = None, thumbnail: bool = False
) -> bytes:
    """A TIFF of one or several planes (H, W) of 8 or 16 bits, after a thumbnail of one pixel if asked for."""
    (height, width), bits = planes[0].shape, planes[0].itemsize * 8
    body = b"".join(plane.astype(f"<u{plane.itemsize}").tobytes() for plane in planes)
    size = planes[0].nbytes
    start = 8 + len(body) + 64
    lists = {258: [bits] * len(planes), 273: [8 + size * i for i in range(len(planes))], 279: [size] * len(planes)}
    plain = {256: width, 257: height, 259: 1, 262: photometric, 277: len(planes), 278: height} | (more or {})
    extra, entries = b"", []
    for tag in sorted(lists | plain):
        values = [plain[tag]] if tag in plain else lists[tag]
        value = struct.pack("<I", values[0])
        if len(values) > 1:
            value = struct.pack("<I", 8 + len(body) + len(extra))
            extra += struct.pack(f"<{len(values)}I", *values)
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + value)
    assert len(extra) <= 64
    folder = struct.pack("<H", len(entries)) + b"".join(entries)
    following = start + len(folder) + 4 if thumbnail else 0
    pages = folder + struct.pack("<I", following) + (folder + bytes(4) if thumbnail else b"")
    return b"II*\0" + struct.pack("<I", start) + body + extra.ljust(64, b"\0") + pages


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_has_the_levels_of_one_whose_zero_is_black(bits: int) -> None:
    gray = scene(9, 9)[..., 0].astype(f"u{bits // 8}") * (257 if bits == 16 else 1)
    black, white = (formats.decode_levels(tiff([levels], zero), "a") for levels, zero in ((gray, 1), (~gray, 0)))
    assert np.array_equal(black, gray)
    assert np.array_equal(white, gray)


def test_a_tiff_that_would_be_read_wrongly_is_refused() -> None:
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(scene(9, 9), -1, 0)]
    assert np.array_equal(formats.decode_photo(tiff(planes, 2, {284: 2}), "a"), scene(9, 9))
    deep = [plane.astype(np.uint16) * 257 for plane in planes]
    with pytest.raises(DataError, match=r"^a is a TIFF of 16 bits with a plane for each color\. Save it with 8 bits"):
        formats.decode_photo(tiff(deep, 2, {284: 2}), "a")
    with pytest.raises(DataError, match=r"^a has 12 bits a pixel\. Save it"):
        formats.decode_photo(tiff(planes[:1], 1, {258: 12}), "a")
    with pytest.raises(DataError, match=r"^a is a TIFF that begins with a thumbnail\. Save the photograph alone"):
        formats.decode_photo(tiff(planes[:1], 1, {254: 1}, thumbnail=True), "a")
    assert formats.decode_photo(tiff(planes[:1], 1, {254: 1}), "a").shape == (9, 9, 3)


def test_an_unknown_kind_of_image_may_be_whole() -> None:
    precision = saved(scene(9, 9), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")
    for data in (precision, tiff([scene(9, 9)[..., 0]], 1, {259: 60_000})):
        with pytest.raises(DataError, match=r"^a is not a readable image\. Copy it .*, or save it as a JPEG or PNG"):
            formats.decode_photo(data, "a")


def test_heic_is_read_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = HEIC.read_bytes()
    image = formats.decode_photo(data, "a")
    assert image.shape == (40, 64, 3)
    assert image[20, 10].tolist() == pytest.approx([30, 60, 220], abs=12)
    assert image[30, 50].tolist() == pytest.approx([200, 200, 200], abs=12)
    with pytest.raises(DataError, match=r"^a is not a readable image"):
        formats.decode_photo(data[:400], "a")
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(
        DataError, match=r"a is a HEIC photograph, and pi_heif isn't installed\. pip install 'backdrop-ml"
    ):
        formats.decode_photo(data, "a")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_read_as_a_viewer_shows_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = cv2.GaussianBlur(scene(40, 64), (0, 0), 5)
    data = saved(image, "AVIF", quality=95, exif=exif)
    shown = formats.decode_photo(data, "a")
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(shown, turned)
    assert np.abs(shown.astype(int) - turn(image, orientation)).mean() < 3
    assert formats.shape_of(data) == shown.shape[:2]


def test_avif_has_an_alpha_channel_and_damage_and_other_names() -> None:
    image = np.dstack([scene(40, 64), np.repeat(np.uint8([[0], [255]]), (30, 10), axis=0) @ np.ones((1, 64), np.uint8)])
    data = saved(image, "AVIF", quality=95)
    assert np.array_equal(formats.decode_levels(data, "a")[..., 3], image[..., 3])
    assert formats.decode_photo(data, "a").shape == (40, 64, 3)
    other = data[:8] + b"mif1" + data[12:16] + b"miafavif" + data[24:]  # as some programs write it
    assert formats.format_of(other) == "avif"
    assert np.array_equal(formats.decode_photo(other, "a"), formats.decode_photo(data, "a"))
    for length in (60, 200, len(data) - 10):
        with pytest.raises(DataError, match=r"^a is (truncated|not a readable image)\. Copy it again"):
            formats.decode_photo(data[:length], "a")


def jpeg_bomb() -> bytes:
    data = saved(scene(8, 8), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", 65500, 65500) + data[frame + 9 :]


def png_bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\2\0;"
    )


def bmp_bomb() -> bytes:
    data = saved(scene(4, 4), "BMP")
    return data[:18] + struct.pack("<ii", 60_000, 60_000) + data[26:]


@pytest.mark.parametrize("bomb", [jpeg_bomb, png_bomb, gif_bomb, bmp_bomb])
def test_a_bomb_is_refused_by_its_header(bomb: Callable[[], bytes]) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for decode in (formats.decode_photo, formats.decode_levels):
        with pytest.raises(DataError, match=r"a has \d+x\d+ pixels, more than the 300,000,000 that are decoded"):
            decode(bomb(), "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_the_bound_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(scene(10, 20), "JPEG")
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "199")
    with pytest.raises(DataError, match="a has 20x10 pixels, more than the 199"):
        formats.decode_photo(data, "a")
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "200")
    formats.decode_photo(data, "a")
    for text in ("0", "-1", "many", "1e9"):
        monkeypatch.setenv("BACKDROP_MAX_PIXELS", text)
        with pytest.raises(ConfigError, match=f"BACKDROP_MAX_PIXELS is {text}"):
            formats.decode_photo(data, "a")


def test_pointers_of_git_lfs_say_what_they_are() -> None:
    data = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    with pytest.raises(DataError, match=r"a is a Git LFS pointer, not the image\. Run `git lfs pull`"):
        formats.decode_photo(data, "a")


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
def test_no_bytes_end_in_a_traceback(data: bytes, start: bytes) -> None:
    for decode in (formats.decode_photo, formats.decode_levels):
        with contextlib.suppress(DataError):
            decode(start + data, "a")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_large_images_are_copied_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(scene(30, 40)).convert(mode).save(file, "TIFF")
    whole = formats.decode_levels(file.getvalue(), "a")
    monkeypatch.setattr(formats, "STRIP", 40 * 7)
    assert np.array_equal(formats.decode_levels(file.getvalue(), "a"), whole)
