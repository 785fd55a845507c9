"""What PyTorch itself says of our files, and of torchvision's classifiers with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.pretrained import load_part, save_part
from jaxdiff.pretrained.part import assemble
from tests.pretrained.parity import ROOT, gap

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
SAVED = ("vae4", "vae16", "vq", "taesd", "clip_quick", "clip_projected", "clip_vision")
SAVED = (*SAVED, "clip_vision_plain", "t5_gated", "t5_relu", "bert")


@pytest.mark.parametrize("name", SAVED)
def test_pytorch_reads_what_we_write(name, tmp_path):
    import diffusers
    import transformers

    part = load_part(ROOT / name)
    save_part(tmp_path, part)
    library = diffusers if "_class_name" in part.config else transformers
    kind = part.config.get("_class_name") or part.config["architectures"][0]
    given, again = (getattr(library, kind).from_pretrained(p) for p in (ROOT / name, tmp_path))
    expected, found = given.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all((expected[key] == found[key]).all() for key in expected)


@pytest.mark.parametrize("name", ["resnet50", "inception_v3"])
def test_a_classifier_of_torchvision_answers_as_in_pytorch(name):
    import torch
    import torchvision

    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
    kind = {"resnet50": "ResNet50", "inception_v3": "InceptionV3"}[name]
    config = {"_class_name": kind, "num_classes": 1000}
    config |= {"fid": False} if name == "inception_v3" else {}
    part = assemble(config, {k: v.numpy() for k, v in model.state_dict().items()})
    image = np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32)
    given = (image + 1) / 2
    given = (given - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225) if name == "resnet50" else image
    with torch.no_grad():
        expected = model(torch.tensor(given, dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
    with jax.default_matmul_precision("highest"):
        found = jax.jit(part.net.apply)(part.params, jnp.asarray(image)).logits
    assert gap(found, expected) < 1e-4 * max(1.0, float(np.abs(expected).max()))
