"""The journal's tables, and what their columns mean."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

State = Literal[
    "new", "to-bake", "ready", "missing", "wrong-platform", "schema-1", "unauthorised", "unknown", "failed"
]
STATES: tuple[State, ...] = get_args(State)
OPEN: tuple[State, ...] = ("new", "to-bake", "unknown", "unauthorised", "failed")
"""States of images that another run may make."""
ErrorClass = Literal[
    "transient", "base missing", "platform", "auth", "quota", "space", "target", "ours"
]  # fmt: skip
"""target: what images are put into refused one, which says nothing about its base."""

VERSION = 1
IS_OPEN = "state IN ({})".format(", ".join(f"'{state}'" for state in OPEN))
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
  id INTEGER PRIMARY KEY,
  base TEXT NOT NULL UNIQUE,
  place TEXT NOT NULL,
  listed INTEGER NOT NULL DEFAULT 1,
  look INTEGER NOT NULL DEFAULT 1,
  state TEXT NOT NULL DEFAULT 'new',
  seen TEXT,
  image TEXT,
  repository TEXT NOT NULL,
  tag TEXT,
  address TEXT,
  baked TEXT,
  mirrored TEXT,
  attempts INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0,
  error_class TEXT,
  error TEXT,
  looked REAL,
  begun REAL,
  ended REAL,
  bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX open_images ON images (id) WHERE {IS_OPEN};
CREATE INDEX images_to_look_at ON images (id) WHERE look;
CREATE INDEX images_by_document ON images (image);
CREATE TABLE names (
  image INTEGER NOT NULL REFERENCES images (id), name TEXT NOT NULL, PRIMARY KEY (image, name)
) WITHOUT ROWID;
CREATE TABLE blobs (
  digest TEXT NOT NULL, repository TEXT NOT NULL, PRIMARY KEY (digest, repository)
) WITHOUT ROWID;
CREATE TABLE documents (image TEXT PRIMARY KEY, manifest BLOB NOT NULL, config BLOB NOT NULL) WITHOUT ROWID
"""
FIELDS = """id, base, place, state, seen, image, repository, tag, address, baked, mirrored, attempts, tries,
due, error_class, error, looked, begun, ended, bytes"""


class Row(Struct, frozen=True):
    """An image.

    place     where its base is: a registry's host, or a path. repository, tag: in the target.
    seen      the digest that the base's name stood for when last looked at: of an index, or of an image.
    image     the digest of the base's manifest for the platform; None until it was fetched.
    address   of the bake that `state` speaks of; baked: digest of what came out.
    mirrored  the `image` that the target has a copy of, which in a layout has another digest.
    attempts  of all runs; tries: of this run. due: not before this time (seconds since 1970).
    """

    id: int
    base: str
    place: str
    state: State
    seen: str | None
    image: str | None
    repository: str
    tag: str | None
    address: str | None
    baked: str | None
    mirrored: str | None
    attempts: int
    tries: int
    due: float
    error_class: ErrorClass | None
    error: str | None
    looked: float | None
    begun: float | None
    ended: float | None
    bytes: int
