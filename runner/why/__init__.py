"""Why a run failed, as far as its logs have what is known: known.toml, and where it is looked for."""
