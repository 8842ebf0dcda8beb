"""What the files beside an exported model say to whoever finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from etude.exports.plain import Plain

_MEANING: Final = {
    "softmax": "probabilities that add up to 1: one label for each {sample}",
    "sigmoid": "a probability for each label by itself: a {sample} may have several, or none",
    "number": "plain numbers",
}


def bundle_readme(given: Plain, license: str, tests: Sequence[Path]) -> str:
    """README.md of a bundle."""
    seen, shape = given.preprocess or {}, ", ".join(map(str, given.inputs["inputs"].shape[1:]))
    plain = given.outputs == "number"
    predicted = "{name: number, ...}, in their order" if plain else "{label: probability, ...}, the highest first"
    outputs = "numbers" if plain else "probabilities"
    given_row = f"bundle.probabilities(pixels)        # the {outputs} of uint8 pixels (batch, {shape})"
    return f"""# A trained picture model

{_what(given)} It sees {seen["size"]} by {seen["size"]} pixels. Weights and test vectors are float32.

It needs Python 3.11, torch, safetensors and Pillow, and not the library that trained it:

    python read_bundle.py . picture.jpg another.png
    python read_bundle.py . --check

or in Python, with this folder on the path:

    from read_bundle import Bundle
    bundle = Bundle("this/folder")
    bundle.predict("picture.jpg")       # {predicted}
    {given_row}

Everything in bundle.json is data: the model by name and options, how a picture becomes what it sees, labels, the run
it came from, and the SHA-256 of every file. No file here is a pickle.{_tests(tests)}

License of the data that it learned from: {license}
"""


def text_bundle_readme(given: Plain, license: str) -> str:
    """README.md of a bundle that reads texts."""
    plain = given.outputs == "number"
    predicted = "{name: number, ...}, in their order" if plain else "{label: probability, ...}, the highest first"
    return f"""# A trained text model

{_what(given)} It knows {len(given.tokens or ()):,} tokens. Weights and test vectors are float32.

It needs Python 3.11, torch and safetensors, and not the library that trained it:

    python read_text_bundle.py . review.txt another.txt
    python read_text_bundle.py . --text "a text" "another one"
    python read_text_bundle.py . --check

or in Python, with this folder on the path:

    from pathlib import Path
    from read_text_bundle import Bundle
    bundle = Bundle("this/folder")
    bundle.predict("a text")            # {predicted}
    bundle.predict(Path("review.txt"))  # the same of a file
    bundle.read("a text")               # the numbers of its tokens, by their places in vocab.json

Everything in bundle.json and vocab.json is data: the model's sizes, tokens, labels, the run it came from, and the
SHA-256 of every file. The text_*.py files cut a text into tokens; no file here is a pickle. The test texts were made up
and are none of the data that it learned from; its most frequent words are in vocab.json.

License of the data that it learned from: {license}
"""


def graph_readme(given: Plain, file: str, license: str) -> str:
    """README.md beside a graph."""
    if given.tokens is not None:
        return _text_graph_readme(given, file, license)
    if file.endswith(".onnx"):
        use = (
            'session = onnxruntime.InferenceSession("model.onnx")\n'
            '    (outputs,) = session.run(None, {"inputs": pixels})     # a NumPy array'
        )
    else:
        use = 'model = torch.export.load("model.pt2").module()\n    outputs = model(pixels)                 # a tensor'
    inputs = given.inputs["inputs"]
    shape, dtype = ", ".join(map(str, inputs.shape[1:])), str(inputs.dtype).removeprefix("torch.")
    inside = "normalization is" if given.outputs == "number" else "normalization and probabilities are"
    return f"""# A trained model as a graph

{_what(given)}

    {use}

`pixels` is {dtype} of the shape (batch, {shape}), any batch: {inside} inside. How a picture
becomes these pixels is in preprocess.json. test_vectors.safetensors holds `inputs` and the outputs `expected` of them.

License of the data that it learned from: {license}
"""


def _text_graph_readme(given: Plain, file: str, license: str) -> str:
    if file.endswith(".onnx"):
        use = (
            'session = onnxruntime.InferenceSession("model.onnx")\n'
            '    (outputs,) = session.run(None, {"tokens": tokens, "lengths": lengths})     # NumPy arrays'
        )
    else:
        use = 'model = torch.export.load("model.pt2").module()\n    outputs = model(tokens, lengths)        # a tensor'
    return f"""# A trained text model as a graph

{_what(given)}

    {use}

`tokens` is int64 of the shape (batch, time), texts as the numbers of their tokens, the shorter ones filled up at their
ends with any token; `lengths` is int64 (batch), how many tokens each has. Any batch, any time. A token's number is its
place in vocab.json; how a text becomes tokens is in preprocess.json. test_vectors.safetensors holds `tokens`, `lengths`
and the outputs `expected` of them.

License of the data that it learned from: {license}
"""


def _what(given: Plain) -> str:
    name = (given.net or {}).get("name") or type(given.learner.model).__name__
    noun, num = "number" if given.outputs == "number" else "label", len(given.labels or ())
    count = "" if given.labels is None else f" of {num} {noun}{'' if num == 1 else 's'}"
    meaning = _MEANING[given.outputs].format(sample="picture" if given.tokens is None else "text")
    return f"{name}{count}. Its outputs are {meaning}."


def _tests(tests: Sequence[Path]) -> str:
    if not tests:
        return ""
    what = "1 test picture is" if len(tests) == 1 else f"{len(tests)} test pictures are"
    return f" The {what} of the data that was held out; `etude export RUN --test-pictures 0` leaves them out."


def license_note(license: str, *, texts: bool = False) -> str:
    """LICENSE of a bundle."""
    code = "read_text_bundle.py and the text_*.py files are" if texts else "read_bundle.py is"
    spacy = "\nThe lists in text_english.py are spaCy's, under the MIT License, which stands in it.\n" if texts else ""
    return f"""The data that this model learned from: {license}

Whether a model may be used or given away as its data may is for you to find out. Where the model began from the body of
another one, that one's data counts as well.

{code} part of etude and licensed under the Apache License, Version 2.0:
http://www.apache.org/licenses/LICENSE-2.0
{spacy}"""
