"""The KV cache of the tokens that every prompt begins with, computed once at export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedsl.bundle.manifest import Bundle, ModelInfo
from edgedsl.errors import BundleError
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.index_file import Layout, refuse
from edgedsl.tokenizer import Tokenizer

FILE_NAME = "prefix.kv"
LAYOUT = Layout(
    magic=b"EDSLPRFX",
    version=1,
    fields=("vocab_size", "num_layers", "num_kv_heads", "head_dim"),
    arrays=(("token_ids", "<u4"), ("kv", "<f4")),
)


@dataclass(frozen=True)
class Prefix:
    """Keys and values in fp32, whatever the model was quantised to: nothing was lost on the first tokens.

    Attributes:
        token_ids: that every prompt begins with.
        kv: fp32 [2 * layers, kv heads, tokens, head_dim], of each layer the keys, then the values.
    """

    token_ids: tuple[int, ...]
    kv: NDArray[np.float32]

    @classmethod
    def from_file(cls, path: Path, info: ModelInfo, vocab_size: int) -> Prefix:
        """Read the file of a bundle.

        Args:
            path: of the file.
            info: of the model in the bundle.
            vocab_size: of the tokenizer in the bundle.

        Raises:
            BundleError: malformed, or of another model or tokenizer.
        """
        fields, arrays = LAYOUT.read(path, vocab_size)
        shape = (2 * fields["num_layers"], fields["num_kv_heads"], len(arrays["token_ids"]), fields["head_dim"])
        if info.kv_layout != "shared":
            refuse(path, f"a '{info.kv_layout}' cache cannot begin with it")
        if (fields["num_layers"], *shape[1::2]) != (info.num_layers, info.num_kv_heads, info.head_dim):
            refuse(path, f"it is of another model: keys and values {list(shape)}")
        if len(arrays["kv"]) != np.prod(shape) or not 0 < shape[2] < info.context_length:
            refuse(path, f"it has {len(arrays['kv'])} keys and values for {shape[2]} tokens")
        if int(arrays["token_ids"].max()) >= vocab_size or not np.isfinite(arrays["kv"]).all():
            refuse(path, "a token or a value is out of range")
        return cls(tuple(map(int, arrays["token_ids"])), arrays["kv"].reshape(shape))

    def pack(self, vocab_size: int) -> bytes:
        """The file's content."""
        num_buffers, num_kv_heads, _, head_dim = self.kv.shape
        sizes = {"num_layers": num_buffers // 2, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        arrays = {"token_ids": np.array(self.token_ids), "kv": self.kv.reshape(-1)}
        return LAYOUT.pack({"vocab_size": vocab_size, **sizes}, arrays)


def open_prefix(bundle: Bundle, tokenizer: Tokenizer, template: PromptTemplate) -> Prefix | None:
    """What a bundle has computed of every prompt already.

    Raises:
        BundleError: malformed, or not how the template begins.
    """
    path = bundle.path / FILE_NAME
    if not path.exists():
        return None
    prefix = Prefix.from_file(path, bundle.manifest.model, tokenizer.vocab_size)
    if list(prefix.token_ids) != tokenizer.encode_prefix(template):
        raise BundleError(f"'{path}' is not what every prompt begins with", hint="export the bundle again")
    return prefix
