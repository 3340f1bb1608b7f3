"""HDF5 files, opened for reading."""

import h5py


def open_hdf5(path: str) -> h5py.File:
    """The file at ``path``. Raises PermissionError, or ValueError for what is no HDF5 file or was cut off."""
    try:
        return h5py.File(path, mode="r")
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: permission denied.") from error
    except OSError as error:
        raise ValueError(
            f"{path} is not an HDF5 file that can be opened: {error}. If it was cut off, copy it again."
        ) from error
