"""Pictures of samples: every image is where it should be, and what cannot be drawn is named."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data.grids import density, tiled, write_beside, write_grid, write_picture


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_tiles_stand_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 1), np.uint8)
    page = tiled(images, columns=2, gap=1)
    assert page.shape == (3 * 3 + 2, 2 * 2 + 1, 1)
    for i in range(5):
        top, left = (i // 2) * 4, (i % 2) * 3
        assert (page[top : top + 3, left : left + 2] == i).all()
    assert (page[8:, 3:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_is_written_as_it_is(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, channels), np.uint8)
    write_grid(tmp_path / "deep" / "x.png", images, zoom=2)
    found = _pixels(tmp_path / "deep" / "x.png").reshape(8, 10, channels)
    assert (found[::2, ::2] == images[0]).all()


def test_floats_are_scaled(tmp_path):
    write_grid(tmp_path / "x.png", np.array([-1.0, 1.0]).reshape(1, 1, 2, 1))
    assert _pixels(tmp_path / "x.png").tolist() == [[0, 255]]


def test_points_are_dark_where_they_are():
    picture = density(np.array([[1.0, 1.0]] * 3 + [[-1.0, -1.0]]), size=4)[..., 0]
    assert picture[0, 3] == 0
    assert 0 < picture[3, 0] < 255
    assert (picture != 255).sum() == 2


def test_points_and_images_are_told_apart(tmp_path):
    write_picture(tmp_path / "a.png", np.zeros((7, 2), np.float32))
    write_picture(tmp_path / "b.png", np.zeros((4, 8, 8, 3), np.float32), columns=4)
    assert _pixels(tmp_path / "a.png").shape == (256, 256)
    assert _pixels(tmp_path / "b.png").shape == (64, 38 * 8, 3)


def test_what_has_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(7, 3\) have no picture"):
        write_picture(tmp_path / "x.png", np.zeros((7, 3)))
    with pytest.raises(ValueError, match="NaN"):
        write_grid(tmp_path / "x.png", np.full((1, 2, 2, 1), np.nan))
    with pytest.raises(ValueError, match=r"x.txt cannot be written: .*\.png"):
        write_grid(tmp_path / "x.txt", np.zeros((1, 2, 2, 1)))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/x\.png cannot be written"):
        write_grid(tmp_path / "file" / "x.png", np.zeros((1, 2, 2, 1)))


def test_pictures_stand_side_by_side(tmp_path):
    for name, height in (("a", 3), ("b", 5)):
        write_grid(tmp_path / f"{name}.png", np.zeros((1, height, 2, 1), np.uint8))
    write_beside(tmp_path / "both.png", [tmp_path / "a.png", tmp_path / "b.png"], gap=4)
    page = _pixels(tmp_path / "both.png")
    assert page.shape == (5, 8)
    assert not page[:3, :2].any() and not page[:, 6:].any()
    assert (page[:, 2:6] == 255).all() and (page[3:, :2] == 255).all()
