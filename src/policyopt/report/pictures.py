"""Small pictures as text, for journals and pages: data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

SIDE = 160  # pixels of a picture at most
JPEG_FROM = 64  # smaller ones are kept exactly


def picture(pixels: np.ndarray, side: int = SIDE) -> str:
    """(H, W, 3) bytes as an image that is at most `side` high and wide; small ones as PNG, others as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    exact = max(image.size) < JPEG_FROM
    kind = "png" if exact else "jpeg"
    held = io.BytesIO()
    image.save(held, kind, **({"optimize": True} if exact else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"
