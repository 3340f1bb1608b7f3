"""``cfgen-scale models``: the registry as a person sees it."""

from jobs.cli import main


def test_list_show_and_promote(start, save_model, mlflow_uri, capsys, monkeypatch, tmp_path):
    tracker = start()
    tracker.register(save_model("a"), "pbmc", "champion")
    tracker.register(save_model("b", seed=1), "pbmc")
    monkeypatch.chdir(tmp_path)
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["models:/pbmc/2", "-"], ["models:/pbmc/1", "champion"]]
    assert main(["models", "promote", "pbmc", "2", "--mlflow-uri", mlflow_uri]) == 0
    assert "models:/pbmc@champion is version 2." in capsys.readouterr().out
    assert main(["models", "show", "pbmc"]) == 0
    shown = capsys.readouterr().out
    assert "models:/pbmc/2\n  aliases  champion\n" in shown
    assert f"run      {tracker.run_id}" in shown
    assert main(["models", "show", "pmbc"]) == 1
    assert "no registered model 'pmbc'. Registered: pbmc." in capsys.readouterr().err
