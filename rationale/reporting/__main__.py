"""python -m rationale.reporting <folder>: the tables of a report, and where its page is."""

import sys
from pathlib import Path

from rationale.artifacts import UserError
from rationale.reporting.tables import show

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m rationale.reporting <folder of a report, for example runs/mini/report>")
    sys.stdout.reconfigure(errors="backslashreplace")  # for a locale that lacks a letter
    try:
        print(show(sys.argv[1]))
    except UserError as error:
        raise SystemExit(f"rationale: {error}") from error
    print(f"report: {Path(sys.argv[1]) / 'index.html'}")
