"""Label maps for the tests of label formats."""

import numpy as np
from dense_ctx_labels.classes import Classes
from scipy import ndimage

from dense_ctx import registry

CLASSES = Classes(("background", "cat", "dog"), ((0, 0, 0), (10, 200, 30), (255, 128, 0)))


def part(name, /, **options):
    return registry().create("label-format", name, **options)


def noise(seed, size=(37, 53), classes=CLASSES, ignored=True):
    """Regions inside one another, touching by corners, of single pixels, at the border; and ignored ones."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(len(classes) + ignored, *size)), (0, 2 * seed % 5, 2 * seed % 5))
    labels = smooth.argmax(0)
    labels[labels == len(classes)] = classes.ignore
    return labels
