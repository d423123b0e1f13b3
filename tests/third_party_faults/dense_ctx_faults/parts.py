"""One breach of contract a class, each beside a good part of the stranger's."""

from dense_ctx_stranger import dataset, metric, objectives, probes

from dense_ctx import registry
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


class FaultyFit(probes.StrangerMean):
    """A probe with a mistake in `partial_fit`."""

    def partial_fit(self, features, targets):
        """Divide by nothing."""
        raise ZeroDivisionError("a mean of no pixels")


class FaultyPredict(probes.StrangerMean):
    """A probe with a mistake in `predict`."""

    def predict(self, features, size=None):
        """Ask for a key that is not there."""
        raise KeyError("no such class")


class FaultyForward(objectives.Stripes):
    """An objective with a mistake in `forward`, which uses a probe."""

    def forward(self, model, batch):
        """Fit a faulty probe."""
        registry().create("probe", "faulty-fit").partial_fit(None, None)


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
