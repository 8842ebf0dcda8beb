"""Read a bundle: python read_text_bundle.py FOLDER file.txt, FOLDER --text "words", or FOLDER --check. Apache-2.0."""

import codecs
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load

from etude.text.rules import POST_RULES, PRE_RULES, rules_hash
from etude.text.words import tokens as cut

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
OUTPUTS: Any = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid, "number": lambda x: x}
CHUNK = 1024  # tokens that are read at once: memory does not grow with the text


def run(net: dict[str, Any], weights: dict[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
    """Scores (1, class) of one text's token numbers: etude's AWD-LSTM classifier, in evaluation."""
    left, wide, embed = dict(weights), net["hidden_dim"], net["embed_dim"]

    def take(name: str, *shape: int) -> Any:
        if (found := left.pop(name)).shape != shape or found.dtype != torch.float32:
            raise ValueError(f"{name} holds {found.dtype} {tuple(found.shape)}, expected float32 {shape}")
        return found

    def norm(at: int, x: torch.Tensor) -> torch.Tensor:
        parts = (take(f"head.{at}.{name}", x.shape[1]) for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    embedding, layers = take("encoder.embedding.weight", net["vocab_size"], embed), []
    for i in range(net["num_layers"]):
        before, after = wide if i else embed, embed if i == net["num_layers"] - 1 else wide
        parts = (("weight_ih", before), ("weight_hh", after), ("bias_ih",), ("bias_hh",))
        layers.append([take(f"encoder.rnns.{i}.{name}", 4 * after, *side) for name, *side in parts])
    states: Any = [[embedding.new_zeros(1, 1, layer[1].shape[1])] * 2 for layer in layers]
    largest, total = embedding.new_full((1, embed), -torch.inf), embedding.new_zeros(1, embed)
    for chunk in numbers.split(CHUNK):
        x = F.embedding(chunk.unsqueeze(0), embedding)
        for i, layer in enumerate(layers):
            x, *states[i] = torch.lstm(x, states[i], layer, True, 1, 0.0, False, False, True)
        largest, total = torch.maximum(largest, x.amax(1)), total + x.sum(1)
    x = norm(0, torch.cat([x[:, -1], largest, total / len(numbers)], 1))
    x = norm(4, F.linear(x, take("head.2.weight", net["hidden"], 3 * embed), take("head.2.bias", net["hidden"])).relu())
    x = F.linear(x, take("head.6.weight", net["num_classes"], net["hidden"]), take("head.6.bias", net["num_classes"]))
    if left:
        raise ValueError(f"the weights are not those of the model: {list(left)[:3]}")
    return x


class Bundle:
    """A model, opened once its files are what was written; ValueError where it, or a text, cannot be used."""

    def __init__(self, folder: Any) -> None:
        self.folder = Path(folder)
        try:
            self.about = about = json.loads(text := self._bytes("bundle.json", 6 << 20).decode("ascii"))
            digest = hashlib.sha256(json.dumps({**about, "sha256": ""}).encode()).hexdigest()
            whole = json.dumps(about, indent=1, allow_nan=False) == text and about["sha256"] == digest
            self.net, self.labels, self.see = net, labels, see = about["model"], about["labels"], about["text"]
            self.vocab = vocab = json.loads(self._bytes("vocab.json", 6 << 20))
            good = labels is None or (labels == [*map(str, labels)] and len(labels) == net["num_classes"])
            good = good and vocab == [*map(str, vocab)] and len(vocab) == net["vocab_size"] and "xxunk" in vocab
            most, known = see["max_length"], see["tokenizer"] == {"name": "words"} and see["rules"] == rules_hash()
            known = known and type(see["backward"]) is bool and (most is None or (type(most) is int and most > 0))
            if not (whole and (about["format"], about["version"]) == ("etude-text-bundle", 1) and good and known):
                raise ValueError("bundle.json is not what was written (SHA-256), or not of this version")
            self.numbers = {token: number for number, token in enumerate(vocab)}
            self.weights = load(self._bytes("model.safetensors", 1 << 30))
            weights = {name: tensor.to("meta") for name, tensor in self.weights.items()}
            OUTPUTS[about["outputs"]](run(net, weights, torch.empty(1, dtype=torch.int64, device="meta")))
        except Exception as error:  # whatever a file that is none can raise
            raise ValueError(f"the bundle {self.folder} cannot be used: {error!r:.300}") from None

    def _bytes(self, name: str, most: int) -> bytes:
        path = self.folder / name
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size <= most and Path(name).name == name
        data = path.read_bytes() if plain else b""
        is_long = name.endswith(".safetensors") and int.from_bytes(data[:8], "little") > 1 << 20
        wrong = name != "bundle.json" and hashlib.sha256(data).hexdigest() != self.about["files"][name]
        if not plain or is_long or wrong:
            raise ValueError(f"{path} is missing, no plain file, too large, or not what was written (SHA-256)")
        return data

    def read(self, text: str) -> list[int]:
        """The numbers of a text's tokens, in the order in which the model reads them."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", re.sub("\r\n?", "\n", text).replace("\0", ""))
        for rule in PRE_RULES:
            text = rule(text)
        tokens = cut(text)
        for mark in POST_RULES:
            tokens = mark(tokens)
        numbers = [self.numbers.get(token, self.numbers["xxunk"]) for token in tokens[: self.see["max_length"]]]
        return numbers[::-1] if self.see["backward"] else numbers

    def probabilities(self, numbers: list[int]) -> Any:
        """What the model makes of the numbers of one text's tokens: one row."""
        if not numbers or not all(type(one) is int and 0 <= one < len(self.vocab) for one in numbers):
            raise ValueError(f"token numbers are from 0 to {len(self.vocab) - 1}, and at least one of them")
        return OUTPUTS[self.about["outputs"]](run(self.net, self.weights, torch.tensor(numbers)))

    def predict(self, text: Any) -> dict[str, float]:
        """Each label and its probability, the highest first, of a text, or of the file that a Path names."""
        try:
            data = text.read_bytes() if isinstance(text, Path) else b""
            form = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
            said = data.decode(form, "replace") if isinstance(text, Path) else text
            if not said.replace("\0", "").strip():
                raise ValueError("it holds no text")
            row = self.probabilities(self.read(said))[0].tolist()
        except Exception as error:  # no file, no text
            raise ValueError(f"{text!s:.80} cannot be read: {error}") from None
        pairs = zip(self.labels or map(str, range(len(row))), row, strict=True)
        return dict(pairs if self.about["outputs"] == "number" else sorted(pairs, key=lambda pair: -pair[1]))

    def check(self) -> float:
        """The largest difference from the test vectors, all files hashed; more than 1e-5 (above 1, of it) raises."""
        try:
            files = {name: self._bytes(name, 1 << 30) for name in self.about["files"]}
            vectors = load(files["test_vectors.safetensors"])
            numbers = [row[:n] for row, n in zip(vectors["tokens"].tolist(), vectors["lengths"].tolist(), strict=True)]
            numbers += [self.read(text) for text in json.loads(files["test_texts.json"])]
            found, wanted = torch.cat([self.probabilities(one) for one in numbers]), vectors["expected"]
            if not (worst := float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max())) <= 1e-5:
                raise ValueError(f"it gives other numbers here, by {worst:.1e}")
        except Exception as error:
            raise ValueError(f"the bundle {self.folder} does not pass its test: {error!r:.300}") from None
        return worst


if __name__ == "__main__":
    sys.tracebacklimit = 0  # an error names the file, and where in this one it arose helps nobody
    bundle, failed = Bundle(sys.argv[1] if sys.argv[1:] else Path(__file__).parent), False
    said, form = sys.argv[2:3] == ["--text"], "{0} {1:.6g}" if bundle.about["outputs"] == "number" else "{1:.6f} {0}"
    for given in sys.argv[2 + said :] if sys.argv[2:] != ["--check"] else ():
        try:
            told = bundle.predict(given if said else Path(given)).items()
            print(f"{given!s:.80}", *[form.format(*pair) for pair in told][:3], sep="  ", flush=True)
        except (ValueError, BrokenPipeError) as error:  # the second where whoever reads this has seen enough
            failed = bool(sys.stderr.write(f"{error}\n")) if isinstance(error, ValueError) else os._exit(0)
    if sys.argv[2:] in ([], ["--check"]):
        print(f"the files are whole, and the test vectors come out right, within {bundle.check():.1e}")
    sys.exit(failed)
