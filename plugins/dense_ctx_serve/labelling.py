"""What a Label Studio project asks of a model: the brush labels of its labelling configuration, and of which image."""

from __future__ import annotations

from dataclasses import dataclass

from dense_ctx_http.refusals import Refusal
from dense_ctx_labels.classes import Classes, Colour, is_background, with_background
from dense_ctx_labels.label_studio import LabelStudio
from dense_ctx_labels.parsing import colour_of, parse_xml
from dense_ctx_labels.shapes import Unlabelled

from dense_ctx.errors import FileError


@dataclass(frozen=True)
class Labelling:
    """The brush labels of a project.

    control, target: names of the labels' control and of the image in the configuration. key: of the image in a task's
    data. names, colours: of the labels. unlabelled: what pixels without a region are.
    """

    control: str
    target: str
    key: str
    names: tuple[str, ...]
    colours: tuple[tuple[str, Colour], ...]
    unlabelled: Unlabelled

    @property
    def classes(self) -> Classes:
        """Of label maps: the labels, and background where pixels without a region are such."""
        names = with_background(self.names) if self.unlabelled == "background" else self.names
        return Classes(names).with_colours(dict(self.colours))

    @property
    def form(self) -> LabelStudio:
        """The format that reads and writes the regions."""
        return LabelStudio(unlabelled=self.unlabelled, choice="last")


def read_labelling(text: object, unlabelled: Unlabelled | None) -> Labelling:
    """Read a labelling configuration.

    Args:
        text: its XML. unlabelled: None: background, unless there is a label for the background, whose pixels are then
            brushed like any other's.

    Raises:
        Refusal: no XML, no BrushLabels of an image, or BrushLabels without labels.
    """
    ask = "add <BrushLabels name=... toName=IMAGE> with a <Label value=...> of each class"
    if not isinstance(text, str):
        raise Refusal(f"label_config={text!r:.60}", "the labelling configuration, XML", "send it")
    try:
        root = parse_xml(text, "The labelling configuration")
    except FileError as error:
        raise Refusal(str(error), "the labelling configuration, XML", "correct it in the project's settings") from None
    images = {str(tag.get("name")): str(tag.get("value", "")) for tag in root.iter("Image")}
    for tag in root.iter("BrushLabels"):
        target = str(tag.get("toName"))
        if target not in images:
            continue
        labels = [label for label in tag.iter("Label") if label.get("value")]
        names = tuple(str(label.get("value")) for label in labels)
        if not names:
            raise Refusal("BrushLabels without a label", "a <Label value=...> of each class", "add them")
        colours = [(str(label.get("value")), colour_of(label.get("background"))) for label in labels]
        pairs = tuple((name, colour) for name, colour in colours if colour is not None)
        rest = unlabelled or ("ignore" if any(map(is_background, names)) else "background")
        return Labelling(str(tag.get("name")), target, images[target].lstrip("$"), names, pairs, rest)
    controls = sorted({tag.tag for tag in root.iter() if tag.get("toName") in images})
    raise Refusal(f"a labelling configuration with {', '.join(controls)[:200] or 'no labels'}", "brush labels", ask)
