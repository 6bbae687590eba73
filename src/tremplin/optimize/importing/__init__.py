"""Import: a checkpoint becomes one ONNX graph that holds everything after tokenization, proven equal to it.

    open_checkpoint -> read_spec, read_encoder -> write_encoder -> write a head -> check_parity

No torch is needed for the families of families.py; any other architecture goes through torch_export.py.
"""

from __future__ import annotations

from tremplin.optimize.importing.importer import ImportedModel, import_model
from tremplin.optimize.importing.parity import GraphFiles, ParityReport, check_parity
from tremplin.registry.task import Task

__all__ = ["GraphFiles", "ImportedModel", "ParityReport", "Task", "check_parity", "import_model"]
