"""One file a tool or format; each writes a handout and reads answers. `shared/` serves several."""

from segal.annotation.formats.base import Format
from segal.annotation.formats.cityscapes import Cityscapes
from segal.annotation.formats.coco import Coco
from segal.annotation.formats.cvat import Cvat
from segal.annotation.formats.fiftyone import FiftyOne
from segal.annotation.formats.folder import Folder
from segal.annotation.formats.label_studio import LabelStudio
from segal.annotation.formats.labelme import Labelme
from segal.annotation.formats.panoptic import Panoptic
from segal.annotation.formats.voc import Voc

FORMATS: dict[str, Format] = {
    "cityscapes": Cityscapes(),
    "coco": Coco(),
    "cvat": Cvat(),
    "fiftyone": FiftyOne(),
    "folder": Folder(),
    "label-studio": LabelStudio(),
    "labelme": Labelme(),
    "panoptic": Panoptic(),
    "voc": Voc(),
}
"""By the name that commands take."""
