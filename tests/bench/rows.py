"""The table of a bench, line by line."""

ROWS: list[tuple[str, str, str]] = []


def row(name: str, figure: str, goal: str) -> None:
    """One line of the table, printed as soon as it is known."""
    ROWS.append((name, figure, goal))
    print(f"bench: {name}: {figure} ({goal})", flush=True)
