"""One module per command; each has ``run(args) -> exit code``."""

import argparse

import msgspec

from edgecore import settings
from edgecore.data_dir import DataDir


def data_dir_of(args: argparse.Namespace) -> DataDir:
    """The data directory that the command line names, or the default one."""
    return DataDir((args.data_dir or settings.default_data_dir()).absolute())


def settings_of(args: argparse.Namespace, directory: DataDir) -> settings.Settings:
    """The settings in force for this command line. Raises UsageError."""
    return settings.load(directory.path, config=args.config, sets=args.set)


def as_json(document: object) -> str:
    """Indented JSON for ``-o json``."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
