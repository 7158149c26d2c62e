"""Comparing models: the numbers are the models' own, and the page shows them."""

import json

import pytest

from pocketddpm.commands.main import main


@pytest.mark.slow
def test_compare_two_models(tmp_path, capsys):
    for name, widths in (("small", "8/16"), ("large", "16/32")):
        net = f"widths={widths},head_width=8,groups=4"
        main(["train", "digits", "--net", net, "--steps", "3", "--batch-size", "8", "--device",
              "cpu", "--sample-every", "0", "--out", str(tmp_path / name)])  # fmt: skip
    out = tmp_path / "compare"
    words = [
        "compare",
        str(tmp_path / "small"),
        str(tmp_path / "large"),
        "--n",
        "4",
        "--steps",
        "2",
    ]
    main([*words, "--out", str(out), "--device", "cpu", "--json"])
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((out / "compare.json").read_text())
    small, large = json.loads((out / "compare.json").read_text())["models"]
    assert (small["name"], large["name"]) == ("small", "large")
    assert large["parameters"] > 3 * small["parameters"]
    assert large["gflop"] > 3 * small["gflop"]
    for row in (small, large):
        assert row["images_seen"] == 24
        assert min(row["train_rate"], row["sample_rate"], row["memory"], row["loss"]) > 0
    page = (out / "README.md").read_text()
    assert "![small](samples-0.png)" in page and "| small | unet |" in page
    assert (out / "samples-1.png").exists()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(out)])
    assert stop.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
