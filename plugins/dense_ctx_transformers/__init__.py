"""transformers' Auto classes and pipelines over saved models; `import dense_ctx_transformers.auto` registers them.

It registers no part of dense_ctx.
"""
