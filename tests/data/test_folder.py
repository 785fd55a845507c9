"""A folder of images: three layouts, and a clear error for whatever may be wrong with it."""

import json

import numpy as np
import PIL.Image
import pytest

from jaxdiff.data import folder, loader


def _save(path, value: int | tuple[int, ...] = 0, hw=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, hw[::-1], value).save(path)
    return path


@pytest.fixture
def flat(tmp_path):
    for i, name in enumerate("cab"):
        _save(tmp_path / f"{name}.png", (i, 10 * i, 100 * i))
    return tmp_path


@pytest.fixture
def broken(flat):
    whole = (flat / "a.png").read_bytes()
    (flat / "broken.png").write_bytes(b"no image at all")
    (flat / "cut.png").write_bytes(whole[: len(whole) // 2])
    return flat


def test_a_flat_folder_comes_in_sorted_order(flat):
    source = folder(flat)
    assert source.images[:, 0, 0].tolist() == [[1, 10, 100], [2, 20, 200], [0, 0, 0]]
    assert (source.images.dtype, source.labels, source.captions) == (np.uint8, None, None)


def test_class_folders_give_labels_and_names(tmp_path):
    for name, value in (("dog/deep/x.PNG", 2), ("dog/y.jpg", 3), ("cat/z.webp", 1)):
        _save(tmp_path / name, value, mode="L")
    _save(tmp_path / ".thumbs" / "t.png")
    _save(tmp_path / "__MACOSX" / "t.png")
    source = folder(tmp_path, channels=1)
    assert source.labels.tolist() == [0, 1, 1]
    assert (source.names, source.classes) == (("cat", "dog"), 2)
    assert source.images.shape == (3, 4, 4, 1)


def test_it_feeds_the_loader(flat):
    assert next(loader(folder(flat), 3, seed=0)).x.shape == (3, 4, 4, 3)


def test_a_missing_folder_and_a_file_in_its_place(flat):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*no such folder"):
        folder(flat / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"a.png' is a file"):
        folder(flat / "a.png")


def test_an_empty_folder_names_itself_and_the_suffixes(tmp_path):
    (tmp_path / "notes.md").write_text("no image")
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no images.*\.jpg, .*\.png"):
        folder(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    _save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="dog holds no images"):
        folder(tmp_path)


def test_loose_images_beside_classes_are_named(tmp_path):
    _save(tmp_path / "cat" / "a.png")
    _save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"cat, \.\.\.\) and 1 loose images \(loose.png"):
        folder(tmp_path)


def test_unreadable_images_are_all_counted_and_named(broken):
    with pytest.raises(ValueError, match="2 of 5 images are unreadable") as error:
        folder(broken)
    for words in ("broken.png", "cut.png", "on_error='skip'"):
        assert words in str(error.value)


def test_unreadable_images_may_be_skipped_with_a_warning_that_counts(broken):
    with pytest.warns(UserWarning, match="skipped 2 of 5 unreadable images: .*broken.png"):
        source = folder(broken, on_error="skip")
    assert len(source.images) == 3


def test_skipping_keeps_labels_and_captions_with_their_images(broken):
    lines = [f"{name}.png\ttext of {name}" for name in ("c", "broken", "cut", "a")]
    (broken / "captions.txt").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="skipped 2 of 4"):
        source = folder(broken, on_error="skip")
    assert source.captions == ("text of a", "text of c")
    assert source.images[:, 0, 0, 0].tolist() == [1, 0]


def test_nothing_readable_is_an_error_whatever_the_policy(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 images are unreadable"):
        folder(tmp_path, on_error="skip")


def test_mixed_sizes_name_two_files_and_the_fix(flat):
    _save(flat / "b2.png", hw=(4, 6))
    with pytest.raises(
        ValueError, match=r"mixed sizes: .*a.png .*b2.png .*\(4, 6, 3\): pass size="
    ):
        folder(flat)
    assert folder(flat, size=4).images.shape == (4, 4, 4, 3)


def test_mixed_channels_name_two_files_and_the_fix(flat):
    _save(flat / "z.png", 7, mode="L")
    with pytest.raises(ValueError, match=r"mixed channels: .*a.png .*z.png .*: pass channels=3"):
        folder(flat, channels=None)
    assert folder(flat).images[-1, 0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size=0"),
        ({"channels": 2}, "channels=2"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
    ],
)
def test_options_that_mean_nothing_are_refused(flat, options, words):
    with pytest.raises(ValueError, match=words):
        folder(flat, **options)


@pytest.mark.parametrize("pixels", [12, 30])  # Pillow itself raises, and only warns
def test_decompression_bombs_are_unreadable(flat, monkeypatch, pixels):
    _save(flat / "bomb.png", hw=(5, 6))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20 if pixels == 30 else 12)
    with pytest.raises(ValueError, match=r"unreadable: .*bomb.png \(.*pixels"):
        folder(flat)


