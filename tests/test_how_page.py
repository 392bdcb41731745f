"""docs/how.md says what each file is for."""

from age_gender import paths


def test_every_file_of_the_package_is_listed():
    text = (paths.ROOT / "docs/how.md").read_text(encoding="utf-8")
    names = {path.name for path in (paths.ROOT / "age_gender").rglob("*.py")}
    assert not {name for name in names if f"`{name}`" not in text}
