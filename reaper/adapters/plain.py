"""What others say, made fit for a line of ours."""


def one_line(text: str, most: int) -> str:
    """Printable characters on one line, cut to a length: what a terminal would obey does not get through."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def last_lines(output: bytes, lines: int, most: int) -> tuple[str, ...]:
    """The end of a program's output."""
    shown = (one_line(line, most) for line in output.decode(errors="replace").splitlines())
    return tuple(line for line in shown if line)[-lines:]
