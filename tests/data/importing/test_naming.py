"""Object and view from folders and names."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError
from backdrop.data.importing.naming import name_photos


def named(*paths: str, pattern: str | None = None) -> list[str | None]:
    names = name_photos([PurePosixPath(path) for path in paths], pattern)
    return ["_".join(name) if name else None for name in names.values()]


def test_folders_are_objects_and_names_that_recur_are_views() -> None:
    paths = ("shoe 1/front.jpg", "shoe 1/side.jpg", "shoe 2/front.jpg", "shoe 2/side.jpg", "shoe 2/top.jpg")
    assert named(*paths) == ["shoe-1_front", "shoe-1_side", "shoe-2_front", "shoe-2_side", "shoe-2_top"]


def test_names_of_a_camera_become_numbers_in_their_order() -> None:
    paths = ("a/IMG_9.jpg", "a/IMG_10.jpg", "b/IMG_2042.jpg", "b/IMG_2041.jpg")
    assert named(*paths) == ["a_01", "a_02", "b_02", "b_01"]


def test_an_object_s_name_in_its_file_is_no_part_of_the_view() -> None:
    assert named("boot/boot_front.jpg", "Clog/clog-front.jpg") == ["boot_front", "Clog_front"]


def test_folders_that_all_share_say_nothing() -> None:
    assert named("photos/2024/a/x.jpg", "photos/2024/b/x.jpg") == ["a_x", "b_x"]
    assert named("photos/lamp/1.jpg", "photos/lamp/2.jpg") == ["lamp_01", "lamp_02"]
    assert named("a/in/x.jpg", "b/in/x.jpg") == ["a-in_x", "b-in_x"]


def test_folders_that_part_a_dataset_say_nothing() -> None:
    assert named("train/a_1.jpg", "train/b_1.jpg", "test/c_1.jpg") == ["a_1", "b_1", "c_1"]
    assert named("Test/front.jpg", "Test/back.jpg", "Shoe/front.jpg", "Shoe/back.jpg") == [
        *("Test_front", "Test_back", "Shoe_front", "Shoe_back")
    ]
    assert named("train/images/a_1.jpg", "Valid/images/a_2.jpg", "train/images/IMG1.jpg") == ["a_1", "a_2", None]
    assert named("val/shoe/front.jpg", "train/shoe/top.jpg", "train/hat/top.jpg") == [
        "shoe_front",
        "shoe_top",
        "hat_top",
    ]


def test_one_folder_is_an_object_unless_its_names_say_which_are() -> None:
    assert named("data/images/a_1.jpg", "data/images/b_1.jpg") == ["a_1", "b_1"]
    assert named("lamp/IMG_0001.jpg", "lamp/IMG_0002.jpg") == ["lamp_01", "lamp_02"]
    assert named("lamp/a_1.jpg", "lamp/b_1.jpg", "lamp/top.jpg") == ["lamp_01", "lamp_02", "lamp_03"]


def test_a_flat_folder_is_read_as_datasets_are() -> None:
    assert named("car1_01.jpg", "big_car_left.jpg", "photo.jpg", "car2_01.jpg") == [
        "car1_01",
        "big_car_left",
        None,
        "car2_01",
    ]


def test_a_pattern_reads_anything() -> None:
    paths = ("2024/left-SKU77.jpg", "2024/right-SKU77.jpg", "misc/notes.jpg")
    pattern = r"(?P<view>left|right)-(?P<object>SKU\d+)"
    assert named(*paths, pattern=pattern) == ["SKU77_left", "SKU77_right", None]
    assert named("SKU1 b.jpg", "SKU1 a.jpg", pattern=r"^(?P<object>SKU\d+)") == ["SKU1_02", "SKU1_01"]


@pytest.mark.parametrize(
    ("pattern", "what"), [("(", "is not a regular expression"), ("a_(.*)", "no group named object")]
)
def test_a_pattern_that_says_nothing_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        named("a_1.jpg", pattern=pattern)


def test_names_that_would_be_one_stay_two() -> None:
    assert named("shoe 1/a.jpg", "shoe-1/a.jpg", "SHOE?1/a.jpg") == ["shoe-1-2_a", "shoe-1-3_a", "SHOE-1_a"]


PART = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(PART, PART), min_size=1, max_size=12, unique=True))
def test_any_names_become_safe_ones_and_stay_apart(parts: list[tuple[str, str]]) -> None:
    paths = [PurePosixPath("root", folder, f"{name}.jpg") for folder, name in parts]
    paths = [path for path in dict.fromkeys(paths) if path.suffix == ".jpg" and ".." not in path.parts]
    names = name_photos(paths, None)
    told = [name for name in names.values() if name]
    for name in told:
        stem = "_".join(name)
        assert stem.rpartition("_")[::2] == name
        assert "/" not in stem
        assert not stem.startswith((".", "-"))
        assert stem.isprintable()
