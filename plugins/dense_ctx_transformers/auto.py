"""Registers the classes with transformers: AutoConfig, AutoModel, AutoBackbone, segmentation, image processor.

    import dense_ctx_transformers.auto
    from transformers import AutoModel, pipeline

No code of a repository runs, and nothing is imported by transformers on its own: a repository's config.json says
"model_type": "dense_ctx", and whoever opens it imports this module first.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
)

from .configuration import DenseConfig
from .modeling import DenseBackbone, DenseFeatureModel, DenseForSemanticSegmentation
from .processing import DenseImageProcessor

AutoConfig.register(DenseConfig.model_type, DenseConfig)
AutoModel.register(DenseConfig, DenseFeatureModel)
AutoBackbone.register(DenseConfig, DenseBackbone)
AutoModelForSemanticSegmentation.register(DenseConfig, DenseForSemanticSegmentation)
AutoImageProcessor.register(DenseConfig, DenseImageProcessor)

__all__ = ["DenseBackbone", "DenseConfig", "DenseFeatureModel", "DenseForSemanticSegmentation", "DenseImageProcessor"]
