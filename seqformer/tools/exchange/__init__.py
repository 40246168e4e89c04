"""Annotation tools, both ways: CVAT, labelme, and COCO files whose images are frames."""
