"""Two strokes on the first image of a folder, masks of all of them.

python examples/strokes.py photos/ masks/
"""

import sys

from dense_ctx_session import Session

with Session("lila-lite0", sys.argv[1], classes=["background", "object"]) as session:
    w, h = session.items[0].width, session.items[0].height
    session.stroke(0, 0, [(0.1 * w, 0.05 * h), (0.9 * w, 0.05 * h)], radius=h / 40)  # along the upper edge
    session.stroke(0, 1, [(0.45 * w, 0.5 * h), (0.55 * w, 0.5 * h)], radius=h / 40)  # in the middle
    print(f"{session.export(sys.argv[2])}; annotate next: {session.items[session.next_item()].name}")
