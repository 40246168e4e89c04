"""The reader of still images, by the name that it had in `data`."""

from ..annotations.coco import load_coco_file

__all__ = ["load_coco_file"]
