"""Parts of dense_ctx: backbones."""
