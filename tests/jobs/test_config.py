"""Configuration: defaults, file, command line; nothing unknown and nothing of the wrong type gets through."""

from dataclasses import asdict

import pytest

from cfgen_scale.autoencoder import ModalityConfig
from cfgen_scale.times import TimesConfig
from cfgen_scale.training.config import StageConfig, TrainConfig
from jobs.config import ConfigError, flatten, load_config


def test_without_anything_it_is_the_defaults():
    assert load_config() == TrainConfig()


def test_the_command_line_wins_over_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: {velocity: {width: 48, blocks: 1}}\nflow: {learning_rate: 5e-4}\n")
    config = load_config(file, ["model.velocity.width=64", "seed=7", "flow.cells=2e5"])
    assert (config.model.velocity.width, config.model.velocity.blocks) == (64, 1)
    assert (config.flow.learning_rate, config.flow.cells, config.seed) == (5e-4, 200_000, 7)
    assert config.autoencoder == TrainConfig().autoencoder


def test_lists_and_names_from_the_command_line():
    config = load_config(
        overrides=["model.autoencoder.hidden=[64, 32]", "model.autoencoder.theta_by=cell_type"]
    )
    assert config.model.autoencoder.hidden == (64, 32)
    assert config.model.autoencoder.theta_by == "cell_type"


def test_levers_of_quality_are_settings():
    config = load_config(
        overrides=[
            "model.velocity.skip=scaled",
            "model.whitening=unit_variance",
            "model.autoencoder.encoder_input=normalised",
            "model.ode.guide_from=0.2",
            "autoencoder.dropout=0.1",
            "autoencoder.thinning=0.5",
            "model.autoencoder.latent_noise=0.2",
            "flow.times.distribution=logit_normal",
            "flow.times.scale=2",
            "flow.path_noise=1e-4",
        ]
    )
    assert (config.model.velocity.skip, config.model.whitening) == ("scaled", "unit_variance")
    assert (config.model.autoencoder.encoder_input, config.model.ode.guide_from) == ("normalised", 0.2)
    stage = config.autoencoder
    assert (stage.dropout, stage.thinning) == (0.1, 0.5)
    assert config.model.autoencoder.latent_noise == 0.2
    assert config.flow.times == TimesConfig("logit_normal", scale=2.0)
    assert config.flow.path_noise == 1e-4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.whitening=half", "full"),
        ("model.velocity.skip=curved", "linear"),
        ("model.autoencoder.encoder_input=pixels", "normalised"),
        ("model.ode.guide_from=1.5", "between two times"),
        ("autoencoder.dropout=1", "below 1"),
        ("autoencoder.thinning=1.5", "share of molecules"),
        ("model.autoencoder.latent_noise=-1", "not be negative"),
        ("flow.times.scale=0", "scale must be positive"),
        ("flow.times.distribution=cauchy", "logit_normal"),
        ("flow.path_noise=-1", "not be negative"),
    ],
)
def test_levers_out_of_range_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config(overrides=[override])


@pytest.mark.parametrize("override", ["model.size_factors_by=batch", "model.velocity.size_factor_told=true"])
def test_what_is_for_sizes_drawn_apart_needs_them_drawn_apart(override):
    with pytest.raises(ConfigError, match=r"size_factors=log_normal"):
        load_config(overrides=[override])
    apart = load_config(overrides=[override, "model.size_factors=log_normal"]).model
    assert apart.size_factors_by == "batch" or apart.velocity.size_factor_told


def test_sections_of_modalities_are_named_by_the_user():
    config = load_config(
        overrides=[
            "model.autoencoder.latents=concatenated",
            "model.autoencoder.modalities.atac.hidden=[1024, 512]",
            "model.autoencoder.modalities.atac.latent=20",
            "model.size_factors=log_normal",
            "model.size_factors_by=[cell_type, donor]",
        ]
    ).model
    assert config.autoencoder.modalities == {"atac": ModalityConfig(hidden=(1024, 512), latent=20)}
    assert config.autoencoder.hidden_of("rna") == config.autoencoder.hidden
    assert config.size_factors_by == ("cell_type", "donor")
    with pytest.raises(ConfigError, match=r"modalities\.atac\.hiden.*Did you mean .*hidden"):
        load_config(overrides=["model.autoencoder.modalities.atac.hiden=3"])


@pytest.mark.parametrize(
    ("cells", "batch_cells", "told", "interval"),
    [
        (2_000_000, 256, None, 40_000),
        (100_000_000, 4096, None, 2_000_000),
        (200_000, 512, None, 20_000),
        (5_000, 32, None, 500),
        (2_000_000, 256, 1234, 1234),
    ],
    ids=["a fiftieth", "of a large atlas", "not every few batches", "of a tiny run", "as told"],
)
def test_a_kill_loses_little(cells, batch_cells, told, interval):
    stage = StageConfig(cells, batch_cells, learning_rate=1e-3, checkpoint_every_cells=told)
    assert stage.checkpoint_interval() == interval


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "flow.batchcells=64",
            r"unknown configuration key 'flow\.batchcells'.*Did you mean flow\.batch_cells",
        ),
        ("zzz=1", r"unknown configuration key 'zzz'.*Known here: model"),
        ("flow=3", "'flow' in flow=3 is a section"),
        ("flow.cells=many", r"flow\.cells.*integer.*'many'"),
        ("flow.decay=linear", r"flow\.decay.*'cosine' or 'none'"),
        ("autoencoder.patience=-1", "autoencoder.*patience must not be negative"),
        ("precision=float16", r"precision.*'auto', 'float32' or 'bfloat16'"),
        ("width", "not of the form key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_a_wrong_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "deep.yaml").write_text("model: {velocity: {widht: 3}}")
    with pytest.raises(ConfigError, match=r"model\.velocity\.widht.*deep\.yaml.*model\.velocity\.width"):
        load_config(tmp_path / "deep.yaml")


def test_flattened_names_every_leaf():
    flat = flatten(asdict(TrainConfig()))
    assert flat["model.velocity.width"] == TrainConfig().model.velocity.width
    assert not any(isinstance(value, dict) for value in flat.values())
