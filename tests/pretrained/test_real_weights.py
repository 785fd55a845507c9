"""Real weights give in jaxdiff what they give in PyTorch: on a photo, and on three sentences.

The photo is a corner of NASA's portrait of Eileen Collins (public domain). `answers.npz` holds a
few of PyTorch's numbers, so the tests marked `data` need the weights and not PyTorch; those marked
`torch`, too, ask PyTorch anew and compare everything.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.pytorch_parity import real_weights as theirs
from jaxdiff.nets.features import ALEXNET, VGG16, caffe_pixels
from jaxdiff.nets.text import sentence
from jaxdiff.pretrained import load_part
from jaxdiff.pretrained.families.autoencoder import taesd_tensors
from jaxdiff.pretrained.files import read_tensors
from jaxdiff.pretrained.part import assemble
from tests.pretrained.offline import keras_tensors, lpips_tensors, offline, taesd
from tests.pretrained.parity import ROOT, gap

FOLDER = ROOT / "real_weights"
TINY = {
    "taesd": {"latent_channels": 4},
    "taesd3": {"latent_channels": 16},
    "taef2": {"latent_channels": 32, "use_midblock_gn": True},
}
LPIPS_NETS = {"vgg": ("vgg16", VGG16), "alex": ("alexnet", ALEXNET)}
FILES = {
    "minilm": "**/model.fp16.safetensors",
    "resnet50": "**/model.json",
    "inception": "**/default_1.pt",
}


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def photo():
    """[1, 96, 96, 3] in [-1, 1]."""
    with Image.open(FOLDER / "photo.png") as picture:
        return np.asarray(picture, np.float32)[None] / 127.5 - 1


def enlarged():
    """The photo with its pixels repeated, 299 x 299."""
    return photo().repeat(4, 1).repeat(4, 2)[:, :299, :299]


def asked(name):
    return offline(name, FILES[name])


def files_of(stem):
    return taesd(stem)


def lpips_of(net):
    file, trunk = LPIPS_NETS[net]
    numbers = [(i + 1, layer.number) for i, part in enumerate(trunk.slices) for layer in part]
    return lpips_tensors(offline("lpips", f"**/{file}.ckpt"), numbers)


def caffe(image):
    return np.asarray(caffe_pixels(jnp.asarray(image)))


def answers():
    with np.load(FOLDER / "answers.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def tiny(stem):
    config = {"_class_name": "AutoencoderTiny"} | TINY[stem]
    return assemble(config, taesd_tensors(*map(read_tensors, taesd(stem))))


def through(part, image):
    code = jax.jit(part.net.encode)(part.params, jnp.asarray(image)).mean
    return code, jax.jit(part.net.decode)(part.params, code)


def psnr(a, b):
    """In decibel, of images in [-1, 1]."""
    return 10 * np.log10(4 / np.mean(np.square(np.asarray(a) - np.asarray(b))))


def keras_part():
    path = asked("resnet50")
    config = {"_class_name": "ResNet50", "layout": "keras", "eps": 1e-3}
    return assemble(config, keras_tensors(path)), path


def inception_part():
    torch = pytest.importorskip("torch")
    path = asked("inception")
    script = torch.jit.load(str(path), map_location="cpu")
    tensors = {name: value.numpy() for name, value in script.state_dict().items()}
    return assemble({"_class_name": "InceptionV3"}, tensors), path


def embed(ids):
    part = load_part(asked("minilm").parent, variant="fp16")
    mask = jnp.asarray(ids != 0)
    out = jax.jit(part.net.apply)(part.params, jnp.asarray(ids), mask)
    return out, sentence(out.last, mask)


def distance(net, x, y):
    part = assemble({"_class_name": "LPIPS", "net": net}, lpips_of(net))
    return jax.jit(part.net.apply)(part.params, jnp.asarray(x), jnp.asarray(y))


@pytest.mark.data
@pytest.mark.parametrize("stem", TINY)
def test_a_tiny_autoencoder_says_what_it_said(stem):
    code, image = through(tiny(stem), photo())
    assert gap(theirs._few(np.asarray(code)), answers()[f"{stem}_code"]) < 1e-4
    assert gap(theirs._few(np.asarray(image)), answers()[f"{stem}_image"]) < 1e-4


@pytest.mark.data
def test_sentences_have_the_embeddings_of_minilm():
    _, found = embed(theirs.IDS)
    assert gap(found[:, :64], answers()["minilm"]) < 1e-5
    near = np.asarray(found @ found.T)
    assert near[0, 1] > near[0, 2] + 0.1  # a cat is nearer to a dog than to the stock market


@pytest.mark.data
@pytest.mark.parametrize("net", LPIPS_NETS)
def test_lpips_says_what_it_said(net):
    assert gap(distance(net, photo(), photo()[:, ::-1]), answers()[f"lpips_{net}"]) < 1e-5


@pytest.mark.data
def test_resnet_says_what_it_said():
    part, _ = keras_part()
    found = jax.jit(part.net.apply)(part.params, jnp.asarray(photo()))
    assert gap(found.logits[:, :64], answers()["resnet50"]) < 1e-4


@pytest.mark.data
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_inception_says_what_it_said():
    part, _ = inception_part()
    found = jax.jit(part.net.apply)(part.params, jnp.asarray(enlarged()))
    assert gap(found.pooled[:, :64], answers()["inception"]) < 1e-4


@pytest.mark.data
@pytest.mark.torch
@pytest.mark.parametrize("stem", TINY)
def test_a_photo_comes_back_as_from_pytorch(stem):
    image = _large(256)
    code, ours = through(tiny(stem), image)
    expected = theirs.tiny(taesd(stem), image)
    assert gap(code, expected["code"]) < 1e-4
    assert abs(psnr(ours, image) - psnr(expected["image"], image)) < 0.05
    if stem != "taef2":
        again = theirs.tiny_diffusers(taesd(stem), image)
        assert abs(psnr(ours, image) - psnr(again, image)) < 0.05
    print(f"{stem}: {psnr(ours, image):.3f} dB here, {psnr(expected['image'], image):.3f} there")
    assert psnr(ours, image) > 20


@pytest.mark.data
@pytest.mark.torch
def test_minilm_is_pytorchs_bert():
    out, found = embed(theirs.IDS)
    expected = theirs.minilm(asked("minilm").parent, theirs.IDS)
    counts = (theirs.IDS != 0)[:, :, None]
    assert gap(out.last * counts, expected["last"] * counts) < 1e-5
    assert gap(found, expected["sentence"]) < 1e-6


@pytest.mark.data
@pytest.mark.torch
@pytest.mark.parametrize("net", LPIPS_NETS)
def test_lpips_is_pytorchs(net):
    x = _large(128)
    y = np.clip(x + 0.2 * np.random.default_rng(0).normal(size=x.shape), -1, 1).astype(np.float32)
    expected = theirs.lpips_distance(net, lpips_of(net), x, y)
    assert gap(distance(net, x, y), expected) < 1e-5
    assert expected[0] > 0.1


@pytest.mark.data
@pytest.mark.torch
def test_resnet_is_the_graph_of_keras():
    part, path = keras_part()
    image = _large(224)
    found = jax.jit(part.net.apply)(part.params, jnp.asarray(image))
    expected = theirs.keras(path, keras_tensors(path), caffe(image))
    assert gap(found.logits, expected) < 1e-4


@pytest.mark.data
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_inception_is_the_script():
    part, path = inception_part()
    image = _large(299)
    found = jax.jit(part.net.apply)(part.params, jnp.asarray(image))
    assert gap(found.pooled, theirs.scripted(path, image)) < 1e-4


def _large(side):
    data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32)[None] / 127.5 - 1
