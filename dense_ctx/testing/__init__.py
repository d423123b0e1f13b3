"""Contract checks of the parts that compute, for plugins' own tests; those of data are `dense_ctx_datasets.testing` and
`dense_ctx_metrics.testing`.

    from dense_ctx.testing import check_decoder

    def test_mine():
        check_decoder("my-decoder")        # a registered name, or the class itself

A check returns the names of the verified clauses, and raises `dense_ctx.errors.ContractError`, an AssertionError, at
the first broken one. Everything runs on the CPU, with small random inputs of H != W, and needs no network.
"""

from __future__ import annotations

from ..errors import ContractError
from .backbone import check_backbone
from .decoder import check_decoder
from .objective import check_objective
from .probe import check_probe
from .tiny import TinyBackbone, TinyDecoder, tiny_model

__all__ = [
    "ContractError", "TinyBackbone", "TinyDecoder", "check_backbone", "check_decoder", "check_objective",
    "check_probe", "tiny_model",
]  # fmt: skip
