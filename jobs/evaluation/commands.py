"""What `evaluate` and its protocols do: one function of the parsed options each."""

from argparse import Namespace
from pathlib import Path


def cells(options: Namespace) -> None:
    """Compare generated atlases with held-out cells."""
    from cfgen_scale.evaluation import EvaluationSettings, summary_table

    from .evaluate import evaluate_files

    metrics = evaluate_files(
        generated=options.generated,
        label=options.label,
        out=options.out,
        data=options.data,
        train=options.train,
        test=options.test,
        unconditional=options.unconditional,
        modality=options.modality,
        held_out=options.held_out,
        seeds=options.seeds,
        settings=EvaluationSettings(likelihood=options.likelihood),
    )
    print(summary_table(metrics))
    print(f"\nreport   {Path(options.out) / 'report.html'}\nfigures  {Path(options.out) / 'metrics.json'}")


def intersection(options: Namespace) -> None:
    """Classifier probabilities of two attributes as one weight grows."""
    from cfgen_scale.evaluation import IntersectionSettings

    from ..tracking import resolve_model
    from .guidance_protocols import intersection_files
    from .protocol_tables import intersection_table

    growing = options.growing or options.attributes[1]
    if growing not in options.attributes:
        raise ValueError(f"--growing {growing}: it is one of {' and '.join(options.attributes)}.")
    document = intersection_files(
        model=resolve_model(options.model, uri=options.mlflow_uri),
        data=options.data,
        attributes=options.attributes,
        pairs=[(first, second) for first, second in options.pair],
        weights=options.weights,
        seeds=options.seeds,
        held_out=options.held_out,
        out=options.out,
        settings=IntersectionSettings(
            cells=options.cells, weight=options.weight, growing=options.attributes.index(growing)
        ),
    )
    print(intersection_table(document))
    _written(options.out, "intersection")


def guidance(options: Namespace) -> None:
    """Neutral distances over combinations of guidance weights."""
    from ..tracking import resolve_model
    from .guidance_protocols import guidance_files
    from .protocol_tables import guidance_table

    document = guidance_files(
        model=resolve_model(options.model, uri=options.mlflow_uri),
        data=options.data,
        attributes=options.attributes,
        weights=options.weights,
        seeds=options.seeds,
        held_out=options.held_out,
        modality=options.modality,
        out=options.out,
    )
    print(guidance_table(document))
    _written(options.out, "guidance")


def mask(options: Namespace) -> None:
    """Hide counts of an atlas, for a model that is to impute them."""
    from .imputation_protocol import mask_file

    hidden = mask_file(options.source, options.out, share=options.share, seed=options.seed)
    print(f"{hidden:,} counts hidden in {options.out}; X lacks them, the layer 'complete' has them")


def imputation(options: Namespace) -> None:
    """Impute hidden counts and compare."""
    from ..tracking import resolve_model
    from .imputation_protocol import imputation_files, imputation_table

    document = imputation_files(
        model=resolve_model(options.model, uri=options.mlflow_uri),
        masked=options.masked,
        sigmas=options.sigmas,
        guidance=options.guidance,
        max_cells=options.cells,
        seed=options.seed,
        out=options.out,
    )
    print(imputation_table(document))
    _written(options.out, "imputation")


def _written(out: str, name: str) -> None:
    print(f"\nfigures  {Path(out) / f'{name}.json'} and .csv\npicture  {Path(out) / f'{name}.png'}")
