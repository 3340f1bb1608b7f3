"""The model of an atlas, copied into its work directory.

Workers on other machines find it there, whatever directory of one machine it was taken from; and a model
saved anew under the same name while an atlas is drawn draws none of its cells.
"""

import shutil
from pathlib import Path

MODEL_DIRECTORY = "model"


def copy_model(model_path: Path, directory: Path, digest: str) -> None:
    """Copy the model at ``model_path`` into the work directory ``directory``, unless it is there.

    Raises ValueError if it is not, or no longer, the model of ``digest``; OSError where the disk is full.
    """
    from cfgen_scale.files import file_digest, write_directory
    from cfgen_scale.model_files import CONFIG_FILE, WEIGHTS_FILE
    from loaders.atlases.writer import room_for

    copy, names = directory / MODEL_DIRECTORY, (CONFIG_FILE, WEIGHTS_FILE)
    is_there = all((copy / name).is_file() for name in names)
    if is_there and file_digest(*(copy / name for name in names)) == digest:
        return
    with room_for(directory), write_directory(copy) as aside:
        for name in names:
            shutil.copyfile(model_path / name, aside / name)
        require_model(model_path, file_digest(*(aside / name for name in names)), digest)


def require_model(model_path: Path, found: str, planned: str) -> None:
    """Raise ValueError where the model at ``model_path`` is not the one of the plan."""
    if found != planned:
        raise ValueError(
            f"{model_path} is the model {found[:12]}, and this atlas is drawn by {planned[:12]}: another one "
            "was saved there meanwhile. Give the directory of the model that the atlas was begun with."
        )
