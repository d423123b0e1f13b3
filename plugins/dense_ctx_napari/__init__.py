"""The plugin of napari: strokes in a labels layer, the answer in another, a session behind them. It registers no part.

napari reads napari.yaml, by the entry point `napari.manifest`, and opens `widget.StrokesWidget` (extra `napari`).
"""
