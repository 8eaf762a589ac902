"""The HTML templates of the inbox's pages, which :mod:`pipeline.devstack.sandbox.pages` fills and escapes."""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} · Mailfold sandbox</title><style>{style}</style></head>
<body><a class="skip" href="#main">Skip to the content</a>
<header class="bar"><a class="home" href="/">Mailfold sandbox</a><nav class="links">{links}</nav></header>
<main class="content" id="main">{body}</main></body></html>
"""
LINK: Final = '<a href="{href}">{text}</a> '

INBOX: Final = """<h1>Inbox</h1>
<p class="soft">{summary}</p>
{listing}
<nav class="pager" aria-label="Pages">{pager}</nav>"""
ROWS: Final = '<ol class="rows">{rows}</ol>'
ROW: Final = """<li><div class="what"><h2 class="title"><a href="/inbox/{number}"><bdi>{subject}</bdi></a></h2>
<p><strong><bdi>{brand}</bdi></strong> <span class="soft"><bdi>{address}</bdi> → <bdi>{recipients}</bdi></span></p>
</div><div>{badge}</div><time datetime="{iso_time}">{time}</time></li>
"""
EMPTY: Final = """<section class="card" aria-labelledby="empty"><h2 id="empty">No message yet</h2>
<p>Every message that the sandbox accepts is shown here. To see one, do either of these, then reload the page:</p>
<ul><li><p>While <code>make up</code> runs, send the example in its folder:</p>
<pre tabindex="0">curl {gateway}/channels/email/batch -H 'Content-Type: application/json' \\
  -H @.mailfold/api-key.header -d @.mailfold/example.json</pre></li>
<li><p>Or send any message by SMTP to <code>{smtp}</code>, with any user name and password.</p></li></ul>
<p>The recipient's address says what happens: <code>anna+open+click@example.test</code> opens the message and follows
its first link, <code>anna+bounce-later@example.test</code> bounces.</p></section>"""
NO_OLDER: Final = '<p class="card">There are no older messages. <a href="/">Show the newest</a></p>'

MESSAGE: Final = """<h1><bdi>{subject}</bdi></h1>
<p>{badge}</p>
<section class="card" aria-label="Summary"><dl class="facts">
<dt>Brand</dt><dd><bdi>{brand}</bdi></dd>
<dt>From</dt><dd><bdi>{header_from}</bdi></dd>
<dt>To</dt><dd><bdi>{header_to}</bdi></dd>
<dt>Envelope</dt><dd><bdi>{sender}</bdi> → <bdi>{recipients}</bdi></dd>
<dt>Received</dt><dd><time datetime="{iso_time}">{time}</time> UTC, {size} bytes, {tls}</dd></dl></section>
<nav class="pager" aria-label="On this page">{contents}</nav>
{sections}
<nav class="pager" aria-label="Other messages">{pager}</nav>"""
SECTION: Final = """<section class="card" id="{id}" aria-labelledby="{id}-title"><h2 id="{id}-title">{title}</h2>
{body}</section>
"""
TEXT: Final = '<pre tabindex="0" dir="auto">{text}</pre>{note}'
CUT: Final = """<p class="soft">Cut here; {count} characters more are in the
<a href="/messages/{number}/raw">raw message</a>.</p>"""
HTML: Final = """<p class="soft">Links do nothing and images are not loaded here, because a loaded tracking pixel would
count as an open. <a href="/inbox/{number}/html">Show the HTML alone</a></p>
<iframe class="mail" sandbox="" referrerpolicy="no-referrer" title="The message as HTML"
src="/inbox/{number}/html"></iframe>
<details><summary>Source of the HTML</summary>{source}</details>"""
EVENTS: Final = """<ol class="timeline">{entries}</ol>{note}
<details><summary>Send an event by hand</summary><pre tabindex="0">curl http://{host}/events \\
  -H 'Content-Type: application/json' -d '{{"message": {number}, "event": "bounce"}}'</pre></details>"""
EVENT: Final = '<li><time class="soft" datetime="{iso_time}">{time}</time> <span>{text}</span></li>'
NOTE: Final = '<p class="soft">{text}</p>'
HEADERS: Final = "<table>{rows}</table>{note}"
HEADER: Final = '<tr><th scope="row">{name}</th><td><bdi>{value}</bdi></td></tr>'
ATTACHMENTS: Final = "<ul>{items}</ul>"
ATTACHMENT: Final = '<li><bdi>{name}</bdi> <span class="soft">{kind}, {size} bytes</span></li>'
BADGE: Final = '<span class="badge {colour}">{state}</span>'
