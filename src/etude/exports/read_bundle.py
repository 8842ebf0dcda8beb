"""Read a bundle, as python read_bundle.py FOLDER picture.jpg, or FOLDER --check. Apache-2.0, as part of etude."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import load

COUNTS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
ACTS: Any = {"relu": F.relu, "silu": F.silu, "mish": F.mish, "gelu": F.gelu}
ACTS["leaky_relu"] = lambda x: F.leaky_relu(x, 0.1)
OUTPUTS: Any = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid, "number": lambda x: x}


def run(net: dict[str, Any], weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Scores of normalized pictures (batch, channel, height, width): etude's XResNet or LessonCNN, in evaluation."""
    name, act, blur, left = net["name"], net["activation"], net.get("blur_pool", False), dict(weights)

    def take(name: str, *shape: int) -> Any:
        if (found := left.pop(name)).shape[-len(shape) :] != shape or found.dtype != torch.float32:
            raise ValueError(f"{name} holds {found.dtype} {tuple(found.shape)}, expected float32 {shape}")
        return found

    def blurred(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        x = F.pad(x, (1, 1, 1, 1), "reflect" if min(x.shape[2:]) > 1 else "replicate")
        return F.avg_pool2d(F.avg_pool2d(x, 2, 1), 2, stride)  # two means of two are the weights 1/4, 1/2, 1/4

    def conv(at: str, x: torch.Tensor, k: int = 3, stride: int = 1, act: str | None = act) -> Any:
        first = int(blur and stride > 1)
        x = F.conv2d(blurred(x) if first else x, take(f"{at}.{first}.weight", x.shape[1], k, k), None, stride, k // 2)
        norm = (f"{at}.{first + 1}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        return (ACTS[act] if act else torch.clone)(F.batch_norm(x, *(take(part, x.shape[1]) for part in norm)))

    first_kernel, step, end = (5, 2, net["layers"]) if name == "lesson_cnn" else (3, 1, 3)
    for i in range(end):
        x = conv(f"{i}", x, 3 if i else first_kernel, step if i else net["stem_stride"])
    if name != "lesson_cnn":
        x, end = blurred(F.max_pool2d(x, 3, 1, 1), 2) if blur else F.max_pool2d(x, 3, 2, 1), 8
        plan = ((3, 2, act), (3, 1, None)) if name[7:] in ("18", "34") else ((1, 1, act), (3, 2, act), (1, 1, None))
        for stage, count in enumerate(COUNTS[name.removeprefix("xresnet")]):
            for i in range(count):
                at, y, halve = f"{stage + 4}.{i}", x, stage > 0 and i == 0
                for part, (k, stride, part_act) in enumerate(plan):
                    y = conv(f"{at}.convs.{part}", y, k, stride if halve else 1, part_act)
                x = F.avg_pool2d(x, 2, ceil_mode=True) if halve else x
                x = ACTS[act](y + (conv(f"{at}.idconv", x, 1, act=None) if x.shape[1] != y.shape[1] else x))
    pools: Any = [F.adaptive_max_pool2d, F.adaptive_avg_pool2d] if net["concat_pool"] else [F.adaptive_avg_pool2d]
    x = torch.cat([pool(x, 1) for pool in pools], 1).flatten(1)
    if left.keys() != {f"{end + 2}.weight", f"{end + 2}.bias"}:
        raise ValueError(f"the weights are not those of the model: {list(left)[:3]}")
    return F.linear(x, take(f"{end + 2}.weight", x.shape[1]), take(f"{end + 2}.bias", net["num_classes"]))


class Bundle:
    """A model, opened once its files are what was written; ValueError where it, or a picture, cannot be used."""

    def __init__(self, folder: Any) -> None:
        self.folder = Path(folder)
        try:
            self.about = about = json.loads(text := self._bytes("bundle.json", 6 << 20).decode("ascii"))
            digest = hashlib.sha256(json.dumps({**about, "sha256": ""}).encode()).hexdigest()
            whole = json.dumps(about, indent=1, allow_nan=False) == text and about["sha256"] == digest
            self.net, self.labels, self.see = net, labels, see = about["model"], about["labels"], about["preprocess"]
            good = whole and (labels is None or (labels == [*map(str, labels)] and len(labels) == net["num_classes"]))
            if not (good and 0 < see["share"] <= about["version"] == 1 <= see["size"] <= see["read_size"] <= 1 << 14):
                raise ValueError("bundle.json is not what was written (SHA-256), or not of this version")
            self.weights = load(self._bytes("model.safetensors"))
            self.mean, self.std = (torch.tensor(see[name]).double().view(1, -1, 1, 1) for name in ("mean", "std"))
            x = torch.empty(1, net["channels"], *[see["size"]] * 2, device="meta") / (self.std - self.mean).to("meta")
            OUTPUTS[about["outputs"]](run(net, {name: tensor.to("meta") for name, tensor in self.weights.items()}, x))
        except Exception as error:  # whatever a file that is none can raise
            raise ValueError(f"the bundle {self.folder} cannot be used: {error!r:.300}") from None

    def _bytes(self, name: str, most: int = 1 << 30) -> bytes:
        path = self.folder / name
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size <= most and Path(name).name == name
        data = path.read_bytes() if plain else b""
        is_long = name.endswith(".safetensors") and int.from_bytes(data[:8], "little") > 1 << 20
        wrong = name != "bundle.json" and hashlib.sha256(data).hexdigest() != self.about["files"][name]
        if not plain or is_long or wrong:
            raise ValueError(f"{path} is missing, no plain file, too large, or not what was written (SHA-256)")
        return data

    def read(self, picture: Any) -> torch.Tensor:
        """A file's pixels as validation saw them: upright, reduced, the middle; uint8 (1, channel, side, side)."""
        see, mode = self.see, "RGB" if self.net["channels"] == 3 else "L"
        with Image.open(picture) as opened:
            opened.format == "TIFF" and opened.load()  # which turns it
            turned, size = opened.getexif().get(0x0112) in (5, 6, 7, 8), tuple(opened.size)
            if see["stored"] and min(size) > 1.25 * see["stored"]:
                size = tuple(max(round(side * see["stored"] / min(size)), 1) for side in size)
                opened.draft(mode, size)  # type: ignore
            upright: Any = ImageOps.exif_transpose(opened)
        if upright.mode[0] in "IF":  # 16 bits; what has more, or floating point, becomes numbers that raise
            wide = torch.frombuffer(bytearray(upright.convert(upright.mode[0]).tobytes()), dtype=torch.int32)
            upright = Image.frombytes("L", upright.size, bytes((wide.float() / 257).round().int().tolist()))
        upright = upright.convert(mode).resize(size[::-1] if turned else size, Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8).view(*upright.size[::-1], -1)
        sides = torch.tensor(pixels.shape[:2] if see["squash"] else [min(upright.size)] * 2) * see["share"]
        height, width = sides.round().long().clamp(min=1).tolist()
        window = pixels[(upright.height - height) // 2 :, (upright.width - width) // 2 :][:height, :width]
        return F.interpolate(window.permute(2, 0, 1).unsqueeze(0), see["read_size"], mode="bilinear", antialias=True)

    def probabilities(self, pixels: torch.Tensor) -> Any:
        """What the model makes of uint8 pixels (batch, channel, height, width): one row for each picture."""
        size, (top, left) = self.see["size"], ((side - self.see["size"]) // 2 for side in pixels.shape[2:])
        x = ((pixels[..., top : top + size, left : left + size].double() / 255 - self.mean) / self.std).float()
        return OUTPUTS[self.about["outputs"]](run(self.net, self.weights, x))

    def predict(self, picture: Any) -> dict[str, float]:
        """Each label and its probability, the highest first; in their order where outputs are plain numbers."""
        try:
            row = self.probabilities(self.read(picture))[0].tolist()
        except Exception as error:  # broken data makes Pillow raise nearly everything
            raise ValueError(f"{picture} cannot be read: {error}") from None
        pairs = zip(self.labels or map(str, range(len(row))), row, strict=True)
        return dict(pairs if self.about["outputs"] == "number" else sorted(pairs, key=lambda pair: -pair[1]))

    def check(self) -> float:
        """The largest difference from the test vectors, all files hashed; more than 1e-5 (above 1, of it) raises."""
        try:
            files = {name: self._bytes(name) for name in self.about["files"]}
            wanted, first = (load(files["test_vectors.safetensors"])[name] for name in ("expected", "pixels"))
            pixels = [first, *(self.read(self.folder / name) for name in files if name.endswith(".png"))]
            found = torch.cat([self.probabilities(one) for one in pixels])
            if not (worst := float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max())) <= 1e-5:
                raise ValueError(f"it gives other numbers here, by {worst:.1e}")
        except Exception as error:
            raise ValueError(f"the bundle {self.folder} does not pass its test: {error!r:.300}") from None
        return worst


if __name__ == "__main__":
    sys.tracebacklimit = 0  # an error names the file, and where in this one it arose helps nobody
    bundle, failed = Bundle(sys.argv[1] if sys.argv[1:] else Path(__file__).parent), False
    form, most = ("{0} {1:.6g}", None) if bundle.about["outputs"] == "number" else ("{1:.6f} {0}", 3)
    for name in sys.argv[2:] if sys.argv[2:] != ["--check"] else ():
        try:
            print(name, *[form.format(*pair) for pair in bundle.predict(name).items()][:most], sep="  ", flush=True)
        except (ValueError, BrokenPipeError) as error:  # the second where whoever reads this has seen enough
            failed = bool(sys.stderr.write(f"{error}\n")) if isinstance(error, ValueError) else os._exit(0)
    if sys.argv[2:] in ([], ["--check"]):
        print(f"the files are whole, and the test vectors come out right, within {bundle.check():.1e}")
    sys.exit(failed)