def test_size_crops_the_middle_and_antialiases(tmp_path):
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, 8:16] = np.indices((8, 8)).sum(0)[..., None] % 2 * 255  # a fine board in the middle
    picture[:, 16:] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    small = folder(tmp_path, size=2).images[0]
    assert small.shape == (2, 2, 3)
    assert np.abs(small.astype(int) - 127).max() < 12  # grey: neither black, white, nor aliased


def test_transparent_parts_become_white_or_stay(tmp_path):
    _save(tmp_path / "a.png", (255, 0, 0, 0), mode="RGBA")
    _save(tmp_path / "b.png", (255, 0, 0, 255), mode="RGBA")
    assert folder(tmp_path).images[:, 0, 0].tolist() == [[255, 255, 255], [255, 0, 0]]
    assert folder(tmp_path, channels=4).images[0, 0, 0].tolist() == [255, 0, 0, 0]
    assert folder(tmp_path, channels=None).images.shape == (2, 4, 4, 4)


def test_deep_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257 * 7], [257 * 200, 65535]], np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "a.png")
    assert folder(tmp_path, channels=1).images.ravel().tolist() == [0, 7, 200, 255]


def test_pixels_of_32_bits_are_refused_by_name(tmp_path):
    PIL.Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a.tiff \(mode F has 32 bits"):
        folder(tmp_path)


def test_exif_orientation_is_obeyed(tmp_path):
    image = PIL.Image.new("RGB", (6, 4))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert folder(tmp_path).images.shape == (1, 6, 4, 3)


@pytest.mark.parametrize("size", [None, 2])
def test_lazy_access_equals_reading_at_once(flat, size):
    lazy, eager = folder(flat, size=size, lazy=True), folder(flat, size=size)
    assert len(lazy.images) == 3
    assert (np.stack([lazy.images[i] for i in range(3)]) == eager.images).all()
    assert (next(loader(lazy, 3, seed=0)).x == next(loader(eager, 3, seed=0)).x).all()


def test_captions_of_both_kinds(flat):
    (flat / "captions.txt").write_text("c.png\tthird, with a\ttab\n\na.png\tfürs Erste\n", "utf-8")
    source = folder(flat)
    assert source.captions == ("fürs Erste", "third, with a\ttab")
    assert source.images[:, 0, 0, 0].tolist() == [1, 0]
    other = flat / "other.jsonl"
    other.write_text(json.dumps({"file": "b.png", "text": "b"}) + "\n")
    assert folder(flat, captions=other).captions == ("b",)


def test_a_captioned_file_that_is_missing_is_unreadable_by_name(flat):
    (flat / "captions.txt").write_text("a.png\ta\ngone.png\tgone\n")
    with pytest.raises(ValueError, match=r"1 of 2 images are unreadable: .*gone.png"):
        folder(flat)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("captions.txt", "a.png\ta\nb.png b\n", "captions.txt:2: 'b.png b' is not file<TAB>text"),
        ("captions.txt", "\n", "captions.txt is empty"),
        ("captions.jsonl", "{", "captions.jsonl:1: "),
        ("captions.jsonl", '{"file": "a.png"}', "captions.jsonl:1: "),
        ("captions.jsonl", '["a.png", "a"]', "captions.jsonl:1: "),
        ("captions.jsonl", '{"file": "a.png", "text": 3}', "captions.jsonl:1: "),
    ],
)
def test_malformed_captions_name_the_line(flat, name, text, words):
    (flat / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        folder(flat)


def test_two_captions_files_or_none_where_one_is_named(flat):
    with pytest.raises(FileNotFoundError, match="no such file"):
        folder(flat, captions=flat / "texts.txt")
    for name in ("captions.txt", "captions.jsonl"):
        (flat / name).write_text("a.png\ta")
    with pytest.raises(ValueError, match=r"captions.txt and captions.jsonl: name one"):
        folder(flat)
