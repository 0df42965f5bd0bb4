"""A shell in an image on this machine, from which jobs can be submitted: `runner submit` works inside.

This folder, your home and the folders of runs and images are there at their own paths, and so is what it
takes to reach Slurm. `-- CMD …` runs that instead of a shell, and passes its exit code on.
"""

from __future__ import annotations

import argparse

HELP = "a shell in an image, with Slurm at hand"
WORDS = True


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(words=())
    parser.add_argument("arch", nargs="?", help="a file of definitions/archs (default: the cluster's)")
    parser.add_argument("--image", help="another image: a reference that the engine has, or a SIF's path")
    parser.add_argument("--line", help="the stack (default: the arch's)")
    parser.add_argument("--base", help="the base (default: the arch's)")
    parser.add_argument("--cluster", help="see runner clusters (default: the setting, else the one here)")
    parser.add_argument(
        "--engine", help="docker, podman or apptainer (default: the cluster's first that works)"
    )
    parser.add_argument("--gpus", action="store_true", help="with this machine's GPUs")
    parser.add_argument("--dry-run", action="store_true", help="print the command, and run nothing")


def run(args: argparse.Namespace) -> int:
    import os
    import sys

    from kit import process, say, shell
    from kit.errors import UsageError
    from runner import shells, site, slurm_inside

    if args.arch and args.image:
        raise UsageError("an arch and an image were given: which is it?", "runner shell ARCH")
    here = site.chosen({"cluster": args.cluster, "engine": args.engine})
    able = shells.engine(here)
    wanted = shells.Wanted(arch=args.arch, line=args.line, base=args.base, image=args.image)
    image = shells.image(wanted, here, able, dry=args.dry_run)
    terminal = args.dry_run or (sys.stdin.isatty() and sys.stdout.isatty())
    inside = shells.container(
        image, here, shells.slurm(os.environ), os.environ, args.words,
        users=None if args.dry_run else slurm_inside.users(here), gpus=args.gpus, terminal=terminal,
    )  # fmt: skip
    argv = able.run_argv(inside)
    if args.dry_run:
        say.answer(shell.line(argv))
        return 0
    process.become(argv, what="start a shell", env=os.environ)
