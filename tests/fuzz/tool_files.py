"""Sound files of annotation tools, to be damaged."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

import numpy as np
from PIL import Image

_META = """<meta><task><start_frame>0</start_frame><stop_frame>3</stop_frame>
<labels><label><name>a</name></label></labels>
<original_size><width>64</width><height>32</height></original_size></task></meta>"""
_KEYS = 'keyframe="1" outside="0" occluded="1" z_order="2"'
_TRACK = f"""<track id="0" label="a" group_id="2">
<polygon frame="0" {_KEYS} points="2.00,2.00;9.50,2.00;9.50,9.25"></polygon>
<mask frame="2" {_KEYS} rle="3, 4, 5" left="2" top="1" width="4" height="3"></mask></track>"""
_IMAGE = f"""<image id="0" name="v/0.png" width="64" height="32">
<ellipse label="a" cx="9.00" cy="8.00" rx="4.00" ry="2.00" rotation="30.00"></ellipse>
<box label="a" {_KEYS} xtl="1" ytl="2" xbr="5" ybr="6"></box></image>"""


def cvat_file(rng: random.Random) -> str:
    """XML 1.1, for video or for images."""
    return f"<annotations>{_META}{rng.choice((_TRACK, _IMAGE))}</annotations>"


def labelme_file(height: int, width: int) -> dict[str, Any]:
    """JSON with a polygon, a mask, and a picture inside."""
    file = io.BytesIO()
    Image.fromarray(np.eye(2, dtype=np.uint8)).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    corners = [[1, 2], [2, 3]]
    ring = [[1, 2], [7, 3], [5, 9.5]]
    return {
        "shapes": [
            {"label": "a", "points": ring, "group_id": 1, "shape_type": "polygon"},
            {"label": "a", "points": corners, "shape_type": "mask", "mask": mask, "flags": {}},
        ],
        "imagePath": "0.jpg",
        "imageData": mask,
        "imageHeight": height,
        "imageWidth": width,
    }
