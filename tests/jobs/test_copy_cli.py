"""`t2i export-collection` and `t2i import-collection`: what they print, and how they exit."""

from test_cli import COLOUR, t2i  # noqa: F401 - a fixture

from t2i_pipelines.collection import open_collection


def test_a_collection_goes_out_and_comes_back_and_finds_the_same(t2i, pictures):  # noqa: F811
    t2i("insert", "pictures", *COLOUR)
    code, out, err = t2i("export-collection", "backup")
    assert (code, out) == (0, "")
    assert err.splitlines() == ["exporting: 7 of 7 rows", "exported 7 rows to backup: 1 files, 0.0 MB"]
    code, _, err = t2i("import-collection", "backup", "--uri", "back.db")
    assert code == 0
    assert err.splitlines()[-1] == "imported 7 rows from backup, each read back and the same"
    code, out, _ = t2i("search", "a red ball", "--limit", 1, "--uri", "back.db", *COLOUR)
    assert (code, "pictures/red.png" in out) == (0, True)


def test_a_collection_with_rows_exits_with_2_and_names_the_option(t2i, pictures):  # noqa: F811
    t2i("insert", "pictures", *COLOUR)
    t2i("export-collection", "backup")
    (pictures / "red.png").rename(pictures / "rot.png")
    t2i("insert", "pictures", *COLOUR)
    code, _, err = t2i("import-collection", "backup")
    assert (code, "has 8 rows already" in err, "--if-exists merge" in err) == (2, True, True)
    code, _, err = t2i("import-collection", "backup", "--if-exists", "merge")
    assert (code, err.splitlines()[-1].endswith("the same, beside 1 others")) == (0, True)
    code, _, err = t2i("import-collection", "backup", "--if-exists", "replace")
    assert (code, err.splitlines()[-1].endswith("the same, 1 others deleted")) == (0, True)
    assert open_collection("milvus.db").count() == 7


def test_a_folder_that_is_no_export_exits_with_2(t2i, pictures):  # noqa: F811
    code, _, err = t2i("import-collection", "pictures")
    assert (code, "error: " in err, "holds no export of a collection" in err) == (2, True, True)
    code, _, err = t2i("export-collection", "backup")
    assert (code, "error: there is no database " in err) == (2, True)
