"""The AWD-LSTM: word vectors and a stack of LSTM layers with five kinds of dropout, the body of every text model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor, nn

from etude.errors import ConfigError
from etude.text.dropout import Dropouts, VariationalDropout, WordEmbedding
from etude.text.lstm import LayerState, WeightDropLSTM
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Float, Int

State: TypeAlias = tuple[LayerState, ...]
"""What the layers carry from one chunk of text to the next: (h, c) of each, all of shape (1, batch, hidden)."""


@final
class AWDLSTM(nn.Module):
    """From tokens to a vector for each of them that knows all tokens before it.

    Embedding, embedding dropout, input dropout, then LSTM layers with weight dropout and hidden dropout between them.
    The last layer is as wide as the word vectors, so that a decoder can share them. Nothing is kept between two calls:
    state goes in and comes out.

    Args:
        vocab_size: words.
        embed_dim: width of word vectors and of the output. 400, 1152 and 3 layers are ULMFiT's.
        hidden_dim: width of the layers in between.
        num_layers: LSTM layers.
        pad: the number of the padding token.
        dropouts: the five probabilities.

    Raises:
        ConfigError: naming the size that is not positive.

    Source: Merity et al. 2017, "Regularizing and optimizing LSTM language models"; SPEC R9.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 400,
        hidden_dim: int = 1152,
        num_layers: int = 3,
        *,
        pad: int,
        dropouts: Dropouts | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "embed_dim": embed_dim, "hidden_dim": hidden_dim, "num_layers": num_layers}
        if bad := [f"{name}={size!r}" for name, size in sizes.items() if not isinstance(size, int) or size < 1]:
            raise ConfigError(f"{', '.join(bad)}: sizes must be whole numbers of at least 1")
        self.vocab_size, self.embed_dim, self.pad = vocab_size, embed_dim, pad
        self.dropouts = dropouts = dropouts or Dropouts()
        self._sizes = sizes
        widths = [embed_dim, *[hidden_dim] * (num_layers - 1), embed_dim]
        self.embedding = WordEmbedding(vocab_size, embed_dim, pad=pad, dropout=dropouts.embed)
        self.input_dropout = VariationalDropout(dropouts.input)
        self.rnns = nn.ModuleList(
            WeightDropLSTM(widths[i], widths[i + 1], weight_dropout=dropouts.weight) for i in range(num_layers)
        )
        self.hidden_dropouts = nn.ModuleList(VariationalDropout(dropouts.hidden) for _ in range(num_layers - 1))
        self.output_dropout = VariationalDropout(dropouts.output)
        self._widths = widths[1:]

    def zero_state(self, batch_size: int) -> State:
        """The state before the first token, on the weights' device, in float32 or wider."""
        weight = self.embedding.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)

        def zeros(width: int) -> Tensor:
            return torch.zeros(1, batch_size, width, dtype=dtype, device=weight.device)

        return tuple((zeros(width), zeros(width)) for width in self._widths)

    def encode(
        self,
        tokens: Int[Tensor, "batch time"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time embed"], Float[Tensor, "batch time embed"], State]:
        """The next chunk of each row of text.

        Args:
            tokens: the chunk.
            state: after the chunk before; None at the beginning of a text. No gradient flows into it from here unless
                it comes with one.

        Returns:
            The last layer's outputs, the same after output dropout (what a decoder sees), and the state.
        """
        outputs = self.input_dropout(self.embedding(tokens))
        state = self.zero_state(len(tokens)) if state is None else state
        after: list[LayerState] = []
        for i, rnn in enumerate(self.rnns):
            outputs, left = rnn(outputs, state[i])
            after.append(left)
            if i < len(self.hidden_dropouts):
                outputs = self.hidden_dropouts[i](outputs)
        return outputs, self.output_dropout(outputs), tuple(after)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The embedding, then each LSTM layer."""
        return [list(self.embedding.parameters()), *(list(rnn.parameters()) for rnn in self.rnns)]

    def config(self) -> dict[str, Json]:
        """What `from_config` builds it from."""
        return {**self._sizes, "pad": self.pad, "dropouts": asdict(self.dropouts)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AWDLSTM:
        """A new one with the sizes and dropouts of another."""
        rest = {name: value for name, value in config.items() if name != "dropouts"}
        return cls(**rest, dropouts=Dropouts(**config["dropouts"]))
