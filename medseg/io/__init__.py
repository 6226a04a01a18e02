"""Files in and out, geometry kept exactly. Imports neither torch nor MONAI, so that inputs are checked at once."""

from .atomic import atomic_path, write_json, write_text
from .datalist import Case
from .geometry import check_affine, orientation_of, same_grid, spacing_of
from .header import Header, Volume
from .inputs import find_inputs
from .resample import resample_to_grid
from .volume import read_header, read_image, read_label, write_image, write_label

__all__ = [
    "Case",
    "Header",
    "Volume",
    "atomic_path",
    "check_affine",
    "find_inputs",
    "orientation_of",
    "read_header",
    "read_image",
    "read_label",
    "resample_to_grid",
    "same_grid",
    "spacing_of",
    "write_image",
    "write_json",
    "write_label",
    "write_text",
]
