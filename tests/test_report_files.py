"""Where `etude report` writes: whole or not at all, through links, and an error that names what was given."""

from __future__ import annotations

from coloring import etude
from run_folders import make_run


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    out, run = tmp_path / "page.html", make_run(tmp_path / "run")
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etude.training.durable.write_text", full)
    done = etude("report", run, "--out", out)

    assert done.code == 1
    assert "No space left" in done.errors
    assert out.read_text() == "old"


def test_a_link_is_followed_and_an_error_names_what_was_given(tmp_path):
    run, target = make_run(tmp_path / "run"), tmp_path / "target.html"
    (tmp_path / "link.html").symlink_to(target)
    done = etude("report", run, "--out", tmp_path / "link.html", "--quiet")

    assert done.code == 0, done.errors
    assert (tmp_path / "link.html").is_symlink()
    assert target.read_text().startswith("<!doctype html>")
    done = etude("report", run, "--out", "/proc/x.html", "--quiet")
    assert done.code == 1
    assert "'/proc/x.html'" in done.errors
