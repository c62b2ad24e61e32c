"""SOTOPIA's data and everybody's formats: in with `read` and `iterate`, out with the exporting modules.

    data = read(["data/sotopia"])
    data.tasks, data.episodes, data.characters, data.splits, data.ratings, data.problems

Files are recognised by what is in them, never by name. What cannot be understood is listed with file,
record and reason, and the rest is imported; docs/import-export.md has every rule.
"""

from sotopia_env.interop.recognise import Importer, iterate, read
from sotopia_env.interop.records import Imported, Problem

__all__ = ["Imported", "Importer", "Problem", "iterate", "read"]
