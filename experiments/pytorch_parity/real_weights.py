"""What PyTorch says with real weights: tiny autoencoders, MiniLM, LPIPS, ResNet-50, Inception-v3.

python experiments/pytorch_parity/real_weights.py      write the answers to the small photo

Each function takes the files and an image [b, h, w, 3] in [-1, 1] (or token numbers) and returns
arrays in that layout. None of them knows jaxdiff: the tiny autoencoder of FLUX.2 and the graph of
Keras's model.json are walked here with PyTorch's own operations. tests/pretrained compares. Where
the files are is said in tests/pretrained/offline.py.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "pretrained" / "fixtures" / "real_weights"
# "[CLS] a photo of a cat [SEP]" and two others in MiniLM's vocabulary, padded with 0.
IDS = np.array(
    [
        [101, 1037, 6302, 1997, 1037, 4937, 102, 0],
        [101, 1037, 3861, 1997, 1037, 3899, 102, 0],
        [101, 1996, 4518, 3006, 3631, 2651, 999, 102],
    ],
    np.int32,
)


def tiny(files: list[pathlib.Path], image: np.ndarray) -> dict[str, np.ndarray]:
    """Code and reconstruction of an original tiny autoencoder, layer by layer as numbered."""
    import torch
    from safetensors.torch import load_file

    encoder, decoder = ({k: v.float() for k, v in load_file(f).items()} for f in files)
    with torch.no_grad():
        code = _numbered(encoder, _nchw(image) / 2 + 0.5, downward=True)
        picture = _numbered(decoder, torch.tanh(code / 3) * 3, downward=False) * 2 - 1
    return {"code": _nhwc(code), "image": _nhwc(picture)}


def _numbered(weights: dict[str, Any], x: Any, downward: bool) -> Any:
    import torch.nn.functional as f

    last = max(int(name.split(".")[0]) for name in weights)
    for n in range(last + 1):
        if f"{n}.conv.0.weight" in weights:
            x = _block(weights, f"{n}.", x)
        elif f"{n}.weight" in weights:
            bias = weights.get(f"{n}.bias")
            stride = 2 if downward and bias is None else 1
            x = f.conv2d(x, weights[f"{n}.weight"], bias, stride=stride, padding=1)
        elif n == 2:
            x = f.relu(x)
        elif n > 2:
            x = f.interpolate(x, scale_factor=2, mode="nearest")
    return x


def _block(w: dict[str, Any], at: str, x: Any) -> Any:
    import torch.nn.functional as f

    if f"{at}pool.0.weight" in w:
        h = f.conv2d(x, w[f"{at}pool.0.weight"])
        h = f.relu(f.group_norm(h, 4, w[f"{at}pool.1.weight"], w[f"{at}pool.1.bias"]))
        x = x + f.conv2d(h, w[f"{at}pool.3.weight"])
    h = x
    for i in (0, 2, 4):
        h = f.conv2d(
            f.relu(h) if i else h, w[f"{at}conv.{i}.weight"], w[f"{at}conv.{i}.bias"], 1, 1
        )
    return f.relu(h + x)


def tiny_diffusers(files: list[pathlib.Path], image: np.ndarray) -> np.ndarray:
    """Reconstruction by diffusers' AutoencoderTiny with the same weights."""
    import diffusers
    import torch
    from safetensors.torch import load_file

    encoder, decoder = ({k: v.float() for k, v in load_file(f).items()} for f in files)
    named = {f"encoder.layers.{k}": v for k, v in encoder.items()}
    for name, value in decoder.items():
        number, rest = name.split(".", 1)
        named[f"decoder.layers.{int(number) - 1}.{rest}"] = value
    channels = decoder["1.weight"].shape[1]
    model = diffusers.AutoencoderTiny(latent_channels=channels).eval()
    model.load_state_dict(named)
    with torch.no_grad():
        return _nhwc(model.decode(model.encode(_nchw(image)).latents).sample)


