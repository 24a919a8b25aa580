"""An announcement in the form of each channel."""

import hashlib
import json
from email.message import EmailMessage
from email.utils import format_datetime

from reaper.adapters.plain import one_line
from reaper.domain.announcement import Announcement

_TITLE, _LINE, _LINES = 200, 500, 40
_SUBJECT = 100  # characters that SNS takes, ASCII only


def title_of(announcement: Announcement) -> str:
    """One line."""
    return f"[{announcement.severity}] {one_line(announcement.title, _TITLE)}"


def text_of(announcement: Announcement) -> str:
    """Plain text of many lines."""
    return "\n".join((title_of(announcement), *_body(announcement)))


def slack_of(announcement: Announcement) -> bytes:
    """The body of a Slack-compatible webhook. What is said in it cannot mention anybody or lead anywhere.

    https://docs.slack.dev/messaging/formatting-message-text: &, < and > are the characters that mean something.
    """
    text = text_of(announcement).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": text}).encode()


def json_of(announcement: Announcement) -> bytes:
    """For programs."""
    document = {
        "what": announcement.what.value,
        "severity": announcement.severity.value,
        "at": announcement.at.isoformat(),
        "title": one_line(announcement.title, _TITLE),
        "details": _details(announcement),
        "policy": announcement.policy,
        "cluster": announcement.cluster,
        "run": announcement.run,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def subject_of(announcement: Announcement) -> str:
    """What SNS takes as a subject: up to 100 characters of ASCII."""
    return title_of(announcement).encode("ascii", "replace").decode()[:_SUBJECT]


def mail_of(announcement: Announcement, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """A mail. Sent again it is the same mail, so that a reader's program shows it once."""
    digest = hashlib.sha256(json_of(announcement)).hexdigest()[:32]
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Subject"] = f"reaper: {title_of(announcement)}"
    mail["Date"] = format_datetime(announcement.at)
    mail["Message-ID"] = f"<{digest}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text_of(announcement) + "\n")
    return mail


def _details(announcement: Announcement) -> list[str]:
    lines = [one_line(line, _LINE) for line in announcement.details[:_LINES]]
    more = len(announcement.details) - len(lines)
    return [*lines, f"... and {more} more lines"] if more else lines


def _body(announcement: Announcement) -> list[str]:
    about = (("policy", announcement.policy), ("cluster", announcement.cluster), ("run", announcement.run))
    named = [f"{word} {name}" for word, name in about if name is not None]
    return [*_details(announcement), ", ".join((*named, f"{announcement.at:%Y-%m-%d %H:%M:%S} UTC"))]
