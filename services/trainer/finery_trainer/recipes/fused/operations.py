"""What a fused layer computes besides its matrix products, as an interface: torch operations, or Triton kernels.

Shapes: T tokens of packed rows; a low-rank state ``h`` is (T, k·r), the adapters' parts side by side. Tensors are in
the model's type (bf16 on a GPU), sums are made in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """Which elements of an adapter's input are zeroed: a function of seeds, row and column, so nothing is stored."""

    probability: float
    seeds: Tensor
    """Two integers in [0, 2³¹), int32, on the device: a pass's own."""

    first: int = 0
    """Number of the first adapter among all of the model: each adapter's mask is its own."""

    def shifted(self, by: int) -> Dropout:
        """The same for adapters counted from ``by``."""
        return Dropout(self.probability, self.seeds, self.first + by)


@dataclass(frozen=True)
class Up:
    """What an adapter adds to its output: scale · h[:, offset:offset+r] @ bᵀ, with b (out, r)."""

    h: Tensor
    offset: int
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Columns of h that belong to this adapter."""
        return int(self.b.shape[1])

    @property
    def own(self) -> Tensor:
        """The adapter's part of h, (T, r)."""
        return self.h[:, self.offset : self.offset + self.rank]


@dataclass(frozen=True)
class Down:
    """What k adapters add to the gradient of their input: Σ mask_j · (g[:, part j] @ a[part j]), a (k·r, in)."""

    g: Tensor
    a: Tensor
    rank: int
    dropout: Dropout | None


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of the positions' angles, (T, head size); both halves are alike."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class HeadNorm:
    """An RMS norm over each head, before the rotation."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class GatedGradients:
    """What `swiglu_backward` gives: of gate and up (T, 2·F), of their h (T, k·r), of each adapter matrix (fp32)."""

    gate_up: Tensor
    h: Tensor | None
    a_down: Tensor | None
    b_gate: Tensor | None
    b_up: Tensor | None
    row_maxima: Tensor | None
    """Largest magnitudes of parts of each row of ``gate_up``, (parts, T), if the implementation has them."""


class Operations(Protocol):
    """Elementwise work, norms and low-rank products of a layer, forward and backward."""

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """RMS norm of (T, n) rows; also 1/rms of each row, fp32."""

    def norm_backward(
        self, g: Tensor, down: Down | None, x: Tensor, inverse: Tensor, weight: Tensor, residual: Tensor
    ) -> Tensor:
        """Gradient of the norm's input from that of its output and ``down``, plus ``residual``. May reuse g."""

    def residual(self, x: Tensor, y: Tensor, up: Up | None) -> Tensor:
        """X + y + what the adapter adds to y."""

    def heads(self, y: Tensor, up: Up | None, rotation: Rotation | None, norm: HeadNorm | None) -> Tensor:
        """Add the adapter's part to a projection (T, heads, size), norm and rotate it. May reuse y unless normed."""

    def heads_backward(
        self,
        g: Tensor,
        y: Tensor | None,
        up: Up | None,
        rotation: Rotation | None,
        norm: HeadNorm | None,
        out: Tensor,
        out_h: Tensor | None,
    ) -> Tensor | None:
        """Gradient of the projection into ``out`` (T, heads·size), of h into ``out_h`` (T, r); returns that of b.

        ``y`` is the projection without its adapter's part, needed if there is a norm.
        """

    def swiglu(self, gate_up: Tensor, gate: Up | None, up: Up | None) -> Tensor:
        """silu(gate + adapter) · (up + adapter) of (T, 2·F)."""

    def swiglu_backward(
        self, g: Tensor, down: Down | None, gate_up: Tensor, gate: Up | None, up: Up | None, *, maxima: bool
    ) -> GatedGradients:
        """Gradients of all that `swiglu` read, and of the down adapter's a, whose input it made."""

    def down(self, x: Tensor, a: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        """H = x @ aᵀ, (T, k·r), x masked for each adapter by itself."""

    def down_backward(self, g: Tensor, x: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        """Gradient of a, (k·r, in) fp32, from that of h."""

    def up_backward(self, g: Tensor, up: Up, out: Tensor) -> Tensor:
        """Gradient of h into ``out`` (T, r); returns that of b, (out, r) fp32."""

    def add_down(self, y: Tensor, down: Down | None) -> Tensor:
        """Y plus the adapters' part of the gradient; may reuse y."""

    def quantize(self, x: Tensor, maxima: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rows to e4m3 with a scale for each, (T, n) and (T, 1) fp32."""

    def scaled_product(self, x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
        """(T, i) times (o, i) transposed, both e4m3 with scales by row, in the model's type."""

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of (P, V) logits, (P,) fp32, and the gradient of their sum; may reuse the logits.

        A negative target has no loss and no gradient.
        """
