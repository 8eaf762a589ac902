"""Write every generated page and part of a page: `make reference`."""

from tests.architecture.reference.pages import PAGES, wanted
from tests.architecture.repository import ROOT


def main() -> None:
    for name in PAGES:
        path = ROOT / name
        made = wanted(name)
        if path.read_text("utf-8") != made:
            path.write_text(made, "utf-8")
            print(f"wrote {name}")


main()
