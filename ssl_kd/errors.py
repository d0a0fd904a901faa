"""What a user did wrong, said in one sentence."""


class InputError(ValueError):
    """Bad input: the commands print its one sentence and exit with code 2."""


def nearest(name: str, known: list[str]) -> str:
    """The end of a refusal: `did you mean "x"?`, or the list of what exists when nothing is near."""
    import difflib

    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f'did you mean "{match[0]}"?'
    return "there are: " + ", ".join(sorted(known)) if known else "there are none"
