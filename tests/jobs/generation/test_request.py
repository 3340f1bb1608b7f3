import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cfgen_scale.ode import OdeConfig
from cfgen_scale.types import SchemaError
from jobs.generation.plan import Chunk, Part, Plan, differences, make_plan
from jobs.generation.request import Copied, Group, Request, RequestError, SizeFactor
from jobs.generation.request_check import check_request
from jobs.generation.request_sources import read_request, request_from_options
from tests.tiny_model import SCHEMA

TWO_GROUPS = Request(
    (
        Group(1000, told={"cell_type": "NK"}, guidance={"cell_type": 2.0}),
        Group(500, untold=("donor", "cell_type")),
    )
)


def plan_of(request: Request, **options: object) -> Plan:
    return make_plan(request, SCHEMA, **{"model_digest": "m", "ode": OdeConfig(), **options})  # type: ignore[arg-type]


def test_options_make_one_group() -> None:
    made = request_from_options(
        7, told=["cell_type=CD4+ T=helper"], untold=["donor"], guidance=["cell_type=1.5"]
    )
    assert made == Request((Group(7, {"cell_type": "CD4+ T=helper"}, ("donor",), {"cell_type": 1.5}),))


def test_yaml_and_csv_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "request.yaml").write_text(
        "groups:\n"
        "  - cells: 1000\n"
        "    told: {cell_type: NK}\n"
        "    guidance: {cell_type: 2}\n"
        "  - {cells: 500, untold: [donor, cell_type]}\n"
    )
    (tmp_path / "request.csv").write_text(
        "cells,told:cell_type,guidance:cell_type,untold\n1000,NK,2,\n500,,,donor; cell_type\n"
    )
    assert read_request(tmp_path / "request.yaml") == TWO_GROUPS
    assert read_request(tmp_path / "request.csv") == TWO_GROUPS


def test_size_factors_in_yaml_and_csv(tmp_path: Path) -> None:
    (tmp_path / "request.yaml").write_text(
        "groups:\n"
        "  - {cells: 1, size_factor: 5000}\n"
        "  - {cells: 2, size_factor: {log_mean: 8.5, log_sd: 0.4}}\n"
        "  - {cells: 3, size_factor: {rna: 5000, protein: {log_mean: 6, log_sd: 0.2}}}\n"
        "  - {cells: 4}\n"
    )
    (tmp_path / "request.csv").write_text(
        "cells,size_factor,size_factor:log_mean,size_factor:log_sd,"
        "size_factor:rna,size_factor:protein:log_mean,size_factor:protein:log_sd\n"
        "1,5000,,,,,\n2,,8.5,0.4,,,\n3,,,,5000,6,0.2\n4,,,,,,\n"
    )
    five_thousand = SizeFactor(math.log(5000))
    made = [group.size_factors for group in read_request(tmp_path / "request.yaml").groups]
    assert made == [
        {"": five_thousand},
        {"": SizeFactor(8.5, 0.4)},
        {"rna": five_thousand, "protein": SizeFactor(6.0, 0.2)},
        {},
    ]
    assert read_request(tmp_path / "request.csv") == read_request(tmp_path / "request.yaml")


def test_size_factor_options() -> None:
    made = request_from_options(7, size_factor=["5000"]).groups[0]
    assert made.size_factors == {"": SizeFactor(math.log(5000))}
    named = request_from_options(7, size_factor=["rna=5000", "protein=100"]).groups[0].size_factors
    assert named == {"rna": SizeFactor(math.log(5000)), "protein": SizeFactor(math.log(100))}


def test_the_only_modality_needs_no_name() -> None:
    plan = plan_of(Request((Group(1, size_factors={"": SizeFactor(8.0)}),)))
    assert plan.request.groups[0].size_factors == {"rna": SizeFactor(8.0)}
    assert plan == plan_of(Request((Group(1, size_factors={"rna": SizeFactor(8.0)}),)))


