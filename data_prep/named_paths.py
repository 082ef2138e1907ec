"""What flags like --weights dinov2=PATH say."""

from data_prep.runs import BadInput


def named_paths(texts: list[str] | None, names, flag: str) -> dict[str, str]:
    """{NAME: PATH} of the NAME=PATH texts of a flag; NAME is one of names, once, PATH not empty."""
    found = {}
    for text in texts or ():
        name, _, path = text.partition("=")
        if name not in names or not path or name in found:
            raise BadInput(
                f"{flag} {text}: expected NAME=PATH, once for each NAME, one of {', '.join(names)}."
            )
        found[name] = path
    return found
