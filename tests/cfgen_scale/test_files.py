import pytest

from cfgen_scale.files import file_digest, read_json, write_directory, write_json


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    with write_directory(tmp_path / "d") as aside:
        (aside / "a").write_text("old")

    def fail():
        with write_directory(tmp_path / "d") as aside:
            (aside / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_finished_directory_replaces_the_old_one(tmp_path):
    for text in ("old", "new"):
        with write_directory(tmp_path / "d") as aside:
            (aside / text).write_text(text)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_json_round_trip_and_errors_name_the_file(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    assert read_json(tmp_path / "a.json") == {"b": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_digest_depends_on_content_and_order(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert file_digest(tmp_path / "a", tmp_path / "b") != file_digest(tmp_path / "b", tmp_path / "a")
