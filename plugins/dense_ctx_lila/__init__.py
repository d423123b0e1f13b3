"""Parts of dense_ctx: lila."""
