"""`python -m proxy` is `glm-proxy`."""

from __future__ import annotations

from proxy.cli import group


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    group(prog_name="glm-proxy")


if __name__ == "__main__":
    main()
