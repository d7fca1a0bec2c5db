"""What a pattern of topics means: the same in the process and on a NATS broker."""


def matches(pattern: str, topic: str) -> bool:
    """Return whether *topic* is one of those that *pattern* means.

    Args:
        pattern: Tokens between dots; `*` is any one token, a last `>` is one or more.
        topic: A topic, without wildcards.
    """
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        del tokens[len(wanted) :]
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


def is_topic(pattern: str) -> bool:
    """Return whether *pattern* means one topic only: itself."""
    return "*" not in pattern and ">" not in pattern


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that can never match.

    Raises:
        ValueError: A token is empty, or a wildcard is not a token of its own.
    """
    words = pattern.split(".")
    for position, word in enumerate(words, 1):
        if not word or word != "".join(word.split()):
            fault = f"token {position} is empty or has a space in it"
        elif "*" in word and word != "*":
            fault = f"'*' stands for a whole token; {word!r} can never match"
        elif ">" in word and (word != ">" or position < len(words)):
            fault = "'>' stands for the rest of a topic: only as the last token"
        else:
            continue
        raise ValueError(f"pattern {pattern!r}: {fault}")
