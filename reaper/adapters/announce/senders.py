"""Deliver one announcement over one channel, once.

TryAgainError: it may work later. UsageError: it cannot work until somebody changes something. Neither repeats an
address whose path is a secret, nor anything else that the other side said: it may hold one.
"""

import smtplib
import socket
import ssl
from pathlib import PurePath
from typing import assert_never

from reaper.adapters import cloud
from reaper.adapters.announce.channels import (
    Channel,
    CommandChannel,
    EmailChannel,
    LogChannel,
    SnsChannel,
    Tls,
    WebhookChannel,
)
from reaper.adapters.announce.render import json_of, mail_of, slack_of, subject_of, text_of
from reaper.adapters.patience import Deadline
from reaper.adapters.program import run
from reaper.adapters.web import Call, WebError, exchange, origin_of
from reaper.domain.announcement import Announcement
from reaper.domain.errors import TryAgainError, UsageError

_PASSING = {408, 425, 429}  # of the client errors: try again later


def send(channel: Channel, announcement: Announcement, deadline: Deadline) -> None:
    """Deliver it. The log is the dispatcher's own."""
    match channel:
        case WebhookChannel():
            _webhook(channel, announcement, deadline)
        case EmailChannel():
            _email(channel, announcement, deadline)
        case SnsChannel():
            _sns(channel, announcement, deadline)
        case CommandChannel():
            _command(channel, announcement, deadline)
        case LogChannel():
            raise AssertionError("the log is written, not sent to")
        case _:
            assert_never(channel)


def _webhook(channel: WebhookChannel, announcement: Announcement, deadline: Deadline) -> None:
    url = channel.url.read()
    call = Call(url=url, body=slack_of(announcement), headers={"Content-Type": "application/json"})
    shown = origin_of(url)
    try:
        status = exchange(call, deadline).status
    except WebError as error:
        raise TryAgainError(f"{shown}: {error}") from None
    if 200 <= status < 300:
        return
    if status >= 500 or status in _PASSING:
        raise TryAgainError(f"{shown} answers {status}")
    raise UsageError(f"{shown} answers {status}: the address of the webhook is not, or no longer, the right one")


def _email(channel: EmailChannel, announcement: Announcement, deadline: Deadline) -> None:
    mail = mail_of(announcement, channel.sender, channel.to)
    password = None if channel.password is None else channel.password.read()
    where = f"{channel.host}:{channel.port}"
    try:
        smtp = _connected(channel, deadline)
        try:
            with deadline.closing(lambda: _hang_up(smtp)):
                if channel.tls is Tls.STARTTLS:
                    smtp.starttls(context=ssl.create_default_context())
                if channel.user is not None and password is not None:
                    smtp.login(channel.user, password)
                refused = smtp.send_message(mail)
        finally:
            smtp.close()
    except smtplib.SMTPNotSupportedError as error:
        raise UsageError(f"{where} does not offer what is needed, such as STARTTLS: nothing was sent to it") from error
    except smtplib.SMTPResponseException as error:
        kind = UsageError if error.smtp_code >= 500 else TryAgainError
        what = f" to the login of {channel.user}" if isinstance(error, smtplib.SMTPAuthenticationError) else ""
        raise kind(f"{where} answers {error.smtp_code}{what}") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = ", ".join(f"{to} ({code})" for to, (code, _) in error.recipients.items())
        raise TryAgainError(f"{where} refuses {codes}") from None
    except ssl.SSLCertVerificationError as error:
        raise TryAgainError(f"{where}: its certificate does not count: {error.verify_message}") from error
    except (OSError, ValueError) as error:  # all of smtplib's others are OSErrors; ValueError: a broken TLS socket
        why = getattr(error, "strerror", None) or type(error).__name__
        raise TryAgainError(f"{where} cannot be spoken to: {why}") from None
    if refused:
        codes = ", ".join(f"{to} ({code})" for to, (code, _) in refused.items())
        raise UsageError(f"{where} took the mail for the others, and refuses {codes}")


def _hang_up(smtp: smtplib.SMTP) -> None:
    if smtp.sock is not None:
        smtp.sock.shutdown(socket.SHUT_RDWR)


def _connected(channel: EmailChannel, deadline: Deadline) -> smtplib.SMTP:
    us, left_s = socket.gethostname(), deadline.left_s()  # a name of our own: smtplib would ask a name server
    if channel.tls is Tls.TLS:
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(channel.host, channel.port, us, timeout=left_s, context=context)
    return smtplib.SMTP(channel.host, channel.port, us, timeout=left_s)


def _sns(channel: SnsChannel, announcement: Announcement, deadline: Deadline) -> None:
    client = cloud.client("sns", channel.topic.split(":")[3], deadline)
    try:
        client.publish(TopicArn=channel.topic, Subject=subject_of(announcement), Message=text_of(announcement))
    except cloud.failures() as error:
        raise TryAgainError(f"SNS: {error}; reaper's role needs sns:Publish on the topic") from error
    finally:
        client.close()


def _command(channel: CommandChannel, announcement: Announcement, deadline: Deadline) -> None:
    ended = run(channel.command, told={}, stdin=json_of(announcement), deadline=deadline)
    name = PurePath(channel.command[0]).name  # its arguments may hold a secret
    if ended.status is None:
        raise TryAgainError(f"{name} did not end in time and was killed")
    if ended.status != 0:
        raise TryAgainError(f"{name} ended with status {ended.status}, wanted 0")