def minilm(folder: pathlib.Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """States of BertModel, and the mean over tokens of unit length."""
    import torch
    import transformers
    from safetensors.torch import load_file

    config = transformers.BertConfig.from_json_file(folder / "config.json")
    model = transformers.BertModel(config).eval()
    weights = {k: v.float() for k, v in load_file(folder / "model.fp16.safetensors").items()}
    missing, unused = model.load_state_dict(weights, strict=False)
    assert not missing and all("position_ids" in name for name in unused), (missing, unused)
    mask = torch.tensor(ids != 0)
    with torch.no_grad():
        out = model(torch.tensor(ids).long(), mask.long())
    weight = mask[..., None].float()
    mean = (out.last_hidden_state * weight).sum(1) / weight.sum(1)
    return {
        "last": out.last_hidden_state.numpy(),
        "sentence": torch.nn.functional.normalize(mean).numpy(),
    }


def lpips_distance(
    net: str, tensors: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """The distance over torchvision's trunk with the given weights, in the names of lpips."""
    import torch
    import torchvision

    make, after = {
        "vgg": (torchvision.models.vgg16, (3, 8, 15, 22, 29)),
        "alex": (torchvision.models.alexnet, (1, 4, 7, 9, 11)),
    }[net]
    trunk = make(weights=None).features.eval()
    own = {k: torch.tensor(np.array(v)) for k, v in tensors.items()}
    trunk.load_state_dict({k.split(".", 2)[2]: v for k, v in own.items() if k.startswith("net.")})
    shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (shift, scale))
    a, b = (_nchw(v).sub(shift).div(scale) for v in (x, y))
    total = torch.zeros(len(x))
    with torch.no_grad():
        for n, layer in enumerate(trunk):
            a, b = layer(a), layer(b)
            if n in after:
                head = own[f"lin{after.index(n)}.model.1.weight"]
                square = (a / a.norm(dim=1, keepdim=True).add(1e-10)).sub(
                    b / b.norm(dim=1, keepdim=True).add(1e-10)
                ) ** 2
                total += torch.nn.functional.conv2d(square, head).mean((1, 2, 3))
    return total.numpy()


def keras(path: pathlib.Path, tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Logits of the layers-model at `path`, layer by layer; x as its first layer takes it."""
    import torch

    layers = json.loads(path.read_text())["modelTopology"]["model_config"]["config"]["layers"]
    found: dict[str, Any] = {}
    with torch.no_grad():
        for layer in layers:
            inputs = [found[node[0]] for node in (layer["inbound_nodes"] or [[]])[0]]
            found[layer["name"]] = _layer(layer, inputs or [_nchw(x)], tensors)
    return found[layers[-1]["name"]].numpy()


def _layer(layer: dict[str, Any], inputs: list[Any], tensors: dict[str, np.ndarray]) -> Any:
    import torch
    import torch.nn.functional as f

    kind, config, x = layer["class_name"], layer["config"], inputs[0]
    w = {
        k.split("/")[1]: torch.tensor(np.array(v))
        for k, v in tensors.items()
        if k.split("/")[0] == layer["name"]
    }
    if kind == "Conv2D":
        same = (config["kernel_size"][0] // 2) if config["padding"] == "same" else 0
        kernel = w["kernel"].permute(3, 2, 0, 1)
        return f.conv2d(x, kernel, w["bias"], config["strides"], same)
    if kind == "BatchNormalization":
        mean, variance = w["moving_mean"], w["moving_variance"]
        return f.batch_norm(x, mean, variance, w["gamma"], w["beta"], eps=config["epsilon"])
    if kind == "ZeroPadding2D":
        (top, bottom), (left, right) = config["padding"]
        return f.pad(x, (left, right, top, bottom))
    if kind == "Dense":
        return x @ w["kernel"] + w["bias"]
    others = {
        "InputLayer": lambda: x,
        "Activation": lambda: f.relu(x),
        "MaxPooling2D": lambda: f.max_pool2d(x, 3, 2),
        "Add": lambda: inputs[0] + inputs[1],
        "GlobalAveragePooling2D": lambda: x.mean((2, 3)),
    }
    return others[kind]()


def scripted(path: pathlib.Path, image: np.ndarray) -> np.ndarray:
    """Features of a TorchScript network."""
    import torch

    with torch.no_grad():
        return torch.jit.load(str(path), map_location="cpu").eval()(_nchw(image)).numpy()


def _nchw(x: np.ndarray) -> Any:
    import torch

    return torch.tensor(np.ascontiguousarray(x, np.float32)).permute(0, 3, 1, 2).contiguous()


def _nhwc(x: Any) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def main() -> None:
    """Write the answers to the photo in the fixtures, a few numbers of each."""
    from tests.pretrained.offline import keras_tensors
    from tests.pretrained.test_real_weights import (
        LPIPS_NETS,
        asked,
        caffe,
        enlarged,
        files_of,
        lpips_of,
        photo,
    )

    image = photo()
    answers: dict[str, np.ndarray] = {}
    for stem in ("taesd", "taesd3", "taef2"):
        answers |= {f"{stem}_{k}": _few(v) for k, v in tiny(files_of(stem), image).items()}
    answers["minilm"] = minilm(asked("minilm").parent, IDS)["sentence"][:, :64]
    for net in LPIPS_NETS:
        answers[f"lpips_{net}"] = lpips_distance(net, lpips_of(net), image, image[:, ::-1])
    path = asked("resnet50")
    answers["resnet50"] = keras(path, keras_tensors(path), caffe(image))[:, :64]
    answers["inception"] = scripted(asked("inception"), enlarged())[:, :64]
    FIXTURE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FIXTURE / "answers.npz", allow_pickle=False, **answers)


def _few(x: np.ndarray) -> np.ndarray:
    return x[:, ::4, ::4] if x.shape[1] < 32 else x[:, ::16, ::16]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
