"""The small data set of the tests of training data, for the readers of annotation files, too."""

from tests.data.conftest import _template, one_line, small

__all__ = ["_template", "one_line", "small"]
