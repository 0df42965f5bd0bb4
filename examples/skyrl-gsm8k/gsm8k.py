"""GSM8K as SkyRL reads it, then SkyRL's own main: `python -m gsm8k key=value …`.

The rows are those of SkyRL's examples/train/gsm8k/gsm8k_dataset.py. They are written once a run, into the run
folder, which all nodes see; an attempt that finds them takes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

STAGED = Path("/slipworks-run/staged/gsm8k/main")
MADE = Path("/slipworks-run/gsm8k")
SPLITS = {"train": "train", "test": "validation"}
ASKED = ' Let\'s think step by step and output the final answer after "####".'


def rows(found: Iterator[Mapping[str, str]], split: str) -> Iterator[dict[str, Any]]:
    """A row for each question; ValueError for an answer without a solution behind ####."""
    for index, each in enumerate(found):
        solution = re.search(r"#### (-?[0-9.,]+)", each["answer"])
        if solution is None:
            raise ValueError(f"row {index} of {split} has no solution behind ####")
        yield {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": each["question"] + ASKED}],
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": solution[1].replace(",", "")},
            "extra_info": {"split": split, "index": index, **each},
        }


def make(staged: Path = STAGED, made: Path = MADE) -> None:
    """Writes the files that are not there yet, each whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    made.mkdir(exist_ok=True)
    for split, name in SPLITS.items():
        target = made / f"{name}.parquet"
        if target.exists():
            continue
        (source,) = staged.glob(f"{split}-*.parquet")
        table = pyarrow.Table.from_pylist(list(rows(iter(parquet.read_table(source).to_pylist()), split)))
        parquet.write_table(table, made / f"{name}.part")
        (made / f"{name}.part").replace(target)


if __name__ == "__main__":
    make()
    try:
        from skyrl.train.entrypoints.main_base import main
    except ImportError:
        from skyrl_train.entrypoints.main_base import main
    main()