def test_a_category_that_is_a_number_is_its_text(tmp_path: Path) -> None:
    (tmp_path / "request.yaml").write_text("groups: [{cells: 1, told: {donor: 1015}}]")
    assert read_request(tmp_path / "request.yaml").groups[0].told == {"donor": "1015"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("r.yaml", "cells: 5", "unknown key 'cells'. Known: groups"),
        ("r.yaml", "- cells: 5", "must be a mapping with the key 'groups'"),
        ("r.yaml", "groups: []", "lists no group"),
        ("r.yaml", "groups: [{cell: 5}]", "group 1: unknown key 'cell'. Did you mean 'cells'"),
        ("r.yaml", "groups: [{told: {donor: d1}}]", "group 1: the number of cells is missing"),
        ("r.yaml", "groups: [{cells: 5, told: {donor: no}}]", "told donor: False is not a name.*quotes"),
        ("r.yaml", "groups: [{cells: 5, told: [donor]}]", "a mapping of keys to values is needed"),
        ("r.yaml", "groups: [{cells: 5, untold: donor}]", "'untold' must be a list"),
        ("r.yaml", "groups: [", "is not YAML"),
        ("r.csv", "told:donor\nd1\n", "one must be 'cells'"),
        ("r.csv", "cells,donor\n5,d1\n", "unknown key 'donor'. Did you mean 'told:donor'"),
        ("r.csv", "cells,untold,untold\n5,,\n", "column 'untold' is there twice"),
        ("r.csv", "cells,told:donor\n5\n", "line 2: the line has another number of entries"),
        ("r.csv", 'cells,told:donor\n5,"d1"x\n', "line 2: .*Is a quote out of place"),
        ("r.csv", 'cells,told:donor\n5,d1\n5,"d2\n', "line 3: .*Is a quote out of place"),
        ("r.csv", "cells\nmany\n", "line 2: cells must be a whole number, not 'many'"),
        ("r.csv", "cells,guidance:donor\n5,strong\n", "guidance donor: 'strong' is not a number"),
        ("r.csv", "cells\n", "lists no group"),
        ("r.yaml", "groups: [{cells: 5, size_factor: many}]", "size_factor: 'many' is not a number"),
        ("r.yaml", "groups: [{cells: 5, size_factor: -5}]", "a number of counts above 0, not -5"),
        ("r.yaml", "groups: [{cells: 5, size_factor: {log_mean: 5}}]", "log_sd is missing"),
        (
            "r.yaml",
            "groups: [{cells: 5, size_factor: {log_mean: 5, sd: 1}}]",
            "unknown key 'sd'. Known",
        ),
        (
            "r.csv",
            "cells,size_factor,size_factor:log_mean\n5,5000,8\n",
            "line 2: .*as a number and as",
        ),
        (
            "r.csv",
            "cells,size_factor:log_mean,size_factor\n5,8,5000\n",
            "line 2: .*as a number and as",
        ),
        ("r.csv", "cells,size_factors\n5,5000\n", "unknown key 'size_factors'. Did you mean 'size_factor'"),
        ("r.txt", "", "is a .yaml or .csv file, not '.txt'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=says):
        read_request(tmp_path / name)


@pytest.mark.parametrize("name", ["r.csv", "r.yaml"])
def test_a_file_of_another_encoding_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("cells,told:donor\n5,Jos\u00e9\n".encode("latin-1"))
    with pytest.raises(RequestError, match="line 2: the file is not UTF-8"):
        read_request(tmp_path / name)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no request file .*nowhere\.yaml"):
        read_request(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"told": ["donor"]}, "--told 'donor': write --told ATTRIBUTE=VALUE"),
        ({"told": ["donor=d1", "donor=d2"]}, "'donor' is given twice"),
        ({"guidance": ["donor=strong"]}, "--guidance donor: 'strong' is not a number"),
        ({"size_factor": ["many"]}, "--size-factor: 'many' is not a number"),
        ({"size_factor": ["=5"]}, "write --size-factor 5000, or MODALITY=5000"),
        ({"size_factor": ["5", "6"]}, "--size-factor is given twice"),
    ],
)
def test_bad_options_are_refused(options: dict[str, list[str]], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        request_from_options(5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (Group(0), "group 2 .* above 0, not 0"),
        (Group(True), "above 0, not True"),
        (Group(1.5), "above 0, not 1.5"),  # type: ignore[arg-type]
        (Group(1, guidance={"donor": float("nan")}), "'donor' must be a finite number, not nan"),
        (Group(1, guidance={"donor": "2"}), "'donor' must be a finite number, not '2'"),  # type: ignore[dict-item]
        (Group(1, told={"donor": "d1"}, untold=("donor",)), "'donor' is both told and untold"),
        (
            Group(1, untold=("donor",), guidance={"donor": 2.0}),
            "'donor' is untold, so that",
        ),
        (Group(1, told={"donor": "d9"}), "group 2 .*'donor' has no category 'd9'.*'d1', 'd2'"),
        (Group(1, told={"tissue": "lung"}), "group 2 .*no attribute 'tissue'.*cell_type, donor"),
        (Group(1, untold=("tissue",)), "no attribute 'tissue'"),
        (Group(1, guidance={"tissue": 1.0}), "no attribute 'tissue'"),
        (Group(1, size_factors={"atac": SizeFactor(8.0)}), "no modality 'atac' that has a size.*Known: rna"),
        (Group(1, size_factors={"": SizeFactor(5000.0)}), "log_mean is the natural logarithm"),
        (
            Group(1, size_factors={"": SizeFactor(20.8)}),
            r"may be e\^20.8 counts a cell; the most .* is 2\^30",
        ),
        (Group(1, size_factors={"": SizeFactor(8.0, 2.0)}), r"log_mean 8 and log_sd 2, may be e\^21.4"),
        (Group(1, size_factors={"": SizeFactor(5.0, -1.0)}), "log_sd of at least 0"),
        (Group(1, size_factors={"": SizeFactor(float("nan"))}), "a finite log_mean"),
        (Group(1, copied=Copied("d", ("donor",))), "a table must be the only one"),
        (
            Group(1, copied=Copied("d", ("donor",), ("rna",)), size_factors={"rna": SizeFactor(5.0)}),
            "both given and copied",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(group: Group, says: str) -> None:
    with pytest.raises((RequestError, SchemaError), match=says):
        check_request(Request((Group(1), group)), SCHEMA)


def test_with_several_modalities_each_has_a_size_factor_or_none() -> None:
    rna = SCHEMA.modalities[0]
    both = replace(SCHEMA, modalities=(rna, replace(rna, name="protein")))
    size = SizeFactor(5.0)
    for given, says in (
        ({"": size}, "needs the name of its modality: rna, protein"),
        ({"rna": size}, "every modality or of none; missing: protein"),
    ):
        with pytest.raises(RequestError, match=says):
            check_request(Request((Group(1, size_factors=given),)), both)
    check_request(Request((Group(1, size_factors={"rna": size, "protein": size}), Group(1))), both)


def test_a_request_without_groups_is_refused() -> None:
    with pytest.raises(RequestError, match="no group"):
        check_request(Request(()), SCHEMA)


def test_weight_is_one_unless_given_and_zero_if_untold() -> None:
    assert plan_of(TWO_GROUPS).weights == ((2.0, 1.0), (0.0, 0.0))


def test_chunks_cover_the_cells_and_span_no_groups_of_other_weights() -> None:
    assert list(plan_of(TWO_GROUPS, chunk_cells=400).chunks()) == [
        Chunk(0, 0, (Part(0, 0, 400),)),
        Chunk(1, 400, (Part(0, 0, 400),)),
        Chunk(2, 800, (Part(0, 0, 200),)),
        Chunk(3, 1000, (Part(1, 0, 400),)),
        Chunk(4, 1400, (Part(1, 0, 100),)),
    ]


def test_groups_of_equal_weights_share_chunks() -> None:
    size = SizeFactor(5.0)
    groups = [Group(3), Group(6, {"donor": "d1"}), Group(1), Group(2, size_factors={"": size}), Group(9)]
    plan = plan_of(Request(tuple(groups)), chunk_cells=4)
    assert list(plan.chunks()) == [
        Chunk(0, 0, (Part(0, 0, 3), Part(1, 3, 1))),
        Chunk(1, 4, (Part(1, 0, 4),)),
        Chunk(2, 8, (Part(1, 0, 1), Part(2, 1, 1))),
        Chunk(3, 10, (Part(3, 0, 2),)),
        Chunk(4, 12, (Part(4, 0, 4),)),
        Chunk(5, 16, (Part(4, 0, 4),)),
        Chunk(6, 20, (Part(4, 0, 1),)),
    ]
    assert plan.n_chunks == 7
    assert np.concatenate([chunk.groups for chunk in plan.chunks()]).tolist() == (
        [0] * 3 + [1] * 6 + [2] + [3] * 2 + [4] * 9
    )


def test_thousands_of_small_groups_are_a_few_chunks() -> None:
    plan = plan_of(Request((Group(20, {"cell_type": "B"}), Group(20, {"donor": "d1"})) * 2500))
    assert plan.n_chunks == -(-100_000 // 512)


def test_a_chunk_holds_a_cell_at_least() -> None:
    with pytest.raises(RequestError, match="chunk_cells must be at least 1, not 0"):
        plan_of(TWO_GROUPS, chunk_cells=0)


@pytest.mark.parametrize(
    "request_",
    [
        TWO_GROUPS,
        Request((Group(5, size_factors={"rna": SizeFactor(8.1, 0.3)}),)),
        Request((Group(5, copied=Copied("d1", ("donor", "cell_type"), ("rna",))),)),
    ],
)
def test_request_and_plan_survive_json(request_: Request) -> None:
    written = json.dumps(request_.to_json())
    assert Request.from_json(json.loads(written)) == request_
    plan = plan_of(request_, content="latents", ode=OdeConfig("dopri5", tolerance=1e-3))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_plan_of_another_version_is_refused() -> None:
    with pytest.raises(RequestError, match=r"of version 2; this program reads 3"):
        Plan.from_json({**plan_of(TWO_GROUPS).to_json(), "version": 2})


def test_chunks_are_counted_without_making_them() -> None:
    plan = plan_of(TWO_GROUPS, chunk_cells=400)
    assert plan.n_chunks == len(list(plan.chunks())) == 5


def test_digest_and_differences_tell_plans_apart() -> None:
    plan = plan_of(TWO_GROUPS)
    assert plan.digest == plan_of(TWO_GROUPS).digest
    other = plan_of(Request((Group(5),)), seed=3)
    assert plan.digest != other.digest
    assert differences(plan.to_json(), other.to_json()) == [
        "another seed (3 there, 0 asked for)",
        "another request",
        "another weights",
    ]
