from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backdrop.common.errors import DataError
from backdrop.data.dataset import Photo, open_dataset
from backdrop.data.digests import content_digests, dataset_digest, measure


@given(
    stored=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    orientation=st.integers(1, 8),
    mask=st.none() | st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_a_mask_has_the_size_of_its_photograph_as_a_viewer_shows_it(
    tmp_path_factory: pytest.TempPathFactory,
    stored: tuple[int, int],
    orientation: int,
    mask: tuple[int, int] | None,
) -> None:
    """No step may learn or judge by another: stretched to one input, it would hardly be seen."""
    folder = tmp_path_factory.mktemp("pair")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", stored).save(folder / "a_1.jpg", exif=exif)
    shown = stored[::-1] if orientation > 4 else stored
    size = mask or shown
    drawn = Image.new("L", size)
    drawn.putpixel((1, 1), 255)
    drawn.save(folder / "a_1_mask.png")
    photo = Photo("a_1", "a", "1", folder / "a_1.jpg", folder / "a_1_mask.png")
    if size == shown:
        assert measure(photo)[1] == 1
    else:
        what = rf"a_1_mask\.png is {size[0]}x{size[1]}, but its photograph is {shown[0]}x{shown[1]}"
        with pytest.raises(DataError, match=what):
            measure(photo)


def test_a_photograph_that_is_none_is_refused_before_it_is_trained_on(data: Path) -> None:
    photo = open_dataset(data).photos["car00_01"]
    photo.image.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"car00_01\.jpg is a Git LFS pointer"):
        content_digests([photo])


def test_the_digest_knows_names_images_and_masks(data: Path) -> None:
    def digest() -> str:
        return dataset_digest(content_digests(open_dataset(data).photos.values()))

    first = digest()
    assert first == digest()
    mask = data / "train_masks" / "car00_01_mask.png"
    mask.write_bytes((data / "train_masks" / "car00_02_mask.png").read_bytes())
    second = digest()
    (data / "train" / "car05_02.jpg").rename(data / "train" / "car05_03.jpg")
    (data / "train_masks" / "car05_02_mask.png").rename(data / "train_masks" / "car05_03_mask.png")
    assert len({first, second, digest()}) == 3
