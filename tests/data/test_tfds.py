"""TFDS without TensorFlow: tiny sets are prepared here as array records and read by name."""

import numpy as np
import pytest

from jaxdiff.data import loader, resident, tfds

_N = 20


def _value(i: int) -> np.ndarray:
    return np.full((6, 8, 1), 10 * i, np.uint8)


def _examples(*_):
    for i in range(_N):
        yield i, {"image": _value(i), "label": i % 2, "weight": np.float32(i)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with the set `tiny_toy`: 20 images of 6 x 8, two classes."""
    import tensorflow_datasets as library

    def info(self):
        features = library.features.FeaturesDict(
            {
                "image": library.features.Tensor(shape=(6, 8, 1), dtype=np.uint8),
                "label": library.features.ClassLabel(names=["even", "odd"]),
                "weight": library.features.Scalar(dtype=np.float32),
            }
        )
        return library.core.DatasetInfo(builder=self, features=features)

    methods = {
        "VERSION": library.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {"train": _examples()},
        "_generate_examples": _examples,
    }
    tiny = type("TinyToy", (library.core.GeneratorBasedBuilder,), methods)
    folder = tmp_path_factory.mktemp("tfds")
    tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_it_is_read_by_name(data_dir):
    source = tfds("tiny_toy", "train", data_dir)
    assert (len(source.images), len(source.labels)) == (_N, _N)
    assert (source.classes, source.names) == (2, ("even", "odd"))
    images = np.stack([source.images[i] for i in range(_N)])
    labels = np.array([source.labels[i] for i in range(_N)])
    assert images.shape == (_N, 6, 8, 1)
    assert (images[:, 0, 0, 0] // 10 % 2 == labels).all()
    assert sorted(images[:, 0, 0, 0].tolist()) == [10 * i for i in range(_N)]


def test_slices_of_a_split(data_dir):
    assert len(tfds("tiny_toy", "train[:25%]", data_dir).images) == 5


def test_it_feeds_the_loader_and_resumes(data_dir):
    source = tfds("tiny_toy", "train", data_dir)
    batches = loader(source, 4, seed=0)
    first = next(batches)
    state = batches.get_state()
    second = next(batches)
    assert (np.round((first.x[:, 0, 0, 0] + 1) * 12.75) % 2 == first.cond).all()
    assert first.cond.dtype == np.int32
    again = loader(source, 4, seed=0)
    again.set_state(state)
    assert (next(again).x == second.x).all()


def test_it_may_reside_on_the_device(data_dir):
    data = resident(tfds("tiny_toy", "train", data_dir))
    assert data.images.shape == (_N, 6, 8, 1)
    assert (data.images[:, 0, 0, 0] // 10 % 2 == data.labels).all()


def test_size_crops_and_resamples(data_dir):
    source = tfds("tiny_toy", "train", data_dir, size=3)
    assert source.images[0].shape == (3, 3, 1)
    assert len(np.unique(source.images[0])) == 1


def test_labels_are_optional(data_dir):
    source = tfds("tiny_toy", "train", data_dir, label=None)
    assert (source.labels, source.classes) == (None, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "split='test': this set has train"),
        ({"label": "weight"}, r"label='weight' is no class label.*\['label'\]"),
        ({"label": "class"}, "label='class' is no class label"),
        ({"image": "picture"}, "image='picture': the features of this set are image, label"),
        ({"image": "weight"}, r"image='weight' has shape \(\) and dtype float32"),
    ],
)
def test_what_the_set_does_not_have_is_refused(data_dir, options, words):
    with pytest.raises(ValueError, match=words):
        tfds(**{"name": "tiny_toy", "split": "train", "data_dir": data_dir, **options})


def test_an_unknown_name_gets_the_nearest(data_dir):
    with pytest.raises(ValueError, match=r"name='cifar_10'.*did you mean cifar10"):
        tfds("cifar_10", "train", data_dir)


def test_a_set_that_is_not_prepared_says_how(data_dir):
    with pytest.raises(FileNotFoundError, match=r"jaxdiff\[tfds\].*builder\('cifar10'.*prepare"):
        tfds("cifar10", "train", data_dir)


def test_a_format_without_random_access_says_so(data_dir, tmp_path):
    import shutil

    shutil.copytree(data_dir / "tiny_toy", tmp_path / "tiny_toy")
    described = tmp_path / "tiny_toy" / "1.0.0" / "dataset_info.json"
    text = described.read_text()
    assert "array_record" in text
    described.write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="as tfrecord, which has no random access"):
        tfds("tiny_toy", "train", tmp_path)
