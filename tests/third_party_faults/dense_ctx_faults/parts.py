"""One breach of contract a class, each beside a good part of the stranger's."""

from dense_ctx_stranger import dataset, metric

from dense_ctx.errors import FileError
from dense_ctx.interfaces import Scores


class TensorState(metric.Share):
    """A metric whose state is a tensor, not JSON values."""

    def state(self):
        """Return a tensor."""
        return self.right


class OtherState(metric.Share):
    """A metric whose state does not fit its own `merge`."""

    def state(self):
        """Counts of two classes, whatever there are."""
        return {**super().state(), "right": [0, 0]}


class NoHeadline(metric.Share):
    """A metric that does not compute the score it says it computes."""

    def compute(self):
        """Leave `share` out."""
        return Scores({"wrong": 0.5})


class DamagedFile(dataset.Stripes):
    """A data set with a damaged file half-way."""

    def open(self, root, split=None, noise=0.05):
        """Images of which the third cannot be read."""
        return _Torn(super().open(root, split, noise), FileError("stripe 3 is damaged"))


class Mistake(dataset.Stripes):
    """A data set with a programmer's mistake half-way."""

    def open(self, root, split=None, noise=0.05):
        """Images of which the third raises a bare error."""
        return _Torn(super().open(root, split, noise), ZeroDivisionError("a stripe of no width"))


class _Torn(dataset.Images):
    def __init__(self, whole, error):
        self.__dict__.update(whole.__dict__)
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return super().__getitem__(index)
