"""A frozen backbone's maps of a data set on disk: it runs once, then heads train from the files.

from dense_ctx.feature_cache import FeatureCache, plan_features
plan = plan_features(model.backbone, train, "cache/dinov2-b14", (518, 518), name="dinov2-b14")
print(plan.bytes, plan.free)
plan.run(progress=bar.update)
cache = FeatureCache("cache/dinov2-b14", model.backbone, train, (518, 518), name="dinov2-b14")
cache.batch([3, 17])    # Features of two images
"""

from .fill import cache_features
from .plan import Plan, plan_features
from .read import FeatureCache

__all__ = ["FeatureCache", "Plan", "cache_features", "plan_features"]
