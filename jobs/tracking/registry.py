"""The registry of models: our own model directory under a name, versions and aliases."""

import re
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from .store import TrackingError, connect, registry_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

MODEL_SCHEME = "models:/"
DIGEST_TAG = "cfgen_scale.model_digest"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    digest  of the model directory (hex), equal to ``CFGen.digest``
    source  where MLflow keeps the files; run_id is the training run
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    digest: str
    run_id: str
    source: str


@dataclass(frozen=True)
class FoundModel:
    """The local directory of a model; ``registered`` is its name and version where it has them, else {}."""

    path: Path
    registered: dict[str, str | int]


def require_valid(name: str, alias: str | None = None) -> None:
    """Refuse a model name or alias that MLflow could not use, before a model is trained for it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise TrackingError(f"{name!r} cannot name a model: use letters, digits, '_', '.' and '-'.")
    if alias is not None and (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", alias) or re.fullmatch(r"latest|v\d+", alias.lower())
    ):
        raise TrackingError(
            f"{alias!r} cannot be an alias: begin with a letter, use letters, digits, '_' and '-', and "
            "neither 'latest' nor a version such as 'v1'."
        )


def register_model(
    client: "MlflowClient", run_id: str, model_dir: Path, *, name: str, alias: str | None = None
) -> int:
    """Register a saved CFGen as the next version of ``name``, set ``alias`` to it, and return the version.

    A model already registered under this name (equal digest) keeps its version: training that is run again
    adds nothing. What is registered is an MLflow pyfunc around a copy of the directory (``jobs.serving``).
    """
    require_valid(name, alias)
    digest = _model_digest(model_dir)
    known = [v for v in _versions(client, name) if v.digest == digest]
    version = known[0].version if known else _add_version(client, run_id, model_dir, name, digest)
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(version))
    return version


def resolve_model(model: str | Path, *, uri: str | None = None) -> Path:
    """The directory that `find_model` finds."""
    return find_model(model, uri=uri).path


def find_model(model: str | Path, *, uri: str | None = None) -> FoundModel:
    """A model given as run, directory, ``models:/NAME@ALIAS`` or ``models:/NAME/3``.

    ``uri`` is the MLflow store of the last two (see ``registry_uri``); a model that a server keeps is copied
    to a temporary directory of this machine. Raises FileNotFoundError or TrackingError, saying what there is.
    """
    if str(model).startswith(MODEL_SCHEME):
        return _download(str(model), registry_uri(uri))
    from cfgen_scale.model_files import CONFIG_FILE

    path = Path(model)
    for candidate in (path, path / "model"):
        if (candidate / CONFIG_FILE).is_file():
            return FoundModel(candidate, {})
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Give a run, a model directory or {MODEL_SCHEME}NAME@ALIAS."
        )
    raise FileNotFoundError(f"{path} holds no model yet. Has training of this run finished? Its status says.")


def list_models(name: str | None = None, *, uri: str | None = None) -> list[ModelVersion]:
    """Every version of every registered model, or of the model ``name``; newest first within a name.

    Raises TrackingError for an unknown name, listing the known ones.
    """
    versions = _versions(connect(registry_uri(uri)))
    names = sorted({v.name for v in versions})
    if name is not None and name not in names:
        raise TrackingError(f"no registered model {name!r}. Registered: {', '.join(names) or 'none'}.")
    return [v for v in versions if name in (None, v.name)]


def promote(name: str, version: int, alias: str, *, uri: str | None = None) -> None:
    """Let ``alias`` name this version of the model. Raises TrackingError for an unknown model or version."""
    require_valid(name, alias)
    versions = list_models(name, uri=uri)
    if version not in [v.version for v in versions]:
        known = ", ".join(str(v.version) for v in versions)
        raise TrackingError(f"{name!r} has no version {version}. Versions: {known or 'none'}.")
    connect(registry_uri(uri)).set_registered_model_alias(name, alias, str(version))


def _versions(client: "MlflowClient", name: str | None = None) -> list[ModelVersion]:
    asked = f"name = '{name}'" if name else None
    found = [_described(v, client) for v in client.search_model_versions(asked)]
    return sorted(found, key=lambda v: (v.name, -v.version))


def _described(found: "RegisteredVersion", client: "MlflowClient") -> ModelVersion:
    # Searches leave the aliases out; the single version has them.
    whole = client.get_model_version(found.name, found.version)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(whole.aliases)),
        digest=found.tags.get(DIGEST_TAG, ""),
        run_id=found.run_id or "",
        source=found.source,
    )


def _add_version(client: "MlflowClient", run_id: str, model_dir: Path, name: str, digest: str) -> int:
    folder = f"model-{digest[:12]}"
    with tempfile.TemporaryDirectory() as aside:
        pyfunc = Path(aside) / "pyfunc"
        _save_pyfunc(model_dir, pyfunc)
        client.log_artifacts(run_id, str(pyfunc), folder)
    if name not in [m.name for m in client.search_registered_models(f"name = '{name}'")]:
        client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
    added = client.create_model_version(name, source, run_id=run_id, tags={DIGEST_TAG: digest})
    return int(added.version)


def _save_pyfunc(model_dir: Path, path: Path) -> None:
    from jobs.serving import DEFAULT_PARAMS

    with warnings.catch_warnings():
        # Of type hints inside MLflow, and of an example of inputs: which attributes there are is the schema's
        # to say, so that inputs stay open and jobs.serving checks them.
        warnings.filterwarnings("ignore", message=".*(inferred as AnyType|input example was not provided)")
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ParamSchema, ParamSpec

        kinds = {int: "long", str: "string"}
        params = ParamSchema([ParamSpec(k, kinds[type(v)], v) for k, v in DEFAULT_PARAMS.items()])
        mlflow.pyfunc.save_model(
            path,
            loader_module="jobs.serving",
            data_path=str(model_dir),
            signature=ModelSignature(params=params),
            pip_requirements=[_our_package()],
        )


def _our_package() -> str:
    try:
        return f"cfgen-scale=={installed_version('cfgen-scale')}"
    except PackageNotFoundError:  # run from the source tree, as on a cluster
        return "cfgen-scale"


def _model_digest(model_dir: Path) -> str:
    from cfgen_scale.files import file_digest
    from cfgen_scale.model_files import CONFIG_FILE, WEIGHTS_FILE

    return file_digest(model_dir / CONFIG_FILE, model_dir / WEIGHTS_FILE)


def _download(model: str, uri: str) -> FoundModel:
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    known = {name: version for version in list_models(uri=uri) for name in _names_of(version)}
    if model not in known:
        raise TrackingError(
            f"{model} is not in {uri}. There are: {', '.join(known) or 'no registered models'}."
        )
    found = known[model]
    pyfunc = Path(download_artifacts(found.source, tracking_uri=uri, registry_uri=uri))
    directory = pyfunc / str(Model.load(pyfunc).flavors["python_function"]["data"])
    return FoundModel(directory, {"name": found.name, "version": found.version})


def _names_of(version: ModelVersion) -> list[str]:
    """Every way to name this version."""
    aliases = [f"{MODEL_SCHEME}{version.name}@{alias}" for alias in version.aliases]
    return [*aliases, f"{MODEL_SCHEME}{version.name}/{version.version}"]
