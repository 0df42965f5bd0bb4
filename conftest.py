"""Where the fixtures of real parts come from."""

pytest_plugins: list[str] = []
