"""Photographs in other color spaces than sRGB, against the definitions of these spaces."""

import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from backdrop.common.errors import DataError
from backdrop.data import formats
from backdrop.data.color_profiles import as_srgb
from tests.data.test_formats import AVIF, HEIC

# The columns of red, green and blue in XYZ under D50, as their makers' profiles have them.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
WHITE = (0.9642, 1.0, 0.8249)


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


WORDS = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
RIGHTS = b"text\0\0\0\0none\0\0\0\0"


def assembled(kind: bytes, names: Sequence[bytes], parts: Sequence[bytes]) -> bytes:
    """A profile: ICC.1:2001-04."""
    table, body, start = struct.pack(">I", len(names)), b"", 132 + 12 * len(names)
    for name, part in zip(names, parts, strict=True):
        table += name + struct.pack(">II", start + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    head = bytearray(128)
    head[0:4], head[8:12] = struct.pack(">I", start + len(body)), b"\x02\x10\0\0"
    head[12:24], head[36:40], head[68:80] = kind, b"acsp", b"".join(map(fixed, WHITE))
    return bytes(head) + table + body


def profile_of(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    """A profile of three primaries and a gamma."""
    xyz = [b"XYZ \0\0\0\0" + b"".join(map(fixed, color)) for color in (WHITE, *primaries)]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"desc", b"cprt")
    return assembled(b"mntrRGB XYZ ", names, (*xyz, curve, curve, curve, WORDS, RIGHTS))


def cmyk_profile(corners: dict[tuple[int, ...], tuple[int, int, int]]) -> bytes:
    """A profile that gives the 16 mixtures of full inks these CIELAB colors (L 0..100, a and b -128..127)."""
    ramp, identity = bytes(range(256)), (1, 0, 0, 0, 1, 0, 0, 0, 1)
    colors = b"".join(
        bytes([round(corners[inks][0] * 2.55), corners[inks][1] + 128, corners[inks][2] + 128])
        for inks in itertools.product((0, 1), repeat=4)
    )
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + b"".join(map(fixed, identity)) + ramp * 4 + colors + ramp * 3
    names = (b"A2B0", b"A2B1", b"wtpt", b"desc", b"cprt")
    white = b"XYZ \0\0\0\0" + b"".join(map(fixed, WHITE))
    return assembled(b"prtrCMYKLab ", names, (table, table, white, WORDS, RIGHTS))


def expected(colors: np.ndarray, primaries: tuple[tuple[float, ...], ...], gamma: float) -> np.ndarray:
    """The sRGB levels of colors (N, 3) by the definitions, in float64."""
    light = (colors / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    return to_levels(light.clip(0, 1))


def to_levels(light: np.ndarray) -> np.ndarray:
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@given(st.sampled_from([ADOBE_RGB, DISPLAY_P3]), st.sampled_from([1.8, 2.19921875]), st.integers(0, 2**32 - 1))
def test_colors_are_those_of_the_definition(primaries: tuple[tuple[float, ...], ...], gamma: float, seed: int) -> None:
    colors = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    converted = as_srgb(colors.copy(), profile_of(primaries, gamma)).astype(float)
    wanted = expected(colors.reshape(-1, 3), primaries, gamma).reshape(colors.shape)
    assert np.abs(converted - wanted).max() < 2
    assert np.abs(converted - colors).max() > 3


def saved(colors: np.ndarray, kind: str, profile: bytes) -> bytes:
    """A file with a profile. A HEIC file has two colors of its own."""
    if kind == "HEIC":
        return with_profile(HEIC.read_bytes(), profile) if profile else HEIC.read_bytes()
    file = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(colors).save(file, kind, icc_profile=profile, **lossless)
    return file.getvalue()


def with_profile(heic: bytes, profile: bytes) -> bytes:
    """A HEIC file of one tile whose color box has a profile."""
    start = heic.index(b"colr") - 4
    box = struct.pack(">I", len(profile) + 12) + b"colrprof" + profile
    (length,) = struct.unpack(">I", heic[start : start + 4])
    changed = bytearray(heic)
    sizes = [heic.index(name) - 4 for name in (b"meta", b"iprp", b"ipco")]
    for at in (*sizes, heic.index(b"iloc") + 22):  # the last one is where the tile lies
        (value,) = struct.unpack(">I", heic[at : at + 4])
        changed[at : at + 4] = struct.pack(">I", value + len(box) - length)
    changed[start : start + length] = box
    return bytes(changed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "HEIC"])
def test_photographs_are_read_in_srgb_whatever_their_format(kind: str) -> None:
    colors = np.zeros((48, 64, 3), np.uint8) + np.array([[[40, 180, 90]]], np.uint8)
    profile = profile_of(DISPLAY_P3, 2.2)
    plain = formats.decode_photo(saved(colors, kind, b""), "a")
    shown = formats.decode_photo(saved(colors, kind, profile), "a")
    wanted = expected(plain.reshape(-1, 3), DISPLAY_P3, 2.2).reshape(plain.shape)
    assert np.abs(shown - wanted).max() < 2
    assert np.abs(shown.astype(float) - plain).max() > 3


@given(st.binary(max_size=400), st.integers(0, 479), st.integers(1, 200))
def test_a_damaged_profile_stops_nothing(noise: bytes, start: int, length: int) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    whole = profile_of(ADOBE_RGB, 2.2)
    for damaged in (noise, whole[:start], whole[:start] + noise[:length] + whole[start + length :]):
        assert as_srgb(colors.copy(), damaged).shape == colors.shape


def gray_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ \0\0\0\0" + b"".join(map(fixed, WHITE))
    return assembled(b"mntrGRAYXYZ ", (b"wtpt", b"kTRC", b"desc", b"cprt"), (white, curve, WORDS, RIGHTS))


def test_srgb_is_left_as_it_is_and_profiles_of_other_colors_than_the_file_s_are_not_used() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    incomplete = profile_of(SRGB, 1.0).replace(b"mntrRGB ", b"mntrGRAY")
    for profile in (own, incomplete, b"", b"none"):
        assert as_srgb(colors, profile) is colors
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(formats.decode_photo(saved(colors, kind, gray_profile(1.0)), "a"), colors)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_gray_photographs_have_the_levels_of_their_profile(kind: str, gamma: float) -> None:
    """Chromium 156 shows them within one level of this."""
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = formats.decode_photo(saved(gray, kind, b""), "a")
    shown = formats.decode_photo(saved(gray, kind, gray_profile(gamma)), "a")
    assert np.abs(shown - to_levels((plain / 255) ** gamma)).max() < 1.5
    assert np.array_equal(formats.decode_levels(saved(gray, "PNG", gray_profile(gamma)), "a"), gray)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_the_colors_of_their_profile(kind: str) -> None:
    random = np.random.default_rng(0)
    corners = {
        inks: (int(random.integers(30, 80)), *map(int, random.integers(-15, 15, 2)))
        for inks in itertools.product((0, 1), repeat=4)
    }
    corners[0, 0, 0, 0], corners[1, 1, 1, 1] = (100, 0, 0), (0, 0, 0)  # so that there is no black to compensate
    for inks, (light, a, b) in corners.items():
        file = io.BytesIO()
        pixels = np.zeros((16, 16, 4), np.uint8) + 255 * np.array(inks, np.uint8)
        Image.fromarray(pixels, "CMYK").save(file, kind, quality=100, icc_profile=cmyk_profile(corners))
        shown = formats.decode_photo(file.getvalue(), "a").reshape(-1, 3).mean(axis=0)
        y = (light + 16) / 116
        roots = np.array([y + a / 500, y, y - b / 200])
        xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * WHITE
        linear = (xyz @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
        assert np.abs(shown - to_levels(linear)).max() < 3


# Of ITU-T H.273: x and y of red, green and blue; the white of all is D65.
XY = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    9: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def light_matrix(points: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Linear colors (N, 3) of these primaries times this are in XYZ; white is D65, and has a luminance of 1."""
    x, y = np.array(((0.3127, 0.3290), *points)).T
    white, *colors = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    return np.linalg.solve(np.array(colors).T, white)[:, None] * np.array(colors)


def by_definition(colors: np.ndarray, points: tuple[tuple[float, float], ...], gamma: float | None) -> np.ndarray:
    """The sRGB levels of colors (N, 3), without a gamma those with the curve of sRGB; float64."""
    share = colors / 255
    curve = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = curve if gamma is None else share**gamma
    return to_levels((light @ light_matrix(points) @ np.linalg.inv(light_matrix(XY[1]))).clip(0, 1))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 / gamma)))


def chrm(points: tuple[tuple[float, float], ...]) -> bytes:
    numbers = [number for point in ((0.3127, 0.3290), *points) for number in point]
    return chunk(b"cHRM", struct.pack(">8I", *(round(number * 100_000) for number in numbers)))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def png_with(colors: np.ndarray, chunks: bytes, profile: bytes = b"") -> bytes:
    data = saved(colors, "PNG", profile)
    return data[:33] + chunks + data[33:]


SRGB_CHUNK = chunk(b"sRGB", b"\0")


@pytest.mark.parametrize(
    ("chunks", "points", "gamma"),
    [
        (gama(1), XY[1], 1.0),
        (gama(1.8), XY[1], 1.8),
        (gama(1 / 0.45455), XY[1], None),
        (gama(2.2) + chrm(ADOBE), ADOBE, 2.2),
        (gama(2.2) + chrm(XY[1]), XY[1], 2.2),
        (chrm(ADOBE), XY[1], None),  # the primaries without the gamma
        (gama(1) + chrm(ADOBE) + SRGB_CHUNK, XY[1], None),
        (cicp(12, 13), XY[12], None),
        (cicp(9, 13) + gama(1) + SRGB_CHUNK, XY[9], None),
        (cicp(1, 13) + gama(1), XY[1], None),
        (cicp(9, 1), XY[9], 2.4),
        (cicp(2, 2) + gama(1.8), XY[1], 1.8),  # numbers that say nothing
    ],
)
def test_a_png_s_colors_are_those_that_browsers_show(
    chunks: bytes, points: tuple[tuple[float, float], ...], gamma: float | None
) -> None:
    """Chromium 156 shows each within one level of this."""
    colors = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    shown = formats.decode_photo(png_with(colors, chunks), "a").astype(float)
    wanted = by_definition(colors.reshape(-1, 3), points, gamma).reshape(colors.shape)
    assert np.abs(shown - wanted).max() < 2
    assert np.array_equal(formats.decode_levels(png_with(colors, chunks), "a"), colors)  # masks are as stored


def test_a_png_s_numbers_come_before_its_profile_and_that_before_its_gamma() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    profile = profile_of(ADOBE_RGB, 1.8)
    by_profile = formats.decode_photo(png_with(colors, b"", profile), "a")
    assert not np.array_equal(by_profile, colors)
    assert np.array_equal(formats.decode_photo(png_with(colors, gama(1) + chrm(XY[12]), profile), "a"), by_profile)
    assert np.array_equal(formats.decode_photo(png_with(colors, cicp(1, 13), profile), "a"), colors)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=4, max_size=4))
def test_a_png_s_odd_primaries_stop_nothing(points: bytes, gamma: bytes) -> None:
    chunks = chunk(b"gAMA", gamma) + chunk(b"cHRM", points)
    assert formats.decode_photo(png_with(np.full((4, 4, 3), 9, np.uint8), chunks), "a").shape == (4, 4, 3)


@pytest.mark.parametrize("path", [HEIC, AVIF], ids=["HEIC", "AVIF"])
@pytest.mark.parametrize("primaries", [1, 9, 12])
@pytest.mark.parametrize("transfer", [1, 13])
def test_colors_of_heic_and_avif_are_those_of_their_numbers(path: Path, primaries: int, transfer: int) -> None:
    plain = formats.decode_photo(numbered(path.read_bytes(), 2, 2), "a")
    shown = formats.decode_photo(numbered(path.read_bytes(), primaries, transfer), "a")
    wanted = by_definition(plain.reshape(-1, 3), XY[primaries], None).reshape(plain.shape)
    assert np.abs(shown - wanted).max() < 2


def numbered(data: bytes, primaries: int, transfer: int) -> bytes:
    start = data.index(b"colrnclx") + 8
    return data[:start] + struct.pack(">HH", primaries, transfer) + data[start + 4 :]


def test_the_numbers_of_another_image_in_a_heic_do_not_count() -> None:
    """A gain map's, for example, which says HDR of an SDR photograph."""
    data = numbered(HEIC.read_bytes(), 12, 13)
    inner = struct.pack(">I", 19) + b"colrnclx" + struct.pack(">HHHB", 9, 16, 9, 128)
    box = struct.pack(">I", len(inner) + 8) + b"free" + inner
    end = int.from_bytes(data[:4])  # of the first box
    changed = bytearray(data[:end] + box + data[end:])
    at = changed.index(b"iloc") + 22  # where the tile lies
    changed[at : at + 4] = struct.pack(">I", int.from_bytes(changed[at : at + 4]) + len(box))
    assert np.array_equal(formats.decode_photo(bytes(changed), "a"), formats.decode_photo(data, "a"))


def test_avif_of_ten_bits_has_its_colors() -> None:
    shown = formats.decode_photo(AVIF.read_bytes(), "a")
    for place, color in ((10, [200, 40, 60]), (50, [40, 180, 90])):
        wanted = by_definition(np.array([color]), XY[12], None)[0]
        assert np.abs(shown[20, place] - wanted).max() < 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer: int, name: str) -> None:
    colors = np.zeros((8, 8, 3), np.uint8)
    files = [numbered(path.read_bytes(), 9, transfer) for path in (HEIC, AVIF)]
    for data in (png_with(colors, cicp(9, transfer)), *files):
        with pytest.raises(DataError, match=rf"^a is HDR \({name}\), which .*\. Export it as SDR, in sRGB\.$"):
            formats.decode_photo(data, "a")
